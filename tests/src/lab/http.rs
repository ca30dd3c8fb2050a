//! The smallest HTTP client that asks an admin socket or a health check one question.
//!
//! HTTP/1.0, one request per connection, blocking with a timeout: the answer ends where the
//! connection does, so there is nothing to parse but the status and where the body starts. Load is
//! made elsewhere, with a real client.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its headers, as sent.
    pub head: String,
    /// Its body.
    pub body: String,
}

/// What one question may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks over a unix socket.
///
/// # Errors
/// Whatever the socket says, or that the answer was none.
pub fn ask_unix(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ask(stream, method, path, body)
}

/// Asks over TCP, from the calling thread's namespace.
///
/// # Errors
/// Whatever the socket says, or that the answer was none.
pub fn ask_tcp(address: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ask(stream, method, path, body)
}

fn ask<S: Read + Write>(mut to: S, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let length = body.len();
    write!(
        to,
        "{method} {path} HTTP/1.0\r\nhost: lab\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )?;
    let mut bytes = Vec::new();
    to.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let broken = || io::Error::other(format!("not an HTTP answer: {:.80}", text));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    Ok(Answer { status: status.ok_or_else(broken)?, head: head.to_owned(), body: body.to_owned() })
}
