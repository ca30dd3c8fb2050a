//! gRPC as far as the bench needs it, for its client and its application alike: the service's paths, the
//! framing of messages, status in trailers. The official implementations are for the conformance tests;
//! here a call should cost as little as possible outside of the pair that is measured.

use std::future::poll_fn;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue};

/// One message there, one of [`MESSAGE`] bytes back.
pub const UNARY: &str = "/bench.Speaker/Unary";
/// One message there that says how many shall come back.
pub const STREAM: &str = "/bench.Speaker/Stream";
/// Every message comes back as it is.
pub const ECHO: &str = "/bench.Speaker/Echo";
/// Bytes of a message.
pub const MESSAGE: usize = 1024;
/// Value of `content-type`.
pub const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// Trailer with the outcome of a call.
pub const STATUS: &str = "grpc-status";

/// Not compressed, and the length.
const PREFIX: usize = 5;
/// Receive windows: larger than anything that is under way, so that they limit nobody.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Streams at once on a connection.
const STREAMS: u32 = 1000;

/// A message with its prefix.
#[must_use]
pub fn framed(payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX + payload.len());
    bytes.put_u8(0);
    // Messages of the bench are of a kilobyte.
    bytes.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    bytes.put_slice(payload);
    bytes.freeze()
}

/// Trailers that say so.
#[must_use]
pub fn trailers(status: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static(STATUS),
        HeaderValue::from_static(status),
    )])
}

/// The bench's side of a server connection.
#[must_use]
pub fn server() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS);
    builder
}

/// The bench's side of a client connection.
#[must_use]
pub fn client() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_push(false);
    builder
}

/// Sends as much at a time as the other side takes.
///
/// # Errors
/// In words: how the stream ended.
pub async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), String> {
    while data.has_remaining() {
        stream.reserve_capacity(data.len());
        let room = match stream.capacity() {
            0 => match poll_fn(|context| stream.poll_capacity(context)).await {
                Some(room) => room.map_err(|e| e.to_string())?,
                None => return Err("reset while it was sent to".to_owned()),
            },
            room => room,
        };
        let some = data.split_to(room.min(data.len()));
        stream.send_data(some, false).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// The messages on a stream, one after the other.
#[derive(Debug)]
pub struct Messages {
    body: RecvStream,
    /// What came and is no whole message yet.
    held: BytesMut,
}

impl Messages {
    /// Of this body.
    #[must_use]
    pub fn new(body: RecvStream) -> Self {
        Self { body, held: BytesMut::new() }
    }

    /// The next message, without its prefix. `None`: the other side has said all.
    ///
    /// # Errors
    /// In words: how the stream broke, or what is no message.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(message) = whole(&mut self.held)? {
                return Ok(Some(message));
            }
            match self.body.data().await {
                Some(Ok(data)) => {
                    self.held.extend_from_slice(&data);
                    let room = self.body.flow_control().release_capacity(data.len());
                    room.map_err(|e| e.to_string())?;
                }
                Some(Err(error)) => return Err(error.to_string()),
                None if self.held.is_empty() => return Ok(None),
                None => return Err("ended within a message".to_owned()),
            }
        }
    }

    /// After the last message: whether the call went well.
    ///
    /// # Errors
    /// In words: how it did not.
    pub async fn status(&mut self) -> Result<(), String> {
        let trailers = self.body.trailers().await.map_err(|e| e.to_string())?;
        match trailers.as_ref().and_then(|trailers| trailers.get(STATUS)) {
            Some(status) if status == "0" => Ok(()),
            other => Err(format!("ended with {STATUS} {other:?}")),
        }
    }
}

/// Takes a message off the front, if all of it is there.
fn whole(held: &mut BytesMut) -> Result<Option<Bytes>, String> {
    if held.len() < PREFIX {
        return Ok(None);
    }
    if held[0] != 0 {
        return Err("a compressed message, which nobody asked for".to_owned());
    }
    let length = u32::from_be_bytes([held[1], held[2], held[3], held[4]]) as usize;
    if length > MESSAGE {
        return Err(format!("a message of {length} bytes, which nobody asked for"));
    }
    if held.len() < PREFIX + length {
        return Ok(None);
    }
    held.advance(PREFIX);
    Ok(Some(held.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::{BytesMut, MESSAGE, framed, whole};

    #[test]
    fn a_message_is_whole_at_its_last_byte_and_leaves_what_follows() {
        let all = [&framed(b"hello")[..], &framed(b"")[..]].concat();
        for cut in 0..10 {
            assert_eq!(whole(&mut BytesMut::from(&all[..cut])), Ok(None), "{cut}");
        }
        let mut held = BytesMut::from(&all[..]);
        assert_eq!(whole(&mut held).unwrap().unwrap(), "hello");
        assert_eq!(whole(&mut held).unwrap().unwrap(), "");
        assert!(held.is_empty());
    }

    #[test]
    fn what_nobody_asked_for_is_no_message() {
        assert!(whole(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).is_err());
        assert!(whole(&mut BytesMut::from(&framed(&[0; MESSAGE + 1])[..])).is_err());
    }
}
