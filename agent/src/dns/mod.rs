//! Names of services, for programs that look names up: `<service>.mesh`, over UDP and TCP.
//!
//! Decides what a name under `.mesh` stands for on this host: the service's own upstream port, otherwise
//! the shared HTTP port. Everything else is forwarded as it came. Keeps nothing: an answer is made from
//! what is published in that moment.
//!
//! | module | does |
//! |---|---|
//! | `answer` | a question to an answer, pure |
//! | `forward` | questions about other names, to those who know them |
//! | `resolv` | who that is, where nobody says: `/etc/resolv.conf`, pure |
//! | `serve` | sockets |
//!
//! Tasks: one per socket and per TCP connection, which end with their [`Server`]; one per question under
//! way elsewhere, which ends within seconds.

mod answer;
mod forward;
mod resolv;
mod serve;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hearth_proto::ids::ServiceName;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::config::Dns;
use crate::link::Labelled;
use crate::proxy::bind_udp;
use forward::Forwarder;

/// What carries a program's traffic to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// TCP where the service has such a port, otherwise UDP.
    Either,
}

/// Where a service is reached on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// At this port.
    At(SocketAddr),
    /// It is known, and has no port here.
    Nowhere,
    /// There is no such service.
    Unknown,
}

/// Who knows where services are reached on this host.
pub trait Directory: Send + Sync + 'static {
    /// Where programs reach `service`.
    fn find(&self, service: &ServiceName, over: Over) -> Found;
}

/// What the server counts. Clones share their values.
#[derive(Clone, Debug, Default)]
pub struct DnsMetrics {
    /// `hearth_dns_questions_total{outcome}`: `answered`, `no_data`, `no_name`, `wrong`, `forwarded`,
    /// `unforwarded`.
    pub questions: Family<[(&'static str, &'static str); 1], Counter>,
    /// `hearth_dropped_total{queue}`, shared with whoever else drops something.
    pub dropped: Labelled,
}

impl DnsMetrics {
    fn question(&self, outcome: &'static str) {
        self.questions.get_or_create(&[("outcome", outcome)]).inc();
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} ({over}) for dns.listen: {source}\n  hint: `ss -ltunp 'sport = :{}'` names \
     who holds the port; give it another port, or an address of this host", address.port()
)]
pub struct DnsError {
    /// The port.
    pub address: SocketAddr,
    /// `udp` or `tcp`.
    pub over: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// What all of a server's tasks share.
struct Shared {
    config: ArcSwap<Dns>,
    directory: Box<dyn Directory>,
    forwarder: Forwarder,
    metrics: DnsMetrics,
}

/// A server that runs. Dropping it closes its ports.
pub struct Server {
    shared: Arc<Shared>,
    bound: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Opens the ports and answers from then on.
    pub fn start(
        config: &Dns,
        directory: impl Directory,
        metrics: DnsMetrics,
        runtime: &Handle,
    ) -> Result<Self, DnsError> {
        let failed = |over| move |source| DnsError { address: config.listen, over, source };
        // Their readiness is to be told to the thread that serves them.
        let _context = runtime.enter();
        let tcp = bind_tcp(config.listen).map_err(failed("tcp"))?;
        // Should the port be left to the system, both kinds get the same one.
        let bound = tcp.local_addr().map_err(failed("tcp"))?;
        let udp = bind_udp(bound).map_err(failed("udp"))?;
        let shared = Arc::new(Shared {
            config: ArcSwap::from_pointee(config.clone()),
            directory: Box::new(directory),
            forwarder: Forwarder::new(bound),
            metrics,
        });
        let tasks = vec![
            runtime.spawn(serve::datagrams(shared.clone(), Arc::new(udp))),
            runtime.spawn(serve::connections(shared.clone(), tcp)),
        ];
        Ok(Self { shared, bound, tasks })
    }

    /// Where it listens.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Has it answer by another configuration with the same port.
    pub fn reconfigure(&self, config: Dns) {
        self.shared.config.store(Arc::new(config));
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    /// Connections that may wait to be accepted.
    const BACKLOG: u32 = 128;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for connections that are long gone.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
