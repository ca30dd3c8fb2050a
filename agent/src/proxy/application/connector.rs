//! How hyper's client reaches an application: the authority of a request's URI says where it listens.
//!
//! A port is written as itself. A socket's path does not fit into an authority, so it is written in
//! hexadecimal behind [`SOCKET`]; no address of a port looks like that.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Uri;
use hyper::upgrade::Upgraded;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tower_service::Service;

use super::super::Inner;
use super::CONNECT_LIMIT;
use crate::pipe::{AppAddress, Pipe};

const SOCKET: &str = "socket-";

/// The authority that stands for an application.
pub(super) fn authority(address: &AppAddress) -> String {
    match address {
        AppAddress::Port(address) => address.to_string(),
        AppAddress::Socket(path) => {
            let bytes = path.as_os_str().as_bytes().iter();
            bytes.fold(SOCKET.to_owned(), |text, byte| text + &format!("{byte:02x}"))
        }
    }
}

fn address(authority: &str) -> Option<AppAddress> {
    let Some(hex) = authority.strip_prefix(SOCKET) else {
        return authority.parse().ok().map(AppAddress::Port);
    };
    let bytes = (0..hex.len())
        .step_by(2)
        .map(|i| hex.get(i..i + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect::<Option<Vec<u8>>>()?;
    Some(AppAddress::Socket(PathBuf::from(OsString::from_vec(bytes))))
}

/// Connects to applications.
#[derive(Clone, Debug, Default)]
pub(super) struct Connector {
    pub(super) gate: Gate,
}

/// Asked before each write to an application: hyper's connections have tasks of their own, and hold requests that
/// were handed to them before this agent was stopped.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<OnceLock<Weak<Inner>>>);

impl Gate {
    /// Has `inner` say who may be written to.
    pub(super) fn set(&self, inner: Weak<Inner>) {
        // Set once, when the traffic path is made.
        let _ = self.0.set(inner);
    }

    fn is_open(&self, address: &AppAddress) -> io::Result<()> {
        match self.0.get().and_then(Weak::upgrade) {
            Some(inner) if !inner.may_reach(address) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the lease is over"))
            }
            _ => Ok(()),
        }
    }
}

impl Service<Uri> for Connector {
    type Response = AppConnection;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<AppConnection>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let address = uri.authority().and_then(|a| address(a.as_str()));
        let gate = self.gate.clone();
        Box::pin(async move {
            // Never so: the URIs are made here.
            let address = address.ok_or_else(|| io::Error::other("no address in the URI"))?;
            match timeout(CONNECT_LIMIT, address.connect()).await {
                Ok(connected) => {
                    connected.map(|pipe| AppConnection { io: TokioIo::new(pipe), address, gate })
                }
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }
}

/// A connection as hyper's pool wants it.
pub(super) struct AppConnection {
    io: TokioIo<Pipe>,
    address: AppAddress,
    gate: Gate,
}

/// The pipe under a connection that became another protocol's, and what was read of it already.
pub(crate) fn pipe_of(upgraded: Upgraded) -> (Pipe, Bytes) {
    match upgraded.downcast::<AppConnection>() {
        Ok(parts) => (parts.io.io.into_inner(), parts.read_buf),
        // A stream of HTTP/2.
        Err(upgraded) => (Pipe::Tunnel(Box::new(TokioIo::new(upgraded))), Bytes::new()),
    }
}

impl Connection for AppConnection {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for AppConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for AppConnection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.gate.is_open(&self.address)?;
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.gate.is_open(&self.address)?;
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_stands_for_one_application_and_can_be_read_back() {
        for wanted in [
            AppAddress::Port("127.0.0.1:9000".parse().unwrap()),
            AppAddress::Port("[::1]:9000".parse().unwrap()),
            AppAddress::Socket("/run/app ü.sock".into()),
            AppAddress::Socket(PathBuf::from(OsString::from_vec(vec![b'/', 0xff]))),
        ] {
            let authority = authority(&wanted);
            let uri: Uri = format!("http://{authority}/x").parse().unwrap();
            assert_eq!(address(uri.authority().unwrap().as_str()), Some(wanted), "{authority}");
        }
        for nonsense in ["ledger.mesh", "socket-0", "socket-zz", "127.0.0.1"] {
            assert_eq!(address(nonsense), None, "{nonsense}");
        }
    }
}
