//! WebSocket as the client speaks it: the handshake, one message, its echo.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Bytes of a message.
const MESSAGE: u16 = 1024;
/// The standard's example: any key will do for a peer that is trusted.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What the server has to make of it.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// An answer to the handshake is shorter.
const HEAD: usize = 8 * 1024;
const LENGTH: [u8; 2] = MESSAGE.to_be_bytes();
/// A final frame of binary data, length in two bytes.
const FRAME: [u8; 4] = [0x82, 126, LENGTH[0], LENGTH[1]];

/// The message, as a client has to send it: masked.
pub(super) fn message() -> Vec<u8> {
    let mask = [0x5a, 0xa5, 0x3c, 0xc3];
    let mut bytes = vec![FRAME[0], FRAME[1] | 0x80, FRAME[2], FRAME[3]];
    bytes.extend(mask);
    bytes.extend(mask.iter().cycle().take(MESSAGE.into()).map(|mask| mask ^ b'm'));
    bytes
}

/// Switches a new connection, which blocks, to WebSocket.
pub(super) fn greet(stream: &mut TcpStream) -> io::Result<()> {
    let request = format!(
        "GET /echo HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    let mut byte = [0];
    // Byte by byte: what follows the head is not ours to read here. Nothing counts yet.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD || stream.read(&mut byte)? == 0 {
            let head = String::from_utf8_lossy(&head);
            return Err(io::Error::other(format!("not the end of an answer: {head:?}")));
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    match head.starts_with("HTTP/1.1 101") && head.contains(ACCEPT) {
        true => Ok(()),
        false => Err(io::Error::other(format!("does not switch to WebSocket: {head:?}"))),
    }
}

/// Whether a new connection carries a WebSocket message there and back.
///
/// # Errors
/// What came instead.
pub fn probe(mut stream: TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(patience))?;
    greet(&mut stream)?;
    stream.write_all(&message())?;
    let mut echo = Echo::default();
    let mut buffer = [0; HEAD];
    loop {
        let read = match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => read,
        };
        if echo.take(&buffer[..read]).map_err(io::Error::other)? {
            return Ok(());
        }
    }
}

/// The echo of the message as it arrives.
#[derive(Debug, Default)]
pub(super) struct Echo {
    /// Bytes of the frame so far.
    came: usize,
}

impl Echo {
    /// Takes what was received. `Ok(true)`: this was the end of the echo.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<bool, String> {
        const WHOLE: usize = FRAME.len() + MESSAGE as usize;
        let head = FRAME.iter().skip(self.came);
        let mut payload = bytes.iter().skip(FRAME.len().saturating_sub(self.came));
        if head.zip(bytes).any(|(want, is)| want != is) || payload.any(|&byte| byte != b'm') {
            return Err("a frame that is not the echo".to_owned());
        }
        self.came += bytes.len();
        match self.came {
            WHOLE => Ok(true),
            0..WHOLE => Ok(false),
            _ => Err("more than was sent".to_owned()),
        }
    }

    /// Ready for the next echo.
    pub(super) fn reset(&mut self) {
        self.came = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{Echo, FRAME, MESSAGE};

    #[test]
    fn an_echo_is_complete_at_its_last_byte_however_it_is_cut() {
        let all = [&FRAME[..], &[b'm'; MESSAGE as usize]].concat();
        for piece in 1..all.len() {
            let mut echo = Echo::default();
            let mut pieces = all.chunks(piece).peekable();
            while let Some(piece) = pieces.next() {
                assert_eq!(echo.take(piece), Ok(pieces.peek().is_none()));
            }
        }
        let mut changed = all.clone();
        changed[700] = b'x';
        assert!(Echo::default().take(&changed).is_err());
        assert!(Echo::default().take(&[&all[..], b"m"].concat()).is_err());
        assert!(Echo::default().take(b"\x88").is_err());
    }
}
