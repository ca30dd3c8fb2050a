//! Messages tampered with, byte by byte and line by line.

use super::dice::Dice;

/// Bytes that parsers have disagreed about.
const NASTY: &[&[u8]] = &[
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\r\r\n",
    b" ",
    b"\t",
    b"\x0b",
    b"\x0c",
    b":",
    b";",
    b",",
    b"\"",
    b"\\",
    b"#",
    b"?",
    b"%",
    b"/",
    b"//",
    b"/./",
    b"<",
    b">",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xc3\xa9",
    b"0",
    b"+",
    b"-",
    b"\x1b",
    b"@",
    b"\r\n ",
    b"\r\n\t",
    b"0\r\n\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: other\r\n",
    b"Connection: close\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
];

/// Changes `bytes` in a few places.
pub(super) fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.below(3) {
        once(dice, bytes);
    }
}

fn once(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let at = dice.below(bytes.len() + 1);
    let until = (at + 1 + dice.below(12)).min(bytes.len());
    match dice.below(11) {
        0 | 1 => drop(bytes.splice(at..at, dice.pick(NASTY).iter().copied())),
        2 => drop(bytes.drain(at..until)),
        3 => {
            let again = bytes[at..until].to_vec();
            drop(bytes.splice(at..at, again));
        }
        4 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
        5 if at < bytes.len() => bytes[at] = dice.byte(),
        6 => bytes.truncate(at),
        7 => line_end(dice, bytes),
        8 => {
            let from = dice.below(bytes.len() + 1);
            let other = bytes[from..].to_vec();
            bytes.truncate(at);
            bytes.extend(other);
        }
        9 if at < bytes.len() => drop(bytes.splice(at..until, dice.pick(NASTY).iter().copied())),
        _ => drop(bytes.splice(at..at, vec![dice.pick(b" \t\0x0\r\n"); dice.size() / 4])),
    }
}

/// Ends one line otherwise than with CR LF.
fn line_end(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let ends: Vec<usize> =
        bytes.windows(2).enumerate().filter(|(_, w)| *w == b"\r\n").map(|(n, _)| n).collect();
    if ends.is_empty() {
        return;
    }
    let at = dice.pick(&ends);
    let other: &[u8] = dice.pick(&[
        b"\n",
        b"\r",
        b"\r\r\n",
        b"\n\r",
        b"\r\n\r\n",
        b"\r\n ",
        b"",
        b"\0\r\n",
        b" \r\n",
    ]);
    drop(bytes.splice(at..at + 2, other.iter().copied()));
}
