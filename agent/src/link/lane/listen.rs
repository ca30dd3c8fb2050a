//! Accepting lanes: who dials, may it, and on which thread the connection is to live.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hearth_proto::ids::{Identity, NodeName};
use hearth_proto::wire;
use rustls::Error;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::handshake::{Established, HandshakeError, Mark, Way, server};
use super::{mesh, pool};
use crate::identity::peer_identity;
use crate::link::{Kind, Shared, lock};

/// A handshake that takes longer is given up.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
/// What a connection is for comes with its first segment; the time is for one that is lost and sent again.
const MARK_LIMIT: Duration = Duration::from_secs(1);
/// Connections at once that have not said what they are for: each costs a socket and a small task.
const MAX_UNMARKED: usize = 2048;
/// Handshakes of lanes under way at once. Apart from those of QUIC, and from those who say nothing.
const MAX_HANDSHAKES: usize = 256;
/// How many connections one address may have on the doorstep: whoever floods it from one does not shut
/// others out. Many agents behind one address dial no more than a few lanes each at once.
const MAX_OF_ONE: usize = 128;
/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 1024;
/// After an error of `accept` that is not a connection's own, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What the kernel may hold unsent: enough for the path, and no more, so that what is queued behind it can
/// still be put in order by us.
const UNSENT: u32 = 128 * 1024;
/// What is sent and not acknowledged for so long ends the connection. Silence acts long before.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Who is being let in: strangers all of them, so none may take up all the room.
pub(crate) struct Doorstep {
    unmarked: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    /// By address, how many there are.
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Default for Doorstep {
    fn default() -> Self {
        Self {
            unmarked: Arc::new(Semaphore::new(MAX_UNMARKED)),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            sources: Arc::default(),
        }
    }
}

impl Doorstep {
    /// Counts a connection from `source` for as long as the result lives; `None`: it has too many.
    fn step(&self, source: IpAddr) -> Option<Step> {
        // One host's addresses in IPv6 share a /64.
        let source = match source.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
            v4 => v4,
        };
        let mut sources = lock(&self.sources);
        let count = sources.entry(source).or_default();
        if *count >= MAX_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Step { source, sources: self.sources.clone() })
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.sources).values().sum()
    }
}

/// A connection on the doorstep, while it lives.
struct Step {
    source: IpAddr,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Step {
    fn drop(&mut self) {
        let mut sources = lock(&self.sources);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// Opens the mesh port for TCP.
pub(crate) fn open(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// How every lane's socket is set. What the kernel refuses costs speed, not correctness.
pub(crate) fn tune(socket: &TcpStream) {
    let socket = SockRef::from(socket);
    let results = [
        socket.set_tcp_nodelay(true),
        socket.set_tcp_notsent_lowat(UNSENT),
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED)),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "lane's socket not tuned");
    }
}

/// Accepts until the links are closed.
pub(crate) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "no lanes are accepted");
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.ended() => return,
        };
        let (socket, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(step) = shared.doorstep.step(remote.ip()) else {
            shared.metrics.refuse("too_many");
            continue;
        };
        let Ok(unmarked) = shared.doorstep.unmarked.clone().try_acquire_owned() else {
            shared.metrics.refuse("busy");
            continue;
        };
        tokio::spawn(place(shared.clone(), socket, remote, step, unmarked));
    }
}

/// Reads what the connection is for and moves it to the thread it is to live on.
async fn place(
    shared: Arc<Shared>,
    mut socket: TcpStream,
    remote: SocketAddr,
    step: Step,
    unmarked: OwnedSemaphorePermit,
) {
    let mark = match timeout(MARK_LIMIT, Mark::read(&mut socket)).await {
        Ok(Ok(mark)) => mark,
        Ok(Err(error)) => {
            tracing::debug!(%remote, %error, "connection given up");
            return;
        }
        Err(_) => {
            shared.metrics.refuse("timeout");
            return;
        }
    };
    drop(unmarked);
    let Ok(turn) = shared.doorstep.handshakes.clone().try_acquire_owned() else {
        return shared.metrics.refuse("busy");
    };
    let runtime = match mark.kind {
        Kind::Mesh => &shared.runtimes.mesh,
        Kind::Data => shared.runtimes.data_of(usize::from(mark.slot)),
    };
    let Ok(socket) = socket.into_std() else { return };
    let shared = shared.clone();
    runtime.clone().spawn(async move {
        // A socket that was just taken off one runtime is fit for the next.
        let Ok(socket) = TcpStream::from_std(socket) else { return };
        admit(&shared, socket, remote, mark.way, (step, turn)).await;
    });
}

async fn admit(
    shared: &Arc<Shared>,
    socket: TcpStream,
    remote: SocketAddr,
    way: Way,
    turn: (Step, OwnedSemaphorePermit),
) {
    tune(&socket);
    let config = shared.credentials.server_config(&[wire::ALPN_MESH, wire::ALPN_DATA]);
    let established = match timeout(HANDSHAKE_LIMIT, server(socket, extractable(config))).await {
        Ok(Ok(established)) => established,
        Ok(Err(error)) => {
            refused(shared, &error, remote);
            return;
        }
        Err(_) => {
            shared.metrics.refuse("timeout");
            return;
        }
    };
    drop(turn);
    let Some(name) = caller(shared, &established, remote) else { return };
    if !shared.known(&name).is_none_or(|peer| peer.has_room()) {
        shared.metrics.refuse("too_many");
        tracing::debug!(peer = %name, %remote, reason = "too_many", "handshake refused");
        return;
    }
    match established.kind {
        Some(Kind::Data) => pool::accepted(shared, &name, remote, way, established).await,
        Some(Kind::Mesh) => mesh::accepted(shared, &name, remote, established).await,
        None => shared.metrics.refuse("protocol"),
    }
}

/// Who it is, if it is somebody who may have a lane.
fn caller(shared: &Shared, established: &Established, remote: SocketAddr) -> Option<NodeName> {
    match peer_identity(&established.certificates, shared.credentials.trust_domain()) {
        Ok(Identity::Node(name)) if &name == shared.own() => None,
        Ok(Identity::Node(name)) => Some(name),
        Ok(identity) => {
            shared.metrics.refuse("protocol");
            tracing::warn!(%remote, %identity, reason = "protocol", "handshake refused");
            None
        }
        Err(error) => {
            // The verifier let it pass and yet it cannot be read: not to be served in any case.
            shared.metrics.refuse("malformed");
            tracing::warn!(%remote, %error, reason = "malformed", "handshake refused");
            None
        }
    }
}

/// A configuration whose keys may leave rustls, for [`super::record`].
pub(crate) fn extractable<C: Clone + Extractable>(config: Arc<C>) -> Arc<C> {
    let mut config = Arc::unwrap_or_clone(config);
    config.extract();
    Arc::new(config)
}

/// What [`extractable`] works on.
pub(crate) trait Extractable {
    fn extract(&mut self);
}

impl Extractable for rustls::ServerConfig {
    fn extract(&mut self) {
        self.enable_secret_extraction = true;
    }
}

impl Extractable for rustls::ClientConfig {
    fn extract(&mut self) {
        self.enable_secret_extraction = true;
    }
}

/// Counts and logs a handshake that failed. What the certificate verifier refused it has counted and
/// logged itself, with more to say; here comes what it never got to see.
fn refused(shared: &Shared, error: &HandshakeError, remote: SocketAddr) {
    let reason = match error {
        HandshakeError::Tls(Error::NoCertificatesPresented) => "no_certificate",
        HandshakeError::Tls(Error::NoApplicationProtocol) => "protocol",
        _ => {
            tracing::debug!(%remote, %error, "handshake failed");
            return;
        }
    };
    shared.metrics.refuse(reason);
    tracing::warn!(%remote, reason, %error, "handshake refused");
}
