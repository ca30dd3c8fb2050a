//! The mesh socket and how QUIC is tuned on it. Every number was measured or has its reason beside it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::wire;
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, ConnectionId, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::Kind;
use crate::identity::{Credentials, Expected};

/// Kernel buffers: with less, bulk at 1,500 bytes loses packets on the host itself.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// Largest UDP payload. With GSO, 6,500 lifted bulk by half on jumbo paths; 8,952 did not.
const MAX_UDP: u16 = 6500;
/// How long the peer may hold an acknowledgement back; the silence threshold counts on it.
pub(crate) const ACK_DELAY: Duration = Duration::from_millis(2);
/// What RFC 9000 gives a peer that was not told otherwise yet.
pub(crate) const ACK_DELAY_UNTOLD: Duration = Duration::from_millis(25);
/// A data connection nobody uses still proves itself alive.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The end of a data connection that hears nothing. Silence acts long before.
const MAX_IDLE: Duration = Duration::from_secs(10);
/// The end of a mesh link on which nothing is said. Watched peers are pinged by the monitor, which ends a link
/// that does not answer; with all others a link is kept, but not alive, from one probe to the next: keep-alives
/// would be most of what an idle mesh sends, and handshakes more yet. Among 1,000 members a pair speaks about every
/// four minutes.
const MAX_IDLE_MESH: Duration = Duration::from_secs(15 * 60);
/// Before a path is known: repeats a lost first packet after 300 ms, so that a dial of one second has
/// three tries.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Requests under way on one data connection.
const MAX_REQUESTS: u32 = 1024;
/// Messages under way on one mesh link.
const MAX_MESSAGES: u32 = 64;
/// What one connection may have in flight towards us, in bytes.
const RECEIVE_WINDOW: u32 = 32 * 1024 * 1024;
/// What one stream may have in flight towards us: 10 Gbit/s at 1 ms, 1 Gbit/s at 10 ms.
const STREAM_WINDOW: u32 = 1024 * 1024 + 256 * 1024;

/// What a connection may send before anything of it is acknowledged. RFC 9002 section 7.2 recommends ten packets;
/// but what had waited for a lost host goes to its successor all at once, on a connection that is new, and would
/// need four round trips for two hundred small answers. Paced over a round trip, and 52 ms of a 10 Mbit/s line.
const INITIAL_WINDOW: u64 = 64 * 1024;

/// Opens the mesh port with large buffers.
pub(crate) fn open(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // The kernel may grant less (net.core.rmem_max); that costs speed, not correctness.
    for result in
        [socket.set_recv_buffer_size(SOCKET_BUFFER), socket.set_send_buffer_size(SOCKET_BUFFER)]
    {
        if let Err(error) = result {
            tracing::debug!(%error, "socket buffer not enlarged");
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

/// What is common to all connections of the endpoint.
pub(crate) fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    // Proof: the value is within the bounds the setter checks (1200..=65527).
    config.max_udp_payload_size(MAX_UDP).expect("6500 is a valid payload size");
    config
}

/// Of the two ends' idle timeouts the shorter holds (RFC 9000 section 10.1): who accepts leaves it to who dials.
/// `rests`: it need not prove itself alive while nobody uses it.
fn transport(rests: bool) -> Arc<TransportConfig> {
    let (keep_alive, idle) =
        if rests { (None, MAX_IDLE_MESH) } else { (Some(KEEP_ALIVE), MAX_IDLE) };
    // Proof: both are far below the largest that a varint holds, 2^62 milliseconds.
    let idle = IdleTimeout::try_from(idle).expect("minutes are a valid timeout");
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MAX_UDP);
    let mut ack = AckFrequencyConfig::default();
    ack.max_ack_delay(Some(ACK_DELAY));
    let mut cubic = CubicConfig::default();
    cubic.initial_window(INITIAL_WINDOW);
    let mut config = TransportConfig::default();
    config
        .congestion_controller_factory(Arc::new(cubic))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_REQUESTS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_MESSAGES))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(keep_alive)
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(ack))
        .enable_segmentation_offload(true);
    Arc::new(config)
}

/// For accepting. One configuration lasts: the credentials in it are always the current ones.
pub(crate) fn server_config(
    credentials: &Credentials,
) -> Result<ServerConfig, NoInitialCipherSuite> {
    let tls = credentials.server_config(&[wire::ALPN_MESH, wire::ALPN_DATA]);
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport(true));
    Ok(config)
}

/// For dialling `expected`. `sensed`: the monitor ends what does not answer.
pub(crate) fn client_config(
    credentials: &Credentials,
    expected: Expected,
    kind: Kind,
    sensed: bool,
) -> Result<ClientConfig, NoInitialCipherSuite> {
    let tls = credentials.client_config(expected, kind.alpn());
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport(sensed && kind == Kind::Mesh));
    config.initial_dst_cid_provider(Arc::new(move || marked(kind)));
    Ok(config)
}

/// A random connection id whose first bit tells the acceptor, before any cryptography, on which
/// runtime the connection is to live, and whose second byte on which of several. A wrong mark costs speed
/// only: what the connection may do is decided by ALPN and certificate.
fn marked(kind: Kind) -> ConnectionId {
    let mut id: [u8; 20] = rand::random();
    id[0] = id[0] & 0x7f | if kind == Kind::Data { 0x80 } else { 0 };
    // Beyond 256 threads two share a mark, which costs them nothing but that.
    id[1] = (crate::threads::slot() % 256) as u8;
    ConnectionId::new(&id)
}

/// Reads the mark.
pub(crate) fn mark(id: &ConnectionId) -> (Kind, usize) {
    match id[..] {
        [first, slot, ..] if first & 0x80 != 0 => (Kind::Data, usize::from(slot)),
        _ => (Kind::Mesh, 0),
    }
}
