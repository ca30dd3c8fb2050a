//! What the core wants done that is not a matter of links: hooks, checks, disk, trust, telemetry.
//!
//! [`Outside`] is called by the driver within a turn, so it only hands over: to a task, a bounded queue or
//! a counter. What it hands over may fail; then it is logged, and the agent goes on with what it has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hearth_proto::evidence::Swim;
use hearth_proto::ids::{EndpointId, NodeName, ServiceName};
use hearth_proto::node::{Event, Node};
use hearth_proto::outlier::SAMPLE_EVERY;
use hearth_proto::route::Snapshot;
use hearth_proto::time::Time;
use hearth_proto::wire::{Answer, Ask};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::config::HostPort;
use crate::disk::StateDir;
use crate::driver::{Command, Effects, Handle};
use crate::identity::Credentials;
use crate::incidents::Incidents;
use crate::link::Links;
use crate::local::Locals;
use crate::promises::Promises;
use crate::proxy::Proxy;
use crate::questions::{self, Questions, Throttle};
use crate::telemetry::{Metrics, SpanSink};

/// Changes of table and documents are gathered for so long before they are written.
const SAVE_AFTER: Duration = Duration::from_millis(500);
/// After a failure to write it is tried again so much later, changed or not.
const SAVE_AGAIN: Duration = Duration::from_secs(10);
/// Endpoints come and go with deployments, not with requests.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// A peer nobody needed for so many sweeps (an hour) is forgotten.
const SWEEPS_UNUSED: u32 = 60;

/// Everything outside that the driver tells.
pub struct Outside {
    /// Our endpoints; set once the driver's handle exists.
    pub locals: Arc<OnceLock<Locals>>,
    /// Our identity and whom we trust.
    pub credentials: Credentials,
    /// What is counted.
    pub metrics: Metrics,
    /// Where spans go.
    pub spans: SpanSink,
    /// Records of incidents, kept over restarts.
    pub incidents: Incidents,
    /// What operators of ours asked.
    pub questions: Questions,
    /// How often others are answered.
    pub throttle: Throttle,
    /// The newest promises of leases, to be saved at once.
    pub promises: watch::Sender<Option<Promises>>,
    /// Rung when something is to be saved.
    pub save: Arc<Notify>,
    /// Rung when nobody is known to be alive.
    pub lonely: mpsc::Sender<()>,
    /// Beaten each turn.
    pub heartbeat: Arc<AtomicU64>,
}

impl Effects for Outside {
    fn handle(&mut self, event: Event, node: &Node) {
        self.metrics.observe_event(&event);
        if let Event::IncidentOpened { key, .. }
        | Event::IncidentClosed { key, .. }
        | Event::IncidentChanged { key } = &event
            && let Some(record) = node.incident_by(&key.to_string())
        {
            self.incidents.keep(record);
        }
        match event {
            Event::Activate { endpoint, order, incident, within, .. } => {
                if let Some(locals) = self.locals.get() {
                    let term = node.lease(&endpoint.service).map(|lease| lease.term);
                    locals.activate(&endpoint, order, incident.as_ref(), term, within);
                }
            }
            Event::WarmUp { endpoint, order, within } => {
                if let Some(locals) = self.locals.get() {
                    locals.warm_up(&endpoint, order, within);
                }
            }
            Event::Deactivate { endpoint, stop } => {
                if let Some(locals) = self.locals.get() {
                    locals.deactivate(&endpoint, stop);
                }
            }
            Event::Check { endpoint } => {
                if let Some(locals) = self.locals.get() {
                    locals.check_now(&endpoint);
                }
            }
            // A full queue means that the seeds are being dialled already.
            Event::Lonely => drop(self.lonely.try_send(())),
            Event::SaveTable | Event::SaveDocuments | Event::SaveActivations => {
                self.save.notify_one();
            }
            Event::SavePromises { serial, books } => {
                // Whoever waits for the disk says nothing until the newest is on it.
                self.promises.send_replace(Some((serial, books)));
            }
            Event::Trust(roots) => {
                if let Err(error) = self.credentials.set_trust(roots) {
                    tracing::error!(%error, "trust bundle not taken");
                }
            }
            Event::Revoked(revoked) => self.credentials.set_revoked(revoked),
            Event::Spans(spans) => self.spans.send(spans),
            Event::Watch(_) | Event::Relay(_) => {}
            told => tell(told),
        }
    }

    fn asked(&mut self, ask: &Ask, node: &Node, now: Time) -> Option<Answer> {
        if !self.throttle.allows() {
            return None;
        }
        let body = match ask.what.split_once('/') {
            Some(("incident", id)) => {
                let view = node.incident_by(id).or_else(|| self.incidents.find(id));
                view.map(|view| serde_json::to_vec(&view))
            }
            Some(("drill", id)) => {
                let view = node.drill_views(now).into_iter().find(|d| d.id == id);
                view.map(|view| serde_json::to_vec(&view))
            }
            _ => None,
        };
        // Nothing to say is an answer too.
        let body = body.and_then(Result::ok).unwrap_or_default();
        let body = if body.len() <= questions::MAX_ANSWER { body } else { Vec::new() };
        Some(Answer { nonce: ask.nonce, body })
    }

    fn answered(&mut self, from: &NodeName, answer: Answer) {
        self.questions.answered(from, answer);
    }

    fn refused(&mut self, endpoint: &EndpointId) {
        if let Some(locals) = self.locals.get() {
            locals.refused(endpoint);
        }
    }

    fn broke(&mut self, endpoint: &EndpointId) {
        if let Some(locals) = self.locals.get() {
            locals.broke(endpoint);
        }
    }

    fn turn(&mut self, late: Duration) {
        self.heartbeat.fetch_add(1, Ordering::Relaxed);
        self.metrics.loop_lag(late);
    }
}

/// Logs what people want to find again.
fn tell(event: Event) {
    match event {
        Event::Refused { what, reason, from, detail } => {
            tracing::warn!(what, reason, %from, detail, "refused");
        }
        Event::Member { node, from, to } => match to {
            Swim::Down => tracing::warn!(%node, %from, "member down"),
            // At a start everybody is new.
            Swim::Alive if from == Swim::Unheard => tracing::debug!(%node, %from, "member alive"),
            Swim::Alive => tracing::info!(%node, %from, "member alive"),
            Swim::Suspect | Swim::Unsteady | Swim::Unheard => {
                tracing::info!(%node, %from, "member {to}");
            }
        },
        Event::Condition { endpoint, from, to, activation } => {
            let activation_ms = activation.map(|d| d.as_secs_f64() * 1e3);
            tracing::info!(%endpoint, from, to, activation_ms, "endpoint condition changed");
        }
        Event::Lease { service, term, held: Ok(endpoint) } => {
            tracing::info!(%service, term, %endpoint, "lease won");
        }
        Event::Lease { service, term, held: Err(reason) } => {
            tracing::warn!(%service, term, reason, "lease lost");
        }
        Event::IncidentOpened { key, reason, decision } => {
            let trace_id = format!("{:032x}", key.trace_id());
            tracing::warn!(incident = %key, lost = %key.lost, reason, decision, trace_id, "incident opened");
        }
        Event::IncidentClosed { key, after, stable } => {
            let trace_id = format!("{:032x}", key.trace_id());
            let after_ms = after.as_secs_f64() * 1e3;
            tracing::info!(incident = %key, after_ms, stable, trace_id, "incident closed");
        }
        Event::DrillBegan { id, service, lose } => {
            tracing::warn!(drill = %id, %service, lose, "drill begins: taken for lost on purpose");
        }
        Event::DrillOver { id, service, why } => {
            tracing::warn!(drill = %id, %service, why, "drill over");
        }
        _ => {}
    }
}

/// Writes table, documents and what activations took to disk when they changed. A disk that is full is an error that keeps
/// serving: it is tried again until it succeeds.
pub async fn save(state: Arc<StateDir>, handle: Handle, changed: Arc<Notify>) {
    loop {
        changed.notified().await;
        tokio::time::sleep(SAVE_AFTER).await;
        let read = |node: &Node, _| {
            (node.table_records(), node.document_records(), node.activation_records().clone())
        };
        let Ok((table, documents, activations)) = handle.read(read).await else { return };
        let state = state.clone();
        let saved = tokio::task::spawn_blocking(move || {
            state.save_table(&table)?;
            state.save_activations(activations)?;
            state.save_documents(&documents)
        });
        match saved.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, again_s = SAVE_AGAIN.as_secs(),
                    "state not saved; it is kept in memory");
                tokio::time::sleep(SAVE_AGAIN).await;
                changed.notify_one();
            }
            Err(error) => tracing::error!(%error, "saving state broke off"),
        }
    }
}

/// Has the traffic path forget endpoints that no route knows any more, and the links peers that are gone
/// for good, now and then.
pub async fn sweep(proxy: Proxy, links: Links) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        every.tick().await;
        proxy.sweep();
        links.sweep(SWEEPS_UNUSED);
    }
}

/// Hands what the traffic path counted at endpoints to the core, as often as its judgement of outliers
/// expects it. While nothing is called nothing is told; after a stall of ours no round is made up for.
pub async fn sample(proxy: Proxy, handle: Handle) {
    let mut every = tokio::time::interval(SAMPLE_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tolls = Tolls { proxy: proxy.clone(), last: BTreeMap::new() };
    loop {
        every.tick().await;
        let samples = proxy.samples();
        if !samples.is_empty() && handle.command(Command::Samples(samples)).await.is_err() {
            return;
        }
        let told = tolls.take(&handle.snapshot().load());
        if !told.is_empty() && handle.command(Command::Toll(told)).await.is_err() {
            return;
        }
    }
}

/// What requests of each service came to when this was last looked at. Looked at all the time, so that a
/// drill's count begins where the drill does, to a quarter second.
struct Tolls {
    proxy: Proxy,
    last: BTreeMap<ServiceName, (u64, u64)>,
}

impl Tolls {
    /// What came since, of services of which a drill runs.
    fn take(&mut self, snapshot: &Snapshot) -> Vec<(ServiceName, u64, u64)> {
        let mut told = Vec::new();
        self.last.retain(|service, _| snapshot.services.contains_key(service));
        for service in snapshot.services.keys() {
            let (requests, failed) = self.proxy.toll(service);
            let last = self.last.insert(service.clone(), (requests, failed));
            let (before, failed_before) = last.unwrap_or((requests, failed));
            if snapshot.drilled.contains(service) && requests > before {
                told.push((
                    service.clone(),
                    requests - before,
                    failed.saturating_sub(failed_before),
                ));
            }
        }
        told
    }
}

/// Dials the seeds whenever nobody is known to be alive.
pub async fn dial_seeds(
    seeds: Arc<arc_swap::ArcSwap<Vec<HostPort>>>,
    links: Links,
    mut lonely: mpsc::Receiver<()>,
) {
    let mut rounds = 0u64;
    while lonely.recv().await.is_some() {
        rounds += 1;
        for seed in seeds.load_full().iter() {
            match seed.resolve().await {
                Ok(addresses) => addresses.into_iter().for_each(|a| links.dial_seed(a)),
                Err(error) => tracing::warn!(%seed, %error, "seed cannot be looked up"),
            }
        }
        // The first rounds are a normal start; after that somebody should look.
        if rounds == 5 || rounds.is_multiple_of(60) {
            let list: Vec<String> = seeds.load().iter().map(ToString::to_string).collect();
            tracing::warn!(
                seeds = list.join(", "),
                rounds,
                hint = "check mesh.seeds, that an agent runs there, and that UDP port 7940 is open \
                        both ways; this agent serves meanwhile with what it knows",
                "no seed answers"
            );
        }
    }
}
