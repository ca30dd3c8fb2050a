//! Datagrams on a stream: each as two bytes of length, big endian, and itself.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::link::Receiver;

/// Largest piece of a stream that is read at once.
const PIECE: usize = 64 * 1024;

/// Appends a datagram as it travels.
pub(super) fn put(batch: &mut BytesMut, datagram: &[u8]) {
    // A datagram is never longer: its own header counts its length in two bytes.
    let length = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
    batch.reserve(2 + datagram.len());
    batch.put_u16(length);
    batch.put_slice(&datagram[..length.into()]);
}

/// Datagrams as they come on a stream.
pub(super) struct Pieces {
    buffer: BytesMut,
    recv: Receiver,
}

impl Pieces {
    pub(super) fn new(ahead: &Bytes, recv: Receiver) -> Self {
        Self { buffer: BytesMut::from(&ahead[..]), recv }
    }

    /// The next one; `None` when the stream has ended or is broken.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(datagram) = whole(&mut self.buffer) {
                return Some(datagram);
            }
            let piece = self.recv.read_chunk(PIECE).await.ok()??;
            self.buffer.extend_from_slice(&piece);
        }
    }
}

/// Takes a datagram out of `buffer` if one is there whole.
fn whole(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = usize::from(u16::from_be_bytes([*buffer.first()?, *buffer.get(1)?]));
    if buffer.len() < 2 + length {
        return None;
    }
    buffer.advance(2);
    Some(buffer.split_to(length).freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_travel_with_their_length_and_empty_ones_are_datagrams_too() {
        let mut wire = BytesMut::new();
        let datagrams: [&[u8]; 4] = [b"abc", b"", &[7; 65_535], b"x"];
        datagrams.iter().for_each(|d| put(&mut wire, d));
        // They come in pieces of any size.
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for piece in wire.chunks(1000) {
            buffer.extend_from_slice(piece);
            while let Some(datagram) = whole(&mut buffer) {
                found.push(datagram);
            }
        }
        assert_eq!(found, datagrams);
        assert!(buffer.is_empty());
    }
}
