//! The owner's side of a session: a socket of its own towards the application, so that the application
//! tells sessions apart by their sender.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::BytesMut;
use hearth_proto::advert::Protocol;
use hearth_proto::ids::NodeName;
use tokio::net::UdpSocket;

use super::super::Inner;
use super::super::frame::{self, Cause, Frames, Refused};
use super::super::head::RequestHead;
use super::super::limit::Place;
use super::pieces::{Pieces, put};
use super::socket::{deliver, receive};
use crate::driver::PathReport;
use crate::link::Sender;
use crate::pipe::AppAddress;

/// A socket towards the application of the endpoint that `head` names, if `caller` may have one.
pub(super) async fn connect(
    inner: &Inner,
    caller: &NodeName,
    head: &RequestHead,
) -> Result<(UdpSocket, Place), Refused> {
    let (endpoint, place) = inner.take_on(caller, head).await?;
    let refused = |cause, detail| Refused { executed: false, cause, detail };
    let (Protocol::Udp, AppAddress::Port(address)) = (endpoint.protocol, &endpoint.address) else {
        return Err(refused(Cause::Malformed, format!("{} takes no datagrams", endpoint.id)));
    };
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let opened = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(address).await?;
        Ok::<_, io::Error>((socket, place))
    };
    opened.await.map_err(|e| refused(Cause::Busy, format!("no socket for the session: {e}")))
}

/// Carries a peer's session to its end.
pub(crate) async fn serve(
    inner: &Inner,
    caller: &NodeName,
    head: &RequestHead,
    send: &mut Sender,
    frames: Frames,
) -> Result<(), Refused> {
    let (app, _place) = connect(inner, caller, head).await?;
    if send.write_chunk(frame::go()).await.is_err() {
        return Ok(());
    }
    let (ahead, recv) = frames.into_bytes();
    let out = async {
        let mut pieces = Pieces::new(&ahead, recv);
        while let Some(datagram) = pieces.next().await {
            deliver(&app, &datagram).await?;
        }
        Ok::<_, io::Error>(())
    };
    let back = async {
        let mut batch = BytesMut::new();
        let lost = loop {
            match receive(&app).await {
                Ok(datagram) => put(&mut batch, &datagram),
                Err(error) => break error,
            }
            if send.write_chunk(batch.split().freeze()).await.is_err() {
                return Ok(());
            }
        };
        Err::<(), io::Error>(lost)
    };
    let carried = async {
        tokio::select! {
            ended = out => ended,
            ended = back => ended,
        }
    };
    let endpoint = inner.ours(head);
    // Over when the lease is: the stream is reset with its end unsaid.
    let ended = inner.under_lease(&endpoint, carried).await.unwrap_or(Ok(()));
    if let Err(error) = ended {
        // The system told that nobody is at the port any more.
        tracing::debug!(%endpoint, %error, "session lost its application");
        inner.tell(PathReport::LocalRefused { endpoint });
        send.abandon();
    }
    Ok(())
}
