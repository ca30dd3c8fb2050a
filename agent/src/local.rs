//! The endpoints of this host as the shell sees them: which application, which check, which hooks.
//!
//! Owns one checker and one runner of hooks and warm-ups per endpoint ([`runner`]). Results go to the driver.
//! Dropping an endpoint ends its check and its activation; a deactivation runs to its end, and what takes the
//! endpoint's place begins after it.

mod runner;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_proto::advert::traits;
use hearth_proto::ids::{EndpointId, NodeName};
use hearth_proto::incident::IncidentKey;
use hearth_proto::lifecycle::{Activation, Stop};
use hearth_proto::node::EndpointConfig;
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::check::{CheckEvent, Checker};
use crate::config::{CheckKind, Config, Endpoint};
use crate::counted::Counted;
use crate::driver::{Command, Handle};
use crate::hook::{HookCall, Purpose};
use crate::proxy::LocalEndpoint;

use runner::{Runner, Task};

/// How long requests under way may take to finish before an application is stopped, or the agent ends.
pub const FINISH_LIMIT: Duration = Duration::from_secs(20);
/// Orders that may wait per endpoint. Its runner takes each at once, whatever it is at.
const ORDERS_WAITING: usize = 16;
/// How often it is looked whether something has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How much is under way at an endpoint of ours.
pub type UnderWay = Arc<dyn Fn(&EndpointId) -> usize + Send + Sync>;

/// Shared by the driver's effects and reloads.
#[derive(Clone)]
pub struct Locals {
    node: NodeName,
    handle: Handle,
    checks: mpsc::Sender<CheckEvent>,
    /// Where hooks run: a program inherits the priority of the thread that starts it, and the mesh thread's
    /// is raised.
    hooks: Runtime,
    under_way: UnderWay,
    /// Deactivations that wait or run.
    deactivations: Arc<AtomicUsize>,
    endpoints: Arc<Mutex<BTreeMap<EndpointId, Local>>>,
}

struct Local {
    config: Endpoint,
    checker: Checker,
    /// Dropped, the runner ends.
    orders: mpsc::Sender<Task>,
    runner: JoinHandle<()>,
}

/// The id of one of our endpoints.
pub fn id(node: &NodeName, endpoint: &Endpoint) -> EndpointId {
    EndpointId {
        service: endpoint.service.clone(),
        node: node.clone(),
        instance: endpoint.instance,
    }
}

/// What the core is told of one of our endpoints.
pub fn core_config(node: &NodeName, endpoint: &Endpoint) -> EndpointConfig {
    EndpointConfig {
        id: id(node, endpoint),
        role: endpoint.role,
        protocol: endpoint.protocol,
        activation: Activation {
            deadline: endpoint.activation_deadline,
            attempts: endpoint.attempts,
            warm_up: endpoint.warm_up.is_some(),
        },
        weight: endpoint.weight,
        check: match endpoint.check.kind {
            CheckKind::Tcp => traits::CheckKind::Tcp,
            CheckKind::Http { .. } => traits::CheckKind::Http,
            CheckKind::Grpc => traits::CheckKind::Grpc,
            CheckKind::Udp => traits::CheckKind::Udp,
        },
        hook: endpoint.activate.is_some(),
    }
}

/// What the traffic path is told of our endpoints.
pub fn for_path(config: &Config) -> Vec<LocalEndpoint> {
    let endpoint = |e: &Endpoint| LocalEndpoint {
        id: id(&config.name, e),
        address: e.address.clone(),
        protocol: e.protocol,
        http: e.http,
    };
    config.endpoints.iter().map(endpoint).collect()
}

impl Locals {
    /// No endpoints yet. Results of checks and hooks go to the driver behind `handle`; hooks run on `hooks`.
    pub fn new(node: NodeName, handle: Handle, hooks: Runtime, under_way: UnderWay) -> Self {
        let (checks, mut results) = mpsc::channel::<CheckEvent>(64);
        let (driver, name) = (handle.clone(), node.clone());
        tokio::spawn(async move {
            while let Some(event) = results.recv().await {
                let endpoint = EndpointId {
                    service: event.service,
                    node: name.clone(),
                    instance: event.instance,
                };
                let health = Command::Health { endpoint, healthy: event.healthy };
                if driver.command(health).await.is_err() {
                    return;
                }
            }
        });
        let (deactivations, endpoints) = (Arc::default(), Arc::default());
        Self { node, handle, checks, hooks, under_way, deactivations, endpoints }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointId, Local>> {
        // What it guards is whole between any two statements.
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the set of endpoints this one. Those that did not change keep their check's verdict.
    pub fn set(&self, endpoints: &[Endpoint]) {
        let mut locals = self.lock();
        let (stay, gone) = std::mem::take(&mut *locals)
            .into_iter()
            .partition(|(_, l)| endpoints.contains(&l.config));
        *locals = stay;
        let mut gone: BTreeMap<EndpointId, Local> = gone;
        for config in endpoints {
            let id = id(&self.node, config);
            let before = gone.remove(&id).map(|local| local.runner);
            locals.entry(id).or_insert_with(|| self.start(config, before));
        }
    }

    fn start(&self, config: &Endpoint, before: Option<JoinHandle<()>>) -> Local {
        let (orders, queue) = mpsc::channel(ORDERS_WAITING);
        let checker = Checker::start(config, self.checks.clone());
        let runner = Runner {
            config: config.clone(),
            stopper: checker.stopper(),
            results: self.handle.commands(),
            orders: queue,
            under_way: self.under_way.clone(),
        };
        let runner = self.hooks.spawn(async move {
            if let Some(before) = before {
                // That it broke off is in the log.
                let _ = before.await;
            }
            runner.run().await;
        });
        Local { config: config.clone(), checker, orders, runner }
    }

    /// Has an activation attempted once, for at most `within`. The result goes to the driver, with the order's
    /// number.
    pub fn activate(
        &self,
        endpoint: &EndpointId,
        order: u64,
        incident: Option<&IncidentKey>,
        term: Option<u64>,
        within: Duration,
    ) {
        let incident = incident.map(ToString::to_string).unwrap_or_default();
        let purpose = Purpose::Activate;
        let call = HookCall { purpose, endpoint: endpoint.clone(), incident, term };
        self.order(endpoint, Task::Activate { call, order, end: Instant::now() + within });
    }

    /// Has an endpoint deactivated.
    pub fn deactivate(&self, endpoint: &EndpointId, stop: Stop) {
        let (purpose, incident) = (Purpose::Deactivate, String::new());
        let call = HookCall { purpose, endpoint: endpoint.clone(), incident, term: None };
        let counted = Counted::new(&self.deactivations);
        self.order(endpoint, Task::Deactivate { call, stop, counted });
    }

    /// Waits until no deactivation waits or runs, at most `limit`, and returns how many are left.
    pub async fn deactivated(&self, limit: Duration) -> usize {
        let end = Instant::now() + limit;
        loop {
            let left = self.deactivations.load(Ordering::Relaxed);
            if left == 0 || Instant::now() >= end {
                return left;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Has the requests made that warm an endpoint up, for at most `within`; the driver is told.
    pub fn warm_up(&self, endpoint: &EndpointId, order: u64, within: Duration) {
        let (endpoint, end) = (endpoint.clone(), Instant::now() + within);
        self.order(&endpoint.clone(), Task::WarmUp { endpoint, order, end });
    }

    fn order(&self, endpoint: &EndpointId, task: Task) {
        if let Some(local) = self.lock().get(endpoint)
            && local.orders.try_send(task).is_err()
        {
            // The lifecycle gives up at its deadline and tries again later.
            tracing::error!(%endpoint, "too many hooks wait; this one is not run");
        }
    }

    /// Has an endpoint checked now.
    pub fn check_now(&self, endpoint: &EndpointId) {
        if let Some(local) = self.lock().get(endpoint) {
            local.checker.check_now();
        }
    }

    /// A request found the application refusing.
    pub fn refused(&self, endpoint: &EndpointId) {
        if let Some(local) = self.lock().get(endpoint) {
            local.checker.refused();
        }
    }

    /// A request was broken off by the application.
    pub fn broke(&self, endpoint: &EndpointId) {
        if let Some(local) = self.lock().get(endpoint) {
            local.checker.suspected();
        }
    }
}

#[cfg(test)]
mod tests;
