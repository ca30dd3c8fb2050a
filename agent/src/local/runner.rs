//! What is done to the application of one endpoint, one after the other, and what a newer order makes of an older.
//!
//! | under way | and then ordered | |
//! |---|---|---|
//! | an activation, a warm-up | anything | it is broken off, and its result not told |
//! | a deactivation that waits for requests to finish | an activation | it is not run: the application goes on |
//! | | a deactivation at once | it is run |
//! | a deactivation's hook | an activation | it ends first |
//! | | a deactivation | it is that one |
//!
//! One task per endpoint. When its orders end it breaks off an activation and brings a deactivation to its end.

use std::future::pending;
use std::pin::pin;
use std::time::Instant;

use hearth_proto::ids::EndpointId;
use hearth_proto::lifecycle::{DRAIN, Stop};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{FINISH_LIMIT, LOOK_EVERY, UnderWay};
use crate::check::Stopper;
use crate::config::Endpoint;
use crate::counted::Counted;
use crate::driver::Command;
use crate::hook::{self, HookCall};
use crate::warm;

/// An order of the core.
pub(super) enum Task {
    /// One attempt, until then.
    Activate { call: HookCall, order: u64, end: Instant },
    /// Requests, until then.
    WarmUp { endpoint: EndpointId, order: u64, end: Instant },
    /// The hook, when `stop` says; counted until it is done, or not wanted any more.
    Deactivate { call: HookCall, stop: Stop, counted: Counted },
}

/// See the module's text.
pub(super) struct Runner {
    pub(super) config: Endpoint,
    pub(super) stopper: Stopper,
    pub(super) results: mpsc::Sender<Command>,
    pub(super) orders: mpsc::Receiver<Task>,
    pub(super) under_way: UnderWay,
}

impl Runner {
    /// Runs until no orders can come any more.
    pub(super) async fn run(mut self) {
        let mut next = None;
        loop {
            let task = match next.take() {
                Some(task) => task,
                None => match self.orders.recv().await {
                    Some(task) => task,
                    None => return,
                },
            };
            next = match task {
                Task::Deactivate { call, stop, counted } => {
                    let next = self.deactivate(call, stop).await;
                    drop(counted);
                    next
                }
                task => self.bring_up(task).await,
            };
        }
    }

    /// Does an activation or a warm-up and tells the result, unless there is another order before. Returns that.
    async fn bring_up(&mut self, task: Task) -> Option<Task> {
        let Self { config, results, orders, .. } = self;
        let work = async {
            if let Some(told) = result(config, task).await {
                // The agent is ending.
                let _ = results.send(told).await;
            }
        };
        tokio::select! {
            biased;
            newer = orders.recv() => newer,
            () = work => None,
        }
    }

    /// Deactivates the application, unless it is activated before its hook has begun. Returns what is to be done
    /// next.
    async fn deactivate(&mut self, call: HookCall, stop: Stop) -> Option<Task> {
        if stop == Stop::Idle {
            let (under_way, endpoint) = (self.under_way.clone(), call.endpoint.clone());
            let mut idle = pin!(idle(under_way, &endpoint));
            loop {
                tokio::select! {
                    biased;
                    newer = next_of(&mut self.orders) => match newer {
                        Task::Deactivate { stop: Stop::Now, .. } => break,
                        Task::Deactivate { stop: Stop::Idle, .. } => {}
                        activation => return Some(activation),
                    },
                    () = &mut idle => break,
                }
            }
        }
        let hook = self.config.deactivate.as_ref()?;
        let mut run = pin!(hook::run(hook, call));
        let mut next = None;
        loop {
            tokio::select! {
                biased;
                newer = next_of(&mut self.orders) => next = match newer {
                    Task::Deactivate { .. } => None,
                    activation => Some(activation),
                },
                _ = &mut run => break,
            }
        }
        self.stopper.stopped().await;
        next
    }
}

/// The next order, for whoever has something to bring to its end when no more can come.
async fn next_of(orders: &mut mpsc::Receiver<Task>) -> Task {
    match orders.recv().await {
        Some(task) => task,
        None => pending().await,
    }
}

/// Waits until callers have had the time to hear that nothing is to be sent any more, and what they sent before
/// has ended, or has had its time.
async fn idle(under_way: UnderWay, endpoint: &EndpointId) {
    sleep(DRAIN).await;
    let end = Instant::now() + FINISH_LIMIT;
    loop {
        let left = under_way(endpoint);
        if left == 0 {
            return;
        }
        if Instant::now() >= end {
            let limit_s = FINISH_LIMIT.as_secs();
            tracing::warn!(%endpoint, left, limit_s, "deactivated with requests under way");
            return;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Does an activation or a warm-up, and says what the core is told.
async fn result(config: &Endpoint, task: Task) -> Option<Command> {
    match task {
        Task::Activate { call, order, end } => {
            let endpoint = call.endpoint.clone();
            // What it waited for behind another counts.
            let within = end.saturating_duration_since(Instant::now());
            let result = match &config.activate {
                Some(hook) => hook::run_once(hook, call, within).await.result,
                None => Ok(()),
            };
            Some(Command::Hook { endpoint, order, result: result.map_err(|e| e.told()) })
        }
        Task::WarmUp { endpoint, order, end } => {
            if let Some(warm_up) = &config.warm_up {
                let made = warm::up(&config.address, config.http, warm_up);
                // What it has had by then has to do.
                let _ = tokio::time::timeout_at(end.into(), made).await;
            }
            Some(Command::Warmed { endpoint, order })
        }
        Task::Deactivate { .. } => None,
    }
}
