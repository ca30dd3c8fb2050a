//! Frames of a lane: `[stream, 4 bytes][length, 3 bytes][kind, 1 byte]`, big endian, then the payload.
//!
//! Pure. A frame never spans two TLS records, so that whoever decrypted a record holds whole frames and keeps
//! no parser's state between reads. Kinds that are not known are skipped: a later version may add some.

/// Bytes in front of each payload.
pub(crate) const HEADER: usize = 8;
/// Largest plaintext of one TLS record (RFC 8446 section 5.1).
pub(crate) const MAX_RECORD: usize = 16_384;
/// Largest payload of a frame.
pub(crate) const MAX_PAYLOAD: usize = MAX_RECORD - HEADER;

/// Bytes of a stream. Kinds 0 to 3: with [`FIN`] its last, with [`OPEN`] its first.
pub(crate) const DATA: u8 = 0;
/// The stream ends with this frame.
pub(crate) const FIN: u8 = 1;
/// The stream begins with this frame. Only the dialler opens streams.
pub(crate) const OPEN: u8 = 2;
/// The sender gave the stream up. Payload: one byte, [`ABANDONED`] or [`BUSY`].
pub(crate) const RESET: u8 = 4;
/// The receiver gave the stream up.
pub(crate) const STOP: u8 = 5;
/// The receiver takes so many bytes more. Payload: four bytes.
pub(crate) const WINDOW: u8 = 6;
/// Asks for a sign of life. Payload: a number, eight bytes.
pub(crate) const PING: u8 = 7;
/// Answers a ping with its number.
pub(crate) const PONG: u8 = 8;
/// The first frame of the acceptor. Payload: its generation, eight bytes.
pub(crate) const WELCOME: u8 = 9;
/// The last frame of the connection. Payload: a close code, four bytes, and why.
pub(crate) const CLOSE: u8 = 10;
/// A datagram of the mesh link.
pub(crate) const DATAGRAM: u8 = 11;
/// A message of the mesh link, or with [`MESSAGE_MORE`] a part of one that is not its last.
pub(crate) const MESSAGE: u8 = 12;
pub(crate) const MESSAGE_MORE: u8 = 13;

/// [`RESET`] because the sender was dropped.
pub(crate) const ABANDONED: u8 = 0;
/// [`RESET`] because too many streams are open.
pub(crate) const BUSY: u8 = 1;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) stream: u32,
    pub(crate) length: usize,
    pub(crate) kind: u8,
}

impl Header {
    pub(crate) fn bytes(self) -> [u8; HEADER] {
        let [a, b, c, d] = self.stream.to_be_bytes();
        // Proof: payloads are cut at MAX_PAYLOAD, far below 2^24.
        let [_, x, y, z] = (self.length as u32).to_be_bytes();
        [a, b, c, d, x, y, z, self.kind]
    }

    /// Whether it carries bytes of a stream.
    pub(crate) fn is_data(self) -> bool {
        self.kind <= DATA | FIN | OPEN
    }

    fn read(bytes: [u8; HEADER]) -> Self {
        let [a, b, c, d, x, y, z, kind] = bytes;
        Self {
            stream: u32::from_be_bytes([a, b, c, d]),
            length: usize::from(x) << 16 | usize::from(y) << 8 | usize::from(z),
            kind,
        }
    }
}

/// A record's plaintext that is not a sequence of whole frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record does not end with a frame")]
pub(crate) struct Torn;

/// The frames of one record: headers, and where in the record their payloads begin.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    record: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    pub(crate) fn new(record: &'a [u8]) -> Self {
        Self { record, at: 0 }
    }
}

impl Iterator for Frames<'_> {
    type Item = Result<(Header, usize), Torn>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.record[self.at..];
        if rest.is_empty() {
            return None;
        }
        let Some(header) = rest.first_chunk::<HEADER>().copied().map(Header::read) else {
            self.at = self.record.len();
            return Some(Err(Torn));
        };
        let payload = self.at + HEADER;
        if header.length > rest.len() - HEADER {
            self.at = self.record.len();
            return Some(Err(Torn));
        }
        self.at = payload + header.length;
        Some(Ok((header, payload)))
    }
}

/// A number out of a payload of exactly so many bytes.
pub(crate) fn number<const N: usize>(payload: &[u8]) -> Option<[u8; N]> {
    payload.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record of frames that say how long they are, and some of them wrongly.
    fn record() -> impl Strategy<Value = Vec<u8>> {
        let frame = (
            any::<u32>(),
            0..60_usize,
            any::<u8>(),
            prop_oneof![9 => Just(0_usize), 1 => 0..70_000_usize],
        );
        let frames = prop::collection::vec(frame, 0..20);
        (frames, any::<prop::sample::Index>(), prop::bool::weighted(0.3)).prop_map(
            |(frames, at, torn)| {
                let mut record = Vec::new();
                for (stream, length, kind, wrong) in frames {
                    record.extend(Header { stream, length: length + wrong, kind }.bytes());
                    record.resize(record.len() + length, kind);
                }
                if torn {
                    record.truncate(at.index(record.len() + 1));
                }
                record
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_is_whole_frames_one_behind_the_other_or_torn(record in record()) {
            let (mut at, mut torn) = (0, false);
            for frame in Frames::new(&record) {
                prop_assert!(!torn, "it goes on behind what is torn");
                match frame {
                    Ok((header, payload)) => {
                        prop_assert_eq!(payload, at + HEADER);
                        at = payload + header.length;
                        prop_assert!(at <= record.len());
                        prop_assert_eq!(&header.bytes()[..], &record[payload - HEADER..payload]);
                    }
                    Err(Torn) => torn = true,
                }
            }
            prop_assert_eq!(torn, at < record.len());
        }

        #[test]
        fn any_bytes_are_a_record_or_torn(record in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Frames::new(&record).count() <= record.len() / HEADER + 1);
        }
    }
}
