//! Programs that speak SOCKS 5 (RFC 1928): without authentication, `CONNECT` only.
//!
//! A tunnel leads to a service and nowhere else: this is no way out of the host. What comes through it is
//! served like a connection on the service's own port. A name is what says the service; an address leads
//! on only where it is an upstream's port on this host, since a program that looks names up itself gets
//! that from our DNS server. Everything else is refused with the reply that says why.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::ids::ServiceName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Inner;
use super::connect::{Refusal, Tunnel};
use super::outbound::Door;
use crate::pipe::{Pipe, broken};

/// A program that does not say where to in so long is given up.
const GREETING_LIMIT: Duration = Duration::from_secs(10);
const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;

/// Where a program wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Destination {
    Name(String),
    Address(SocketAddr),
}

/// The replies of RFC 1928 section 6, as far as they are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Succeeded = 0,
    NotAllowed = 2,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    CommandNotSupported = 7,
    AddressNotSupported = 8,
}

/// Why there is no destination.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("it does not speak SOCKS 5 (its first byte is {0})")]
    Version(u8),
    #[error("it insists on authentication")]
    Authentication,
    #[error("it asks for something else than CONNECT")]
    Command,
    #[error("its destination is of an unknown kind")]
    Address,
}

/// Serves a program's connection.
pub(crate) async fn serve(
    inner: &Arc<Inner>,
    mut stream: TcpStream,
    client: SocketAddr,
    door: &Arc<Door>,
) {
    let wanted = match timeout(GREETING_LIMIT, destination(&mut stream)).await {
        Ok(Ok(wanted)) => wanted,
        Ok(Err(wrong)) => {
            tracing::debug!(%client, error = %wrong, "SOCKS client turned away");
            let code = match wrong {
                Wrong::Command => Some(Reply::CommandNotSupported),
                Wrong::Address => Some(Reply::AddressNotSupported),
                _ => None,
            };
            if let Some(code) = code {
                refuse(stream, code).await;
            }
            return inner.metrics.tunnel("socks5", "malformed");
        }
        Err(_) => return inner.metrics.tunnel("socks5", "malformed"),
    };
    let service = match &wanted {
        Destination::Name(name) => inner.destination(name),
        Destination::Address(address) => inner.upstream_at(*address).ok_or(Refusal::Outside),
    };
    let tunnel = match service {
        Ok(service) => tokio::select! {
            reached = Tunnel::reach(inner, service, client.ip()) => reached,
            () = broken(&stream) => return inner.metrics.tunnel("socks5", "left"),
        },
        Err(refusal) => Err(refusal),
    };
    match tunnel {
        Ok(tunnel) => {
            inner.metrics.tunnel("socks5", "open");
            if reply(&mut stream, Reply::Succeeded).await.is_ok() {
                tunnel.serve(inner, Pipe::Tcp(stream), client, door).await;
            }
        }
        Err(refusal) => {
            tracing::info!(%client, ?wanted, refusal = refusal.word(), "SOCKS tunnel refused");
            inner.metrics.tunnel("socks5", refusal.word());
            let code = match refusal {
                Refusal::Outside => Reply::NotAllowed,
                Refusal::Unknown => Reply::HostUnreachable,
                Refusal::Datagrams | Refusal::Nobody | Refusal::Full => Reply::ConnectionRefused,
            };
            refuse(stream, code).await;
        }
    }
}

async fn destination(stream: &mut TcpStream) -> Result<Destination, Wrong> {
    let version = stream.read_u8().await?;
    if version != VERSION {
        return Err(Wrong::Version(version));
    }
    let mut methods = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        stream.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(Wrong::Authentication);
    }
    stream.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [version, command, _reserved, kind] = head;
    if version != VERSION {
        return Err(Wrong::Version(version));
    }
    // The destination is read even of a command that is not served: a reply to half a request would
    // meet the other half, and the connection would end as broken.
    let ip = match kind {
        1 => IpAddr::from(u32::to_be_bytes(stream.read_u32().await?)),
        4 => IpAddr::from(u128::to_be_bytes(stream.read_u128().await?)),
        3 => {
            let mut name = vec![0; stream.read_u8().await?.into()];
            stream.read_exact(&mut name).await?;
            let port = stream.read_u16().await?;
            let name = String::from_utf8(name).map_err(|_| Wrong::Address)?;
            return match (command, name.parse()) {
                (CONNECT, Ok(ip)) => Ok(Destination::Address(SocketAddr::new(ip, port))),
                (CONNECT, Err(_)) => Ok(Destination::Name(name)),
                _ => Err(Wrong::Command),
            };
        }
        _ => return Err(Wrong::Address),
    };
    let port = stream.read_u16().await?;
    if command != CONNECT {
        return Err(Wrong::Command);
    }
    Ok(Destination::Address(SocketAddr::new(ip, port)))
}

/// The address we bound says nothing here: the other end is on another host, behind its agent.
async fn reply(stream: &mut TcpStream, code: Reply) -> io::Result<()> {
    stream.write_all(&[VERSION, code as u8, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

async fn refuse(mut stream: TcpStream, code: Reply) {
    // A program that is gone needs no reply.
    if reply(&mut stream, code).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

impl Inner {
    /// The service whose own port on this host is at `address`.
    fn upstream_at(&self, address: SocketAddr) -> Option<ServiceName> {
        let doors = crate::link::lock(&self.listeners);
        let leads = |at: SocketAddr| match &*doors.get(&at)?.leads() {
            super::Entry::Upstream(service) => Some(service.clone()),
            _ => None,
        };
        leads(address).or_else(|| {
            let any: IpAddr = match address.ip() {
                IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            };
            // A port that is bound to all addresses is this host's at loopback for certain.
            address.ip().is_loopback().then(|| leads(SocketAddr::new(any, address.port())))?
        })
    }
}
