//! The agent's life: start, run, reload, drain and leave. Puts the parts together, decides nothing else.
//!
//! Two runtimes: the calling thread runs the mesh (driver, links, admin, checks), the data threads run the
//! data path, a side thread runs hooks and exports spans, so that a busy data path cannot make a probe late. Start order: configuration → state
//! directory → identity (join if there is none) → generation on disk → core, restored → links →
//! listeners → ready. Nothing waits for a peer or for the control plane once there is an identity.

mod names;
mod reload;
mod shutdown;

pub use shutdown::ReloadRequest;

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use hearth_proto::document::SignedDocument;
use hearth_proto::flight::Recorder;
use hearth_proto::ids::{EndpointId, Generation, ServiceName};
use hearth_proto::member::SwimConfig;
use hearth_proto::node::{Node, NodeConfig};
use hearth_proto::time::{Clock, Wall};
use hearth_proto::wire::{self, Hello};
use tokio::sync::{Notify as Bell, mpsc, watch};

use crate::admin::{self, Admin};
use crate::config::{Config, Join, Transport};
use crate::disk::StateDir;
use crate::driver::{Command, Driver, Handle, Origin};
use crate::enrol::{self, Candidate, Enrolled, Pace, Renewal, RenewalEvent};
use crate::exit::Exit;
use crate::flight::Flight;
use crate::identity::{Credentials, WallClock};
use crate::incidents::Incidents;
use crate::jitter::{self, Backoff};
use crate::link::{LinkEvent, Links, Runtimes};
use crate::local::{self, Locals};
use crate::notify::Notify;
use crate::outside::{self, Outside};
use crate::priority;
use crate::promises;
use crate::proxy::{Entry, Gate, GateError, MeshHandle, Proxy, UdpEntry};
use crate::questions::{Questions, Throttle};
use crate::telemetry::{Logs, Metrics, SpanSink};
use crate::threads::DataThreads;
use names::Names;

/// Link events that may wait for the driver; beyond it datagrams are dropped and messages wait.
const LINK_EVENTS: usize = 4096;
/// How long joining is tried while the control plane cannot be reached. Then the service manager, which
/// knows better when to start again, is told.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);
/// Log lines that wait when the agent ends get so long to be written.
const LOG_FLUSH: Duration = Duration::from_secs(1);
/// What `systemctl status` shows.
const STATUS: &str = "serving";

/// Why the agent ends, in words for people and as an exit code for programs.
struct Failure {
    exit: Exit,
    text: String,
}

impl<E: std::fmt::Display> From<E> for Failure
where
    for<'a> Exit: From<&'a E>,
{
    fn from(error: E) -> Self {
        Self { exit: Exit::from(&error), text: error.to_string() }
    }
}

/// `hearth-agent run`.
pub fn main(path: &Path) -> ExitCode {
    match start(path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hearth-agent: {}", failure.text);
            failure.exit.into()
        }
    }
}

fn start(path: &Path) -> Result<(), Failure> {
    let config = Config::load(path, std::env::vars())?;
    let io = |what: &str, e: std::io::Error| Failure {
        exit: Exit::of_io(&e),
        text: format!("cannot {what}: {e}"),
    };
    let data = DataThreads::start().map_err(|e| io("start the data threads", e))?;
    let side = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .thread_name("hearth-side")
        .build()
        .map_err(|e| io("start the side thread", e))?;
    let mesh = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("hearth-mesh")
        // Its threads for disk are started by the mesh thread, and are in no hurry.
        .on_thread_start(priority::ordinary)
        .build()
        .map_err(|e| io("start the mesh thread", e))?;
    // After the data threads exist: they keep their ordinary priority.
    raise_file_limit();
    priority::raise();
    priority::keep_resident();
    // Requests that outlive their grace are cut when the data threads end with this function.
    let result = mesh.block_on(agent(path, config, data.handles(), side.handle()));
    side.shutdown_background();
    result
}

/// Each connection is a file.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        tracing::debug!(%error, "limit of open files keeps its value");
    }
}

/// Everything that runs, for whoever reloads or ends it.
struct Running {
    config: Config,
    handle: Handle,
    links: Links,
    locals: Locals,
    proxy: Proxy,
    dns: Names,
    spans: SpanSink,
    logs: Logs,
    notify: Notify,
    seeds: Arc<ArcSwap<Vec<crate::config::HostPort>>>,
}

async fn agent(
    path: &Path,
    config: Config,
    data: &[tokio::runtime::Handle],
    side: &tokio::runtime::Handle,
) -> Result<(), Failure> {
    let metrics = Metrics::new();
    let logs = Logs::install(&config.name, &config.log, &metrics.dropped());
    let result = live(path, config, data, side, metrics, logs.clone()).await;
    logs.flush(LOG_FLUSH);
    result
}

async fn live(
    path: &Path,
    config: Config,
    data: &[tokio::runtime::Handle],
    side: &tokio::runtime::Handle,
    metrics: Metrics,
    logs: Logs,
) -> Result<(), Failure> {
    let notify = Notify::from_environment();
    let state = Arc::new(StateDir::open(&config.state_dir)?);
    // Before anything is told to others: what cannot be served must not be announced.
    let socket = admin::bind_socket(&config.admin.socket).await?;
    let port = match config.admin.http {
        Some(address) => Some(admin::bind_port(address).await?),
        None => None,
    };
    let (credentials, mut documents) = identity(&config).await?;
    documents.extend(state.load_documents());
    let table = state.load_table();
    // Should the generation file be lost, our own last advert still says how far we were.
    let ours = table.iter().find(|advert| advert.node == config.name);
    let floor = ours.map_or(Generation(0), |advert| advert.version.generation);
    let generation = state.next_generation(credentials.clock(), floor).unwrap_or_else(|e| {
        tracing::error!(error = %e, "generation not saved");
        e.generation
    });
    tracing::info!(node = %config.name, generation = generation.0, mesh = %config.mesh.advertise,
        version = env!("CARGO_PKG_VERSION"), "agent starts");

    let origin = Origin::now();
    let now = credentials.clock().now();
    let hello = Hello {
        generation,
        address: config.mesh.advertise,
        protocol: (wire::PROTOCOL, wire::PROTOCOL),
    };
    let (event_tx, events) = mpsc::channel::<LinkEvent>(LINK_EVENTS);
    let runtimes = Runtimes { mesh: tokio::runtime::Handle::current(), data: data.to_vec() };
    let links = Links::bind(
        config.mesh.listen,
        credentials.clone(),
        hello,
        event_tx,
        metrics.links(),
        runtimes,
    )?;
    links.prefer(config.mesh.lane);
    links.sense(config.mesh.sensing);
    let mut node =
        Node::new(node_config(&config, generation, now), credentials.keyring(), origin.time());
    // Before the policy, under which these promises are kept.
    node.restore_promises(origin.time(), state.load_promises());
    node.restore(origin.time(), table, documents);
    node.restore_activations(state.load_activations());

    let spans = {
        // Encoding spans is no work for the mesh thread.
        let _side = side.enter();
        SpanSink::start(&config.name, config.otlp.as_deref(), &metrics.dropped())
    };
    let locals_cell = Arc::new(OnceLock::new());
    let (lonely, lonely_rx) = mpsc::channel(1);
    let heartbeat = Arc::new(AtomicU64::new(0));
    let save = Arc::new(Bell::new());
    let incidents = Incidents::open(&config.state_dir);
    let questions = Questions::default();
    let (promise, promised) = watch::channel(None);
    let outside = Outside {
        promises: promise,
        incidents: incidents.clone(),
        questions: questions.clone(),
        throttle: Throttle::default(),
        locals: locals_cell.clone(),
        credentials: credentials.clone(),
        metrics: metrics.clone(),
        spans: spans.clone(),
        save: save.clone(),
        lonely,
        heartbeat: heartbeat.clone(),
    };
    let aboard = recorded(node, &config, &metrics);
    let (driver, handle) = Driver::new(aboard, origin, links.clone(), outside, events);
    let seeds = Arc::new(ArcSwap::from_pointee(config.mesh.seeds.clone()));

    let mesh = MeshHandle {
        snapshot: handle.snapshot(),
        changed: handle.changed(),
        reports: handle.reports(),
        links: links.clone(),
        origin,
    };
    let proxy = Proxy::new(mesh, local::for_path(&config), metrics.proxy(), data.to_vec());
    proxy.relay_for_others(config.mesh.relay);
    let at = proxy.clone();
    let under_way = Arc::new(move |endpoint: &EndpointId| at.under_way_at(endpoint));
    let locals = Locals::new(config.name.clone(), handle.clone(), side.clone(), under_way);
    locals.set(&config.endpoints);
    // Set once, before the driver runs.
    let _ = locals_cell.set(locals.clone());
    for (address, entry) in entries(&config)? {
        proxy.listen(address, entry).await?;
    }
    for (address, entry) in udp_entries(&config) {
        proxy.listen_udp(address, entry)?;
    }

    let mut dns = Names::new(proxy.clone(), metrics.dns(), side.clone());
    let opened = dns.open(config.dns.as_ref())?;
    dns.settle(config.dns.as_ref(), opened);

    tokio::spawn(driver.run());
    let saved = handle.clone();
    tokio::spawn(promises::keep(state.clone(), promised, move |serial| {
        let driver = saved.clone();
        async move { driver.command(Command::PromisesSaved(serial)).await.is_ok() }
    }));
    tokio::spawn(outside::save(state, handle.clone(), save));
    tokio::spawn(outside::dial_seeds(seeds.clone(), links.clone(), lonely_rx));
    tokio::spawn(outside::sweep(proxy.clone(), links.clone()));
    tokio::spawn(outside::sample(proxy.clone(), handle.clone()));
    renew(&config, &credentials, &handle, &metrics);

    let (reload, reloads) = mpsc::channel(1);
    let leave = Arc::new(Bell::new());
    let admin = Arc::new(Admin {
        handle: handle.clone(),
        links: links.clone(),
        proxy: proxy.clone(),
        credentials,
        metrics,
        reload,
        leave: leave.clone(),
        incidents,
        questions,
        state_dir: config.state_dir.clone(),
        config_file: path.to_owned(),
    });
    tokio::spawn(admin::serve(admin, socket, port));
    let _watchdog = notify.watch(heartbeat).map_err(|e| Failure {
        exit: Exit::of_io(&e),
        text: format!("cannot start the watchdog thread: {e}"),
    })?;
    notify.ready(STATUS);
    tracing::info!("agent ready");
    let running = Running { config, handle, links, locals, proxy, dns, spans, logs, notify, seeds };
    let socket = running.config.admin.socket.clone();
    let ended = shutdown::until_end(path, running, reloads, leave).await;
    admin::remove_socket(&socket);
    ended
}

/// The core under its flight recorder. A recorder that cannot start is missed, not waited for.
fn recorded(node: Node, config: &Config, metrics: &Metrics) -> (Recorder, Flight) {
    let Some(size) = config.flight else { return (Recorder::off(node), Flight::off()) };
    match Flight::start(&config.state_dir, size) {
        Ok(flight) => {
            metrics.flight(flight.dropped());
            (Recorder::new(node), flight)
        }
        Err(error) => {
            tracing::error!(%error, "no thread for the flight recorder; the agent goes on without");
            (Recorder::off(node), Flight::off())
        }
    }
}

fn node_config(config: &Config, generation: Generation, now: Wall) -> NodeConfig {
    NodeConfig {
        name: config.name.clone(),
        generation,
        address: config.mesh.advertise,
        zone: config.zone.clone(),
        region: config.region.clone(),
        swim: SwimConfig::default(),
        seed: generation.0 ^ u64::from(std::process::id()) << 32 ^ jitter::share().to_bits(),
        clock: Clock { origin: now },
        endpoints: core_endpoints(config),
        interest: interest(config),
    }
}

/// Every port that applications of this host call through.
fn entries(config: &Config) -> Result<Vec<(std::net::SocketAddr, Entry)>, GateError> {
    let mut entries = Vec::new();
    entries.extend(config.outbound.map(|address| (address, Entry::Shared)));
    entries.extend(config.socks.map(|address| (address, Entry::Socks)));
    let streams = config.upstreams.iter().filter(|u| u.transport == Transport::Tcp);
    entries.extend(streams.map(|u| (u.listen, Entry::Upstream(u.service.clone()))));
    for ingress in &config.ingresses {
        entries.push((ingress.listen, Entry::Ingress(Arc::new(Gate::new(ingress)?))));
    }
    Ok(entries)
}

/// Every port that applications of this host send datagrams to.
fn udp_entries(config: &Config) -> Vec<(std::net::SocketAddr, UdpEntry)> {
    let entry = |u: &crate::config::Upstream| match u.transport {
        Transport::Udp { idle } => Some((u.listen, UdpEntry { service: u.service.clone(), idle })),
        Transport::Tcp => None,
    };
    config.upstreams.iter().filter_map(entry).collect()
}

/// The services that programs of this host call by a port, or that it lets in from outside.
fn interest(config: &Config) -> std::collections::BTreeSet<ServiceName> {
    let upstreams = config.upstreams.iter().map(|u| &u.service);
    let routes = config.ingresses.iter().flat_map(|i| &i.routes).map(|r| &r.service);
    upstreams.chain(routes).cloned().collect()
}

fn core_endpoints(config: &Config) -> Vec<hearth_proto::node::EndpointConfig> {
    config.endpoints.iter().map(|e| local::core_config(&config.name, e)).collect()
}

/// Our identity: from disk, or by joining.
async fn identity(config: &Config) -> Result<(Credentials, Vec<SignedDocument>), Failure> {
    if let Some(credentials) = Credentials::load(&config.state_dir)? {
        if *credentials.node() != config.name {
            return Err(Failure {
                exit: Exit::Config,
                text: format!(
                    "{}: name is {}, but {} holds the identity of {}\n  hint: keep the name, or give \
                     this node a state_dir of its own",
                    config.file,
                    config.name,
                    config.state_dir.display(),
                    credentials.node()
                ),
            });
        }
        return Ok((credentials, Vec::new()));
    }
    let Join { control, token } = config.join_required()?;
    let token = match token {
        Some(token) => token.read()?,
        None => return Err(config.token_required().into()),
    };
    let who = Candidate {
        name: &config.name,
        state_dir: &config.state_dir,
        control,
        mesh_address: config.mesh.advertise,
        clock: WallClock::system(),
    };
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    let give_up = tokio::time::Instant::now() + JOIN_PATIENCE;
    loop {
        match enrol::join(&who, &token).await {
            Ok(Enrolled { credentials, documents }) => {
                tracing::info!(%control, "joined");
                return Ok((credentials, documents));
            }
            Err(error) if error.is_temporary() && tokio::time::Instant::now() < give_up => {
                tracing::warn!(%error, "not joined yet");
                tokio::time::sleep(backoff.wait()).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Keeps the certificate fresh, where a control plane is known.
fn renew(config: &Config, credentials: &Credentials, handle: &Handle, metrics: &Metrics) {
    let Some(join) = &config.join else { return };
    let (events, mut happened) = mpsc::channel(4);
    let renewal = Renewal {
        credentials: credentials.clone(),
        control: join.control.clone(),
        mesh_address: config.mesh.advertise,
        events,
        pace: Pace::default(),
    };
    tokio::spawn(renewal.run());
    let (handle, metrics) = (handle.clone(), metrics.clone());
    tokio::spawn(async move {
        while let Some(event) = happened.recv().await {
            match event {
                RenewalEvent::Renewed { documents, .. } => {
                    metrics.control_reachable(true);
                    if handle.command(Command::Renewed(documents)).await.is_err() {
                        return;
                    }
                }
                RenewalEvent::Failed { .. } => metrics.control_reachable(false),
            }
        }
    });
}
