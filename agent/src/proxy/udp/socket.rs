//! Datagrams of this host: sockets, and reading them without a buffer per socket.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use tokio::net::UdpSocket;

/// Largest datagram there is.
const MAX_DATAGRAM: usize = u16::MAX as usize;

thread_local! {
    /// What a datagram is read into before its size is known; never held across a wait.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_DATAGRAM]);
}

/// A port on the runtime whose context this is called in.
pub(crate) fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

pub(super) async fn receive_from(socket: &UdpSocket) -> io::Result<(Bytes, SocketAddr)> {
    loop {
        socket.readable().await?;
        let received: io::Result<(Bytes, SocketAddr)> = BUFFER.with_borrow_mut(|buffer| {
            let (n, from) = socket.try_recv_from(buffer)?;
            Ok((Bytes::copy_from_slice(&buffer[..n]), from))
        });
        match received {
            Err(error) if is_passing(&error) => {}
            other => return other,
        }
    }
}

/// Gives a datagram to an application. An error says that nobody is there; what cannot be sent for another
/// reason is lost, as datagrams may be.
pub(super) async fn deliver(app: &UdpSocket, datagram: &[u8]) -> io::Result<()> {
    match app.send(datagram).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(error),
        _ => Ok(()),
    }
}

pub(super) async fn receive(socket: &UdpSocket) -> io::Result<Bytes> {
    loop {
        socket.readable().await?;
        let received: io::Result<Bytes> = BUFFER.with_borrow_mut(|buffer| {
            let n = socket.try_recv(buffer)?;
            Ok(Bytes::copy_from_slice(&buffer[..n]))
        });
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

/// On a port that is not connected, a refusal is about some client that is gone.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused)
}
