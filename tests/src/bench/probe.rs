//! One plain request, to see whether and what a pair answers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The body of a 200 answer with a stated length.
///
/// # Errors
/// In words: what came instead.
pub fn fetch(target: SocketAddr, path: &str, patience: Duration) -> Result<Vec<u8>, String> {
    let bytes = ask(target, path, patience).map_err(|e| format!("GET {path} at {target}: {e}"))?;
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let head = String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned();
    let status = head.lines().next().unwrap_or("nothing at all");
    let (true, Some(end)) = (status.starts_with("HTTP/1.1 200"), end) else {
        return Err(format!("GET {path} at {target}: {status}"));
    };
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
    let body = bytes[end + 4..].to_vec();
    match length.and_then(|text| text.trim().parse::<usize>().ok()) {
        Some(length) if length == body.len() => Ok(body),
        _ => Err(format!("GET {path} at {target}: {} bytes of body after {head:?}", body.len())),
    }
}

fn ask(target: SocketAddr, path: &str, patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&target, patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}
