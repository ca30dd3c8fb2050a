//! The TLS handshake of a lane, over whatever carries it, on either side.
//!
//! Whom we talk to is settled here, by the same verifiers that QUIC connections use; afterwards the keys go to
//! [`super::record`]. In front of the handshake the dialler says what the connection is for and which of its
//! data threads it comes from, so that the acceptor can put it on a thread of its own before it spends any
//! cryptography on it. A wrong mark costs speed only: what the connection may do is decided by ALPN and
//! certificate.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use hearth_proto::wire;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bearer::Bearer;
use super::record::{Kernel, RecordError, Records};
use crate::link::Kind;

/// Largest handshake that is read: far above a chain of small certificates.
const MAX_HANDSHAKE: usize = 64 * 1024;
/// First bytes of a connection. No TLS handshake begins so.
const MAGIC: [u8; 6] = *b"hearth";
/// Length of what is in front of the handshake.
const MARK: usize = MAGIC.len() + 2;

/// Which way a connection came, as its dialler says. One that a third agent relays says nothing of the path
/// between the two, and is not counted for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Relayed,
}

/// What the dialler says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) kind: Kind,
    pub(crate) way: Way,
    /// Which of the dialler's data threads.
    pub(crate) slot: u8,
}

impl Mark {
    fn bytes(self) -> [u8; MARK] {
        let kind = match (self.kind, self.way) {
            (Kind::Mesh, _) => b'm',
            (Kind::Data, Way::Direct) => b'd',
            (Kind::Data, Way::Relayed) => b'r',
        };
        let [a, b, c, d, e, f] = MAGIC;
        [a, b, c, d, e, f, kind, self.slot]
    }

    /// Reads it off a fresh connection.
    pub(crate) async fn read(socket: &mut TcpStream) -> Result<Self, HandshakeError> {
        let mut bytes = [0; MARK];
        socket.read_exact(&mut bytes).await?;
        let [magic @ .., kind, slot] = bytes;
        let (kind, way) = match kind {
            b'm' => (Kind::Mesh, Way::Direct),
            b'd' => (Kind::Data, Way::Direct),
            b'r' => (Kind::Data, Way::Relayed),
            _ => return Err(HandshakeError::NotOurs),
        };
        if magic != MAGIC {
            return Err(HandshakeError::NotOurs);
        }
        Ok(Self { kind, way, slot })
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("the peer closed the connection in the middle of the handshake")]
    Closed,
    #[error("this is no connection of a mesh")]
    NotOurs,
    #[error("the handshake is longer than {MAX_HANDSHAKE} bytes")]
    TooLong,
    #[error("the peer spoke before the handshake was over")]
    Early,
}

/// A connection whose peer is known.
pub(crate) struct Established {
    pub(crate) socket: Bearer,
    pub(crate) records: Records,
    /// What was read beyond the handshake.
    pub(crate) rest: BytesMut,
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) kind: Option<Kind>,
}

/// What the handshake wants next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Again,
    Read,
    Done,
}

/// One side of a handshake.
trait Side {
    /// Goes on with what was read. Puts what is to be written into `out`; says how much was used up.
    fn step(&mut self, read: &mut [u8], out: &mut Vec<u8>)
    -> (usize, Result<Next, HandshakeError>);
    fn state(&self) -> &CommonState;
    fn into_records(self) -> Result<Records, HandshakeError>;
}

fn handle<D>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut Vec<u8>,
) -> (usize, Result<Next, HandshakeError>) {
    let next = match status.state {
        Err(error) => Err(error.into()),
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let start = out.len();
            let mut room = 4096;
            loop {
                out.resize(start + room, 0);
                match data.encode(&mut out[start..]) {
                    Ok(written) => {
                        out.truncate(start + written);
                        break Ok(Next::Again);
                    }
                    Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
                    // It is encoded once per state; this one is new.
                    Err(EncodeError::AlreadyEncoded) => break Ok(Next::Again),
                }
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Next::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Next::Read),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Next::Done),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Err(HandshakeError::Closed),
        Ok(_) => Err(HandshakeError::Early),
    };
    (status.discard, next)
}

impl Side for UnbufferedClientConnection {
    fn step(
        &mut self,
        read: &mut [u8],
        out: &mut Vec<u8>,
    ) -> (usize, Result<Next, HandshakeError>) {
        handle(self.process_tls_records(read), out)
    }

    fn state(&self) -> &CommonState {
        self
    }

    fn into_records(self) -> Result<Records, HandshakeError> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok(Records::new(Kernel::Client(kernel), secrets)?)
    }
}

impl Side for UnbufferedServerConnection {
    fn step(
        &mut self,
        read: &mut [u8],
        out: &mut Vec<u8>,
    ) -> (usize, Result<Next, HandshakeError>) {
        handle(self.process_tls_records(read), out)
    }

    fn state(&self) -> &CommonState {
        self
    }

    fn into_records(self) -> Result<Records, HandshakeError> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok(Records::new(Kernel::Server(kernel), secrets)?)
    }
}

/// Dials: the mark, then the handshake.
pub(crate) async fn client(
    socket: impl Into<Bearer>,
    config: Arc<ClientConfig>,
    mark: Mark,
) -> Result<Established, HandshakeError> {
    // Proof: the constant is a valid DNS name; whom we expect is the verifier's business.
    let name = ServerName::try_from("hearth").expect("\"hearth\" is a DNS name");
    let side = UnbufferedClientConnection::new(config, name)?;
    shake(socket.into(), side, mark.bytes().to_vec()).await
}

/// Accepts, behind the mark.
pub(crate) async fn server(
    socket: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<Established, HandshakeError> {
    shake(socket.into(), UnbufferedServerConnection::new(config)?, Vec::new()).await
}

/// The length of the first TLS record (RFC 8446 section 5.1), once all of it is here.
fn whole_record(bytes: &[u8]) -> Option<usize> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(3)?, *bytes.get(4)?])) + 5;
    (bytes.len() >= length).then_some(length)
}

async fn shake(
    mut socket: Bearer,
    mut side: impl Side,
    mut out: Vec<u8>,
) -> Result<Established, HandshakeError> {
    let mut read = BytesMut::new();
    // So much of it was shown to rustls: one record after the other, since what the peer says right behind
    // its last message is not the handshake's.
    let mut shown = 0;
    loop {
        let (used, next) = side.step(&mut read[..shown], &mut out);
        read.advance(used);
        shown -= used;
        match next {
            Ok(Next::Again) => {}
            Ok(Next::Read) => {
                if let Some(length) = whole_record(&read[shown..]) {
                    shown += length;
                    continue;
                }
                socket.write_all(&out).await?;
                out.clear();
                if read.len() > MAX_HANDSHAKE {
                    return Err(HandshakeError::TooLong);
                }
                read.reserve(4096);
                if socket.read_buf(&mut read).await? == 0 {
                    return Err(HandshakeError::Closed);
                }
            }
            Ok(Next::Done) => break,
            Err(error) => {
                // The peer is told why, as far as it listens: the alert is what comes next. Not asked for
                // more than once, since rustls would look at what it has refused already.
                let _ = side.step(&mut read[..shown], &mut out);
                let _ = socket.write_all(&out).await;
                return Err(error);
            }
        }
    }
    socket.write_all(&out).await?;
    let state = side.state();
    let certificates = state.peer_certificates().unwrap_or_default();
    let certificates = certificates.iter().map(|c| c.clone().into_owned()).collect();
    let kind = match state.alpn_protocol() {
        Some(wire::ALPN_MESH) => Some(Kind::Mesh),
        Some(wire::ALPN_DATA) => Some(Kind::Data),
        _ => None,
    };
    let records = side.into_records()?;
    Ok(Established { socket, records, rest: read, certificates, kind })
}
