//! `hearth-control serve`: puts the parts together and keeps them running.
//!
//! Tasks: the API ([`crate::server`]), the push ([`crate::push`]), metrics, upkeep (renewal of our own
//! certificate, pruning, the watchdog). They share nothing but the [`Plane`]. SIGTERM and SIGINT stop
//! listening and let requests under way finish; a second one ends at once. Being killed at any moment
//! loses nothing: the store is transactional, and agents need us for joins, renewals and changes only.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::authority::Authority;
use crate::config::Config;
use crate::directory::{Directory, DirectoryError, store_failure};
use crate::failure::{Exit, Failure};
use crate::logs;
use crate::metrics::{self, Metrics};
use crate::moment;
use crate::notify::Notify;
use crate::plane::Plane;
use crate::push::Push;
use crate::server::{Server, Shared, router};

/// How often upkeep looks whether something is due.
const UPKEEP: Duration = Duration::from_secs(60);
/// How often the store is pruned.
const PRUNE: Duration = Duration::from_secs(3_600);

/// Runs the control plane in `path` until it is told to stop.
pub fn serve(path: &Path) -> Result<(), Failure> {
    let directory = Directory::find(path)?;
    let config = directory.config()?;
    logs::start(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Temporary, format!("cannot start threads: {e}"), ""))?;
    let outcome = runtime.block_on(run(directory));
    // A blocked disk must not keep a stopped daemon alive.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

async fn run(directory: Directory) -> Result<(), Failure> {
    let opened = directory.open()?;
    let config = opened.config;
    let store = directory.open_store().map_err(|e| store_failure(&e))?;
    let metrics = Arc::new(Metrics::default());
    let plane = Plane::new(opened.authority, opened.own, Arc::new(store), metrics.clone())
        .map_err(|e| Failure::new(Exit::Io, e, "restore store.redb from backup"))?;
    let plane = Arc::new(plane);

    let listener = bind(config.listen, "listen").await?;
    let metrics_listener = match config.metrics().unwrap_or_default() {
        Some(address) => Some(bind(address, "metrics").await?),
        None => None,
    };
    let push = Push::new(plane.clone(), config.agents.clone(), config.fanout)
        .map_err(|e| Failure::new(Exit::Temporary, format!("cannot open a UDP socket: {e}"), ""))?;
    let shared = Shared {
        plane: plane.clone(),
        acknowledged: push.acknowledged(),
        agents_configured: !config.agents.is_empty(),
    };
    let mut signals = Signals::new()?;

    let address = local(&listener)?;
    directory.write("listening", format!("{address}\n").as_bytes())?;
    let metrics_address = metrics_listener.as_ref().map(local).transpose()?;
    let server = Server::new(listener, plane.clone(), router(shared))
        .map_err(|e| Failure::new(Exit::Software, e, "remove control.pem and start again"))?;
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(server.run(stopping));
    if let Some(listener) = metrics_listener {
        tokio::spawn(metrics::serve(listener, metrics.clone()));
    }
    tokio::spawn(push.run());
    let notify = Arc::new(Notify::from_environment());
    tokio::spawn(upkeep(directory.clone(), config.clone(), plane.clone()));
    tokio::spawn(watchdog(notify.clone(), plane.clone()));

    metrics.ready(true);
    info!(
        address = %address,
        metrics = metrics_address.map(|a| a.to_string()).unwrap_or_default(),
        name = %config.name,
        trust_domain = %config.trust_domain,
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    notify.ready();
    let by = signals.next().await;
    info!(signal = by, "stopping");
    notify.stopping();
    metrics.ready(false);
    stop.send_replace(true);
    tokio::select! {
        _ = serving => {}
        by = signals.next() => warn!(signal = by, "stopped_at_once"),
    }
    // Nobody answers there any more; a stale file only misleads, it breaks nothing.
    let _ = std::fs::remove_file(directory.file("listening"));
    info!("stopped");
    Ok(())
}

fn local(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(|e| {
        Failure::new(Exit::Software, format!("cannot read the bound address: {e}"), "")
    })
}

async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|e| bind_failure(address, key, &e))
}

/// What to say when a port cannot be had.
fn bind_failure(address: SocketAddr, key: &str, e: &io::Error) -> Failure {
    let what = format!("cannot listen on {address} (`{key}` in control.toml): {e}");
    match e.kind() {
        io::ErrorKind::AddrInUse => Failure::new(
            Exit::Unavailable,
            what,
            format!(
                "see who has the port: ss -ltnp 'sport = :{}'; stop that, or change `{key}`",
                address.port()
            ),
        ),
        io::ErrorKind::AddrNotAvailable => Failure::new(
            Exit::Config,
            what,
            format!("this host has no address {}: see ip addr; change `{key}`", address.ip()),
        ),
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::NoPermission,
            what,
            "ports below 1024 need CAP_NET_BIND_SERVICE; take a higher one",
        ),
        _ => Failure::new(Exit::Unavailable, what, format!("change `{key}`")),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|e| {
                Failure::new(Exit::Software, format!("cannot listen for signals: {e}"), "")
            })
        };
        let terminate = listen(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Renews our certificate when it is due and forgets what is of no use any more.
async fn upkeep(directory: Directory, config: Config, plane: Arc<Plane>) {
    let mut pruned: Option<tokio::time::Instant> = None;
    loop {
        let prune = pruned.is_none_or(|at| at.elapsed() >= PRUNE);
        if prune {
            pruned = Some(tokio::time::Instant::now());
        }
        let (directory, config, plane) = (directory.clone(), config.clone(), plane.clone());
        let work = tokio::task::spawn_blocking(move || {
            if prune && let Err(e) = plane.store().prune(moment::now()) {
                warn!(error = %e, "prune_failed");
            }
            if plane.holder().own().is_due(moment::now())
                && let Err(e) = renew(&directory, &config, plane.authority(), &plane)
            {
                error!(error = %e, expires = moment::utc(plane.holder().own().expires()), "renewal_failed");
            }
        });
        if let Err(e) = work.await {
            error!(error = %e, "upkeep_failed");
        }
        tokio::time::sleep(UPKEEP).await;
    }
}

fn renew(
    directory: &Directory,
    config: &Config,
    authority: &Authority,
    plane: &Plane,
) -> Result<(), DirectoryError> {
    let own = directory.renew(config, authority)?;
    info!(expires = moment::utc(own.expires()), "control_certificate_renewed");
    plane.metrics().certificate_expires(own.expires());
    plane.holder().replace(own);
    Ok(())
}

/// Tells systemd that we are alive, as long as the store still answers.
async fn watchdog(notify: Arc<Notify>, plane: Arc<Plane>) {
    let Some(interval) = notify.interval() else { return };
    loop {
        let plane = plane.clone();
        let answered = tokio::task::spawn_blocking(move || plane.store().witnessed().is_ok()).await;
        if answered.unwrap_or(false) {
            notify.alive();
        }
        tokio::time::sleep(interval).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_cannot_be_had_says_which_key_and_who_to_ask() {
        let address: SocketAddr = "127.0.0.1:7945".parse().unwrap();
        let told = |kind: io::ErrorKind| {
            let e = io::Error::new(kind, "as the system says");
            bind_failure(address, "listen", &e).to_string()
        };
        assert_eq!(
            told(io::ErrorKind::AddrInUse),
            "error: cannot listen on 127.0.0.1:7945 (`listen` in control.toml): as the system says\n  \
             hint: see who has the port: ss -ltnp 'sport = :7945'; stop that, or change `listen`"
        );
        assert_eq!(
            told(io::ErrorKind::AddrNotAvailable),
            "error: cannot listen on 127.0.0.1:7945 (`listen` in control.toml): as the system says\n  \
             hint: this host has no address 127.0.0.1: see ip addr; change `listen`"
        );
    }
}
