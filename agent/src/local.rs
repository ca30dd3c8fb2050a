//! The endpoints of this host as the shell sees them: which application, which check, which hooks.
//!
//! Owns one checker and one queue of hooks and warm-ups per endpoint. They run one after the other, so
//! that a deactivation still under way never meets the next activation. Results go to the driver. Dropping
//! an endpoint ends its check and whatever hook runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_proto::advert::traits;
use hearth_proto::ids::{EndpointId, NodeName};
use hearth_proto::incident::IncidentKey;
use hearth_proto::lifecycle::Activation;
use hearth_proto::node::EndpointConfig;
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::check::{CheckEvent, Checker};
use crate::config::{CheckKind, Config, Endpoint};
use crate::driver::{Command, Handle};
use crate::hook::{self, HookCall, Purpose};
use crate::proxy::LocalEndpoint;
use crate::warm;

/// Hook calls that may wait per endpoint: an activation and a deactivation behind one that runs.
const HOOKS_WAITING: usize = 4;

/// Shared by the driver's effects and reloads.
#[derive(Clone)]
pub struct Locals {
    node: NodeName,
    handle: Handle,
    checks: mpsc::Sender<CheckEvent>,
    /// Where hooks run: a program inherits the priority of the thread that starts it, and the mesh thread's
    /// is raised.
    hooks: Runtime,
    endpoints: Arc<Mutex<BTreeMap<EndpointId, Local>>>,
}

struct Local {
    config: Endpoint,
    checker: Checker,
    hooks: mpsc::Sender<Task>,
    runner: JoinHandle<()>,
}

impl Drop for Local {
    fn drop(&mut self) {
        self.runner.abort();
    }
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
    pub fn new(node: NodeName, handle: Handle, hooks: Runtime) -> Self {
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
        Self { node, handle, checks, hooks, endpoints: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointId, Local>> {
        // What it guards is whole between any two statements.
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the set of endpoints this one. Those that did not change keep their check's verdict.
    pub fn set(&self, endpoints: &[Endpoint]) {
        let mut locals = self.lock();
        locals.retain(|_, local| endpoints.contains(&local.config));
        for config in endpoints {
            locals.entry(id(&self.node, config)).or_insert_with(|| self.start(config));
        }
    }

    fn start(&self, config: &Endpoint) -> Local {
        let (hooks, queue) = mpsc::channel(HOOKS_WAITING);
        let runner = self.hooks.spawn(run_tasks(config.clone(), self.handle.clone(), queue));
        let checker = Checker::start(config, self.checks.clone());
        Local { config: config.clone(), checker, hooks, runner }
    }

    /// Has an activation attempted once, for at most `within`. The result goes to the driver.
    pub fn activate(
        &self,
        endpoint: &EndpointId,
        incident: Option<&IncidentKey>,
        term: Option<u64>,
        within: Duration,
    ) {
        let incident = incident.map(ToString::to_string).unwrap_or_default();
        let purpose = Purpose::Activate;
        let call = HookCall { purpose, endpoint: endpoint.clone(), incident, term };
        self.task(endpoint, Task::Activate(call, Instant::now() + within));
    }

    /// Has an endpoint deactivated. Nobody waits for it.
    pub fn deactivate(&self, endpoint: &EndpointId) {
        let (purpose, incident) = (Purpose::Deactivate, String::new());
        let call = HookCall { purpose, endpoint: endpoint.clone(), incident, term: None };
        self.task(endpoint, Task::Deactivate(call));
    }

    /// Has the requests made that warm an endpoint up, for at most `within`; the driver is told.
    pub fn warm_up(&self, endpoint: &EndpointId, within: Duration) {
        self.task(endpoint, Task::WarmUp(endpoint.clone(), Instant::now() + within));
    }

    fn task(&self, endpoint: &EndpointId, task: Task) {
        if let Some(local) = self.lock().get(endpoint)
            && local.hooks.try_send(task).is_err()
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

/// What is done to an application, one after the other.
enum Task {
    /// One attempt, until then.
    Activate(HookCall, Instant),
    Deactivate(HookCall),
    /// Requests, until then.
    WarmUp(EndpointId, Instant),
}

async fn run_tasks(config: Endpoint, driver: Handle, mut queue: mpsc::Receiver<Task>) {
    while let Some(task) = queue.recv().await {
        let done = match task {
            Task::Deactivate(call) => {
                if let Some(hook) = &config.deactivate {
                    hook::run(hook, call).await;
                }
                continue;
            }
            Task::Activate(call, end) => {
                let endpoint = call.endpoint.clone();
                // What it waited for behind another counts.
                let within = end.saturating_duration_since(Instant::now());
                let result = match &config.activate {
                    Some(hook) => hook::run_once(hook, call, within).await.result,
                    None => Ok(()),
                };
                Command::Hook { endpoint, result: result.map_err(|e| e.told()) }
            }
            Task::WarmUp(endpoint, end) => {
                if let Some(warm_up) = &config.warm_up {
                    let made = warm::up(&config.address, config.http, warm_up);
                    // What it has had by then has to do.
                    let _ = tokio::time::timeout_at(end.into(), made).await;
                }
                Command::Warmed { endpoint }
            }
        };
        if driver.command(done).await.is_err() {
            return;
        }
    }
}
