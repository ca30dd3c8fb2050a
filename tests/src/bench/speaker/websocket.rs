//! The WebSocket echo (RFC 6455): every message comes back as it is, frame by frame.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BytesMut};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What every server appends to the key, RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Longest head and longest frame: the bench sends a kilobyte.
const LONGEST: usize = 64 * 1024;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Serves a connection to its end.
pub(super) async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut held = BytesMut::with_capacity(LONGEST);
    let head = loop {
        if let Some(end) = held.windows(4).position(|four| four == b"\r\n\r\n") {
            break held.split_to(end + 4);
        }
        more(&mut stream, &mut held).await?;
    };
    let Some(key) = key(&String::from_utf8_lossy(&head)) else {
        return stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept(&key)
    );
    stream.write_all(answer.as_bytes()).await?;
    let mut out = Vec::new();
    loop {
        out.clear();
        let mut closed = false;
        while let Some(opcode) = frame(&mut held, &mut out)? {
            closed |= opcode == CLOSE;
        }
        if !out.is_empty() {
            stream.write_all(&out).await?;
        }
        if closed {
            return stream.shutdown().await;
        }
        more(&mut stream, &mut held).await?;
    }
}

async fn more(stream: &mut TcpStream, held: &mut BytesMut) -> io::Result<()> {
    if held.len() > LONGEST {
        return Err(io::Error::other("longer than anything the bench sends"));
    }
    match stream.read_buf(held).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// The key of a request to switch.
fn key(head: &str) -> Option<String> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .map(|(_, value)| value.trim().to_owned())
}

/// The proof that we understood.
fn accept(key: &str) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes()))
}

/// Takes a client's frame off the front, if all of it is there, appends what goes back, and returns what
/// kind of frame it was.
fn frame(held: &mut BytesMut, out: &mut Vec<u8>) -> io::Result<Option<u8>> {
    let [first, second, ..] = held[..] else { return Ok(None) };
    if second & 0x80 == 0 {
        return Err(io::Error::other("a client's frame without a mask"));
    }
    let (head, length) = match second & 0x7f {
        126 if held.len() < 4 => return Ok(None),
        126 => (4, usize::from(u16::from_be_bytes([held[2], held[3]]))),
        127 => return Err(io::Error::other("a frame longer than the bench sends")),
        short => (2, usize::from(short)),
    };
    if held.len() < head + 4 + length {
        return Ok(None);
    }
    let opcode = first & 0x0f;
    let back = if opcode == PING { PONG } else { opcode };
    out.push(first & 0xf0 | back);
    out.push(second & 0x7f);
    out.extend_from_slice(&held[2..head]);
    let mask = [held[head], held[head + 1], held[head + 2], held[head + 3]];
    held.advance(head + 4);
    let payload = held.split_to(length);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    Ok(Some(opcode))
}

#[cfg(test)]
mod tests {
    use super::{BytesMut, PING, accept, frame};

    #[test]
    fn the_standards_example_is_accepted_as_the_standard_says() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_masked_frame_comes_back_unmasked_once_all_of_it_is_there() {
        // "Hello", RFC 6455 section 5.7.
        let all = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let mut out = Vec::new();
        for cut in 0..all.len() {
            assert_eq!(frame(&mut BytesMut::from(&all[..cut]), &mut out).unwrap(), None);
        }
        let mut held = BytesMut::from(&all[..]);
        assert_eq!(frame(&mut held, &mut out).unwrap(), Some(1));
        assert_eq!(out, b"\x81\x05Hello");
        assert!(held.is_empty());
    }

    #[test]
    fn a_ping_is_answered_and_a_frame_without_mask_refused() {
        let mut out = Vec::new();
        let ping = &[0x89, 0x80, 1, 2, 3, 4][..];
        assert_eq!(frame(&mut BytesMut::from(ping), &mut out).unwrap(), Some(PING));
        assert_eq!(out, [0x8a, 0]);
        assert!(frame(&mut BytesMut::from(&[0x81, 0x00][..]), &mut out).is_err());
    }
}
