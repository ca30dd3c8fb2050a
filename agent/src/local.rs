//! The endpoints of this host as the shell sees them: which application, which check, which hooks.
//!
//! Owns one checker and one hook queue per endpoint. Hooks of an endpoint run one after the other, so
//! that a deactivation still under way never meets the next activation. Results go to the driver. Dropping
//! an endpoint ends its check and whatever hook runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_proto::ids::{EndpointId, NodeName};
use hearth_proto::incident::IncidentKey;
use hearth_proto::node::EndpointConfig;
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::check::{CheckEvent, Checker};
use crate::config::{Config, Endpoint};
use crate::driver::{Command, Handle};
use crate::hook::{self, HookCall, Purpose};
use crate::proxy::LocalEndpoint;

/// Hook calls that may wait per endpoint: an activation and a deactivation behind one that runs.
const HOOKS_WAITING: usize = 4;
/// Readiness after the hook is part of the activation: it gets this much beyond the hook's own deadline.
const READINESS: std::time::Duration = std::time::Duration::from_secs(10);

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
    hooks: mpsc::Sender<HookCall>,
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
    let hook = endpoint.activate.as_ref().map_or(std::time::Duration::ZERO, |h| h.deadline);
    EndpointConfig {
        id: id(node, endpoint),
        role: endpoint.role,
        protocol: endpoint.protocol,
        activation_deadline: hook + READINESS,
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
        let runner = self.hooks.spawn(run_hooks(config.clone(), self.handle.clone(), queue));
        let checker = Checker::start(config, self.checks.clone());
        Local { config: config.clone(), checker, hooks, runner }
    }

    /// Has a hook run. The result of an activation goes to the driver.
    pub fn hook(&self, purpose: Purpose, endpoint: &EndpointId, incident: Option<&IncidentKey>) {
        let incident = incident.map(ToString::to_string).unwrap_or_default();
        let call = HookCall { purpose, endpoint: endpoint.clone(), incident };
        if let Some(local) = self.lock().get(endpoint)
            && local.hooks.try_send(call).is_err()
        {
            // The lifecycle gives up at its deadline and tries again later.
            tracing::error!(%endpoint, ?purpose, "too many hooks wait; this one is not run");
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

async fn run_hooks(config: Endpoint, driver: Handle, mut queue: mpsc::Receiver<HookCall>) {
    while let Some(call) = queue.recv().await {
        let purpose = call.purpose;
        let endpoint = call.endpoint.clone();
        let hook = match purpose {
            Purpose::Activate => &config.activate,
            Purpose::Deactivate => &config.deactivate,
        };
        let result = match hook {
            Some(hook) => hook::run(hook, call).await.result.map_err(|e| e.to_string()),
            None => Ok(()),
        };
        if purpose == Purpose::Activate
            && driver.command(Command::Hook { endpoint, result }).await.is_err()
        {
            return;
        }
    }
}
