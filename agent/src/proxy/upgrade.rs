//! Connections that become another protocol's: HTTP/1.1 `Upgrade` (RFC 9110 section 7.8) and extended
//! CONNECT of HTTP/2 (RFC 8441), WebSocket above all.
//!
//! Among agents both are one thing: a request whose head carries the token, an answer with status 101, and
//! bytes both ways in frames from then on, each half ended by itself. What differs between the two forms is
//! put on and taken off at the edges: where one side has no `Sec-WebSocket-Key` and the other insists on it,
//! the agent beside that side makes it up and checks or answers it.
//!
//! A request that was let is never sent again. When its peer is lost the client is told at once: a WebSocket
//! is closed in its own words where a frame of ours may stand, whatever else is broken off. Aborting either
//! task closes both sides.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use hearth_proto::ids::EndpointId;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Inner;
use super::application::pipe_of;
use super::attempt::Answer;
use super::frame::{self, Frame, FrameError, Frames};
use super::guard::Control;
use super::headers::has_token;
use super::load::UnderWay;
use super::tcp::lost;
use super::websocket::{self, Bounds};
use crate::counted::Counted;
use crate::link::{InFlight, Sender, StreamError};
use crate::pipe::{Pipe, Whole};

/// The token of WebSocket, in both forms.
const WEBSOCKET: &str = "websocket";
/// Read of a connection at once.
const COPY: usize = 16 * 1024;
/// A client that was told that it is over has so long to read it.
const LINGER: Duration = Duration::from_secs(1);
/// What it is told.
const LOST: &str = "hearth: the connection to the host was lost";
/// Longest token that is passed on: its length is one byte among agents.
const MAX_TOKEN: usize = 255;

/// How the client asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Http1,
    Http2,
}

/// A client's wish to speak another protocol.
pub(crate) struct Asked {
    /// The protocol, as the client has it.
    pub(crate) token: String,
    form: Form,
    /// The key of its WebSocket, if it sent one.
    key: Option<HeaderValue>,
    on: OnUpgrade,
}

/// What a client asks for beside an answer, if anything. A wish that cannot be granted is left out: an
/// answer in HTTP is always right (RFC 9110 section 7.8).
pub(crate) fn asked(request: &mut Request<Incoming>) -> Option<Asked> {
    let (token, form) = if request.version() == Version::HTTP_2 {
        let protocol = request.extensions().get::<hyper::ext::Protocol>()?;
        (protocol.as_str().to_owned(), Form::Http2)
    } else if request.version() != Version::HTTP_11 {
        // RFC 9110 section 7.8: in a request of HTTP/1.0 it is ignored.
        return None;
    } else {
        let wished = request.headers().get(UPGRADE)?.to_str().ok()?.trim().to_owned();
        let plain = hyper::body::Body::is_end_stream(request.body());
        // HTTP/2 by upgrade is obsolete (RFC 9113 section 3.1).
        let h2c = wished.eq_ignore_ascii_case("h2c");
        if !has_token(request.headers(), CONNECTION, "upgrade") || !plain || h2c {
            return None;
        }
        (wished, Form::Http1)
    };
    if token.is_empty() || token.len() > MAX_TOKEN {
        return None;
    }
    let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
    if form == Form::Http2 {
        *request.method_mut() = Method::GET;
        request.headers_mut().remove(SEC_WEBSOCKET_KEY);
    }
    Some(Asked { token, form, key, on: hyper::upgrade::on(request) })
}

/// The bytes behind an answer that let the client have its way.
pub(crate) enum Tunnel {
    /// To the application of this endpoint of ours, which is not idle meanwhile.
    Local(Upgraded, Arc<Inner>, EndpointId, Option<Counted>),
    /// To a peer.
    Remote(Box<Carried>),
}

/// A stream that carries another protocol, and what is held as long as it does.
pub(crate) struct Carried {
    pub(crate) send: Sender,
    pub(crate) frames: Frames,
    pub(crate) guard: Option<InFlight>,
    pub(crate) _under_way: UnderWay,
}

/// Lets the client have its way: makes the answer one to it, and copies from then on in a task.
pub(crate) fn accept(
    asked: Asked,
    answer: &mut Answer,
    tunnel: Tunnel,
    count: &Arc<AtomicUsize>,
    control: &Arc<Control>,
) {
    let headers = &mut answer.headers;
    headers.remove(CONTENT_LENGTH);
    match asked.form {
        Form::Http1 => {
            answer.status = StatusCode::SWITCHING_PROTOCOLS;
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            if !headers.contains_key(UPGRADE)
                && let Ok(token) = HeaderValue::try_from(&asked.token)
            {
                headers.insert(UPGRADE, token);
            }
            if let Some(key) = &asked.key
                && is_websocket(&asked.token)
                && !headers.contains_key(SEC_WEBSOCKET_ACCEPT)
            {
                headers.insert(SEC_WEBSOCKET_ACCEPT, accept_of(key));
            }
        }
        Form::Http2 => {
            answer.status = StatusCode::OK;
            for name in [UPGRADE, CONNECTION, SEC_WEBSOCKET_ACCEPT] {
                headers.remove(name);
            }
        }
    }
    let counted = Counted::new(count);
    let bounds = is_websocket(&asked.token).then(Bounds::default);
    // The connection of a client of HTTP/2 carries other requests; its stream is reset by hyper.
    let control = (asked.form == Form::Http1).then(|| control.clone());
    tokio::spawn(async move {
        // A client that left before it read the answer: dropping the tunnel tells the other side.
        if let Ok(client) = asked.on.await {
            let mut client = Pipe::Tunnel(Box::new(TokioIo::new(client)));
            let whole = run(&mut client, tunnel, bounds).await;
            if let Some(control) = control.filter(|_| !whole) {
                control.broke();
            }
        }
        drop(counted);
    });
}

/// Copies until it is over. `false`: it broke off, and the client was not told.
async fn run(client: &mut Pipe, tunnel: Tunnel, mut bounds: Option<Bounds>) -> bool {
    match tunnel {
        Tunnel::Local(application, inner, id, _under_way) => {
            let (application, ahead) = pipe_of(application);
            let carried = carry(client, Whole::new(application), &ahead);
            let Ok(carried) = inner.under_lease(&id, carried).await else { return false };
            carried
                .inspect_err(|error| tracing::trace!(%error, "upgraded connection broke"))
                .is_ok()
        }
        Tunnel::Remote(carried) => {
            let Carried { mut send, frames, guard, _under_way } = *carried;
            let copied = tokio::select! {
                biased;
                copied = copy_both(client, Bytes::new(), &mut send, frames, &mut bounds) => copied,
                () = lost(guard.as_ref()) => Err(Ended::Lost),
            };
            let Err(error) = copied else { return true };
            tracing::trace!(%error, "upgraded connection broke");
            send.abandon();
            drop(guard);
            matches!(error, Ended::Lost) && said_farewell(client, bounds.as_ref()).await
        }
    }
}

/// Copies between a client and an application of this host until both halves have ended. What breaks at the
/// client breaks at the application. `ahead` was read of the application already.
async fn carry(client: &mut Pipe, mut application: Whole, ahead: &[u8]) -> std::io::Result<()> {
    client.write_all(ahead).await?;
    tokio::io::copy_bidirectional(client, application.pipe()).await?;
    application.ended();
    Ok(())
}

/// Closes a WebSocket whose server is lost, in its own words. `false`: none can be said.
async fn said_farewell(client: &mut Pipe, bounds: Option<&Bounds>) -> bool {
    if !bounds.is_some_and(Bounds::is_open) {
        return false;
    }
    let said = async {
        client.write_all(&websocket::close(LOST)).await?;
        client.shutdown().await
    };
    if !matches!(timeout(LINGER, said).await, Ok(Ok(()))) {
        return false;
    }
    // Closed with something of the client's unread, the connection would be reset and this unsaid.
    let _ = timeout(LINGER, tokio::io::copy(client, &mut tokio::io::sink())).await;
    true
}

/// Copies between a connection and a stream until both halves have ended or one has broken, which breaks the
/// other. `ahead` was read of the connection already.
pub(crate) async fn exchange(pipe: Pipe, ahead: Bytes, send: &mut Sender, frames: Frames) {
    let mut whole = Whole::new(pipe);
    match copy_both(whole.pipe(), ahead, send, frames, &mut None).await {
        Ok(()) => whole.ended(),
        Err(error) => {
            tracing::trace!(%error, "upgraded connection broke");
            send.abandon();
        }
    }
}

/// `bounds` follows what is written to the pipe. It is gone while a piece is under way.
async fn copy_both(
    pipe: &mut Pipe,
    ahead: Bytes,
    send: &mut Sender,
    mut frames: Frames,
    bounds: &mut Option<Bounds>,
) -> Result<(), Ended> {
    let (mut read, mut write) = tokio::io::split(pipe);
    let out = async {
        let mut buffer = BytesMut::new();
        let mut pieces = Vec::new();
        frame::data(&mut pieces, ahead);
        loop {
            send.write_all_chunks(&mut pieces).await?;
            pieces.clear();
            buffer.reserve(COPY);
            if read.read_buf(&mut buffer).await? == 0 {
                break;
            }
            frame::data(&mut pieces, buffer.split().freeze());
        }
        send.write_chunk(frame::end()).await?;
        send.finish();
        Ok::<_, Ended>(())
    };
    let back = async {
        loop {
            match frames.next().await? {
                Frame::Data(bytes) => {
                    let followed = bounds.take();
                    write.write_all(&bytes).await?;
                    *bounds = followed.map(|mut bounds| {
                        bounds.passed(&bytes);
                        bounds
                    });
                }
                Frame::End => return Ok(write.shutdown().await?),
                _ => return Err(FrameError::Malformed("something else within a tunnel").into()),
            }
        }
    };
    tokio::try_join!(out, back).map(drop)
}

/// Why bytes are no longer copied.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the peer is lost")]
    Lost,
}

fn is_websocket(token: &str) -> bool {
    token.eq_ignore_ascii_case(WEBSOCKET)
}

/// A request to an application, made one that asks to upgrade. `Some`: the key that was made up for it.
pub(crate) fn ask(headers: &mut HeaderMap, token: &str) -> Option<HeaderValue> {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(token) = HeaderValue::try_from(token) {
        headers.insert(UPGRADE, token);
    }
    if !is_websocket(token) || headers.contains_key(SEC_WEBSOCKET_KEY) {
        return None;
    }
    let nonce: [u8; 16] = rand::random();
    let key = base64::engine::general_purpose::STANDARD.encode(nonce);
    // base64 is visible ASCII.
    let key = HeaderValue::try_from(key).ok()?;
    headers.insert(SEC_WEBSOCKET_KEY, key.clone());
    Some(key)
}

/// Whether an application's 101 answers the key that was made up for it. The answer to it is removed.
pub(crate) fn is_answer_to(key: &HeaderValue, headers: &mut HeaderMap) -> bool {
    headers.remove(SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| accept == accept_of(key))
}

/// RFC 6455 section 4.2.2.
fn accept_of(key: &HeaderValue) -> HeaderValue {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let text = [key.as_bytes(), GUID].concat();
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &text);
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    HeaderValue::try_from(accept).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The field that has to survive on the way back although it is of one hop.
pub(crate) const TOKEN: HeaderName = UPGRADE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_rfc_6455_has_it() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept_of(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_made_up_only_where_there_is_none_and_its_answer_is_checked() {
        let mut headers = HeaderMap::new();
        let key = ask(&mut headers, "WebSocket").unwrap();
        assert_eq!(headers[SEC_WEBSOCKET_KEY], key);
        assert_eq!(headers[CONNECTION], "upgrade");
        let mut answer = HeaderMap::from_iter([(SEC_WEBSOCKET_ACCEPT, accept_of(&key))]);
        assert!(is_answer_to(&key, &mut answer));
        assert!(answer.is_empty());
        assert!(!is_answer_to(&key, &mut answer));
        assert!(ask(&mut headers, "websocket").is_none());
        assert!(ask(&mut HeaderMap::new(), "other").is_none());
    }
}
