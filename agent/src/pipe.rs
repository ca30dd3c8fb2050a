//! Byte streams of this host: where an application listens, a connection to it, a client's connection.
//!
//! Applications listen on a port or on a Unix socket; clients come by a port, or by a tunnel through one
//! of our proxies. What carries bytes between the two need not know which it has.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Longest path of a Unix socket: `sun_path` has 108 bytes, the last of them 0 (unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;
/// Precedes the path of a socket, where a port's address could stand as well.
pub const UNIX: &str = "unix:";

/// Where an application of this host listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AppAddress {
    /// On a port.
    Port(SocketAddr),
    /// On a Unix socket; an absolute path.
    Socket(PathBuf),
}

impl fmt::Display for AppAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(address) => address.fmt(f),
            Self::Socket(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl From<SocketAddr> for AppAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Port(address)
    }
}

impl From<&Path> for AppAddress {
    fn from(path: &Path) -> Self {
        Self::Socket(path.to_owned())
    }
}

impl AppAddress {
    /// A connection to the application. Without a time limit.
    pub async fn connect(&self) -> io::Result<Pipe> {
        match self {
            Self::Port(address) => {
                let stream = TcpStream::connect(address).await?;
                // What an application or a client wrote is passed on whole; waiting only delays it.
                let _ = stream.set_nodelay(true);
                Ok(Pipe::Tcp(stream))
            }
            Self::Socket(path) => UnixStream::connect(path).await.map(Pipe::Unix),
        }
    }

    /// What stands for the host where HTTP wants one and nobody named it.
    pub fn host(&self) -> String {
        match self {
            Self::Port(address) => address.to_string(),
            Self::Socket(_) => "localhost".to_owned(),
        }
    }
}

/// Any two-way stream of bytes.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A two-way stream of bytes on this host.
pub enum Pipe {
    /// A connection on a port.
    Tcp(TcpStream),
    /// A connection on a Unix socket.
    Unix(UnixStream),
    /// What a client sends through a tunnel.
    Tunnel(Box<dyn Duplex>),
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Tcp",
            Self::Unix(_) => "Unix",
            Self::Tunnel(_) => "Tunnel",
        })
    }
}

impl Pipe {
    /// Has the drop of a broken connection look broken to the other side, where that can be done: without
    /// a word it would look like an orderly end.
    pub fn abort(&self) {
        if let Self::Tcp(stream) = self {
            let _ = stream.set_zero_linger();
        }
    }

    /// Returns when the other side has broken it off, where that can be known without reading: a reset. An
    /// end of what it says is none; it may still want to hear.
    pub fn broken(&self) -> impl Future<Output = ()> + Send + '_ {
        let stream = match self {
            Self::Tcp(stream) => Some(stream),
            Self::Unix(_) | Self::Tunnel(_) => None,
        };
        async move {
            match stream {
                Some(stream) => broken(stream).await,
                None => std::future::pending().await,
            }
        }
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut dyn Duplex> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream),
            Self::Unix(stream) => Pin::new(stream),
            Self::Tunnel(stream) => Pin::new(stream),
        }
    }
}

/// Returns when the other side has reset the connection.
pub async fn broken(stream: &TcpStream) {
    // The kernel tells of it whatever was sent before and is not read yet.
    if stream.ready(Interest::ERROR).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A pipe whose end has to be said: dropped before [`Whole::ended`], it looks broken to the other side.
/// Whoever takes what was cut off for whole has been told something that is not true.
#[derive(Debug)]
pub struct Whole {
    pipe: Pipe,
    ended: bool,
}

impl Whole {
    /// A pipe that has not ended.
    pub fn new(pipe: Pipe) -> Self {
        Self { pipe, ended: false }
    }

    /// The pipe.
    pub fn pipe(&mut self) -> &mut Pipe {
        &mut self.pipe
    }

    /// Both halves have ended in good order.
    pub fn ended(mut self) {
        self.ended = true;
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if !self.ended {
            self.pipe.abort();
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tunnel(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(cx, bufs)
    }
}
