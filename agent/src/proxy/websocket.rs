//! Where the frames of a WebSocket begin and end (RFC 6455 section 5.2), so that one whose server is lost can
//! be closed in the protocol's own words. Pure.
//!
//! Reads nothing but frames' headers, and only of the half that goes to the client. Between two frames a
//! control frame may stand anywhere, also within a message (section 5.4).

/// Longest header: two bytes, eight of length, four of mask.
const MAX_HEADER: usize = 14;
/// An endpoint is going away, such as a server going down (section 7.4.1).
const GOING_AWAY: u16 = 1001;
/// Final, opcode 8.
const CLOSE: u8 = 0x88;

/// How far a half of a WebSocket has come.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    header: [u8; MAX_HEADER],
    /// Bytes of a header that are here.
    have: usize,
    /// Bytes of a payload that are still to come.
    left: u64,
    /// It was closed: nothing may follow.
    closed: bool,
}

impl Bounds {
    /// Takes in what was passed on.
    pub(crate) fn passed(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            self.header[self.have] = *first;
            self.have += 1;
            bytes = rest;
            if let Some(length) = payload(&self.header[..self.have]) {
                self.closed |= self.header[0] & 0x0F == CLOSE & 0x0F;
                (self.have, self.left) = (0, length);
            }
        }
    }

    /// Whether a frame of ours may follow now.
    pub(crate) fn is_open(&self) -> bool {
        self.have == 0 && self.left == 0 && !self.closed
    }
}

/// How long the payload behind a whole header is. `None`: more of it is to come.
fn payload(header: &[u8]) -> Option<u64> {
    let [_, second, rest @ ..] = header else { return None };
    let (short, mask) = (second & 0x7F, if second & 0x80 == 0 { 0 } else { 4 });
    let extended = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if rest.len() < extended + mask {
        return None;
    }
    let long = rest[..extended].iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
    Some(if extended == 0 { u64::from(short) } else { long })
}

/// The frame that says why it is over. `reason` is cut where a control frame must end.
pub(crate) fn close(reason: &str) -> Vec<u8> {
    let reason = &reason.as_bytes()[..reason.len().min(123)];
    let code = GOING_AWAY.to_be_bytes();
    // Proof: at most 125.
    let mut frame = vec![CLOSE, (code.len() + reason.len()) as u8];
    frame.extend(code);
    frame.extend(reason);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, masked: bool, length: usize) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match length {
            0..126 => bytes.push(mask | length as u8),
            126..65_536 => {
                bytes.push(mask | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(vec![0x88; length + if masked { 4 } else { 0 }]);
        bytes
    }

    #[test]
    fn a_frame_may_follow_exactly_where_one_has_ended() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 70_000] {
            for masked in [false, true] {
                let bytes = frame(0x02, masked, length);
                for piece in [1, 3, 1000, usize::MAX] {
                    let mut bounds = Bounds::default();
                    let mut passed = 0;
                    for part in bytes.chunks(piece.min(bytes.len())) {
                        assert_eq!(bounds.is_open(), passed == 0, "{length} {masked} {passed}");
                        // A mask is of the payload as far as bytes are counted.
                        bounds.passed(part);
                        passed += part.len();
                    }
                    assert!(bounds.is_open(), "{length} {masked} {piece}");
                }
            }
        }
    }

    #[test]
    fn nothing_follows_a_close() {
        let mut bounds = Bounds::default();
        bounds.passed(&close("bye"));
        assert!(!bounds.is_open());
    }

    #[test]
    fn a_close_says_why_within_what_a_control_frame_holds() {
        assert_eq!(close("bye"), [0x88, 5, 0x03, 0xE9, b'b', b'y', b'e']);
        assert_eq!(close(&"x".repeat(500)).len(), 2 + 125);
    }
}
