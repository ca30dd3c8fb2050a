//! From ready to gone: signals, reloads, and an orderly end.
//!
//! The order of the end: endpoints drain (callers go elsewhere), requests under way finish, what was activated
//! is deactivated, the mesh is told that we leave, listeners and links close. A second signal ends everything
//! at once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify as Bell, mpsc, oneshot};

use super::{Failure, Running, reload::reload};
use crate::driver::Command;
use crate::exit::Exit;
use crate::local::FINISH_LIMIT;

/// A draining advert reaches the callers within this; requests they sent before still come in.
const SPREAD: Duration = Duration::from_millis(500);
/// Deactivation hooks get so long once requests have finished: as long as one may take by default, and a
/// moment. With what else an end takes it fits into the 45 s of the units in `deploy`.
const HOOKS_LIMIT: Duration = Duration::from_secs(12);
/// Leaving is said so often, so far apart: packets get lost.
const LEAVE_TIMES: usize = 4;
const LEAVE_GAP: Duration = Duration::from_millis(75);
/// Spans that wait get so long to leave.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// A reload somebody asked for, and where the outcome goes.
pub type ReloadRequest = oneshot::Sender<Result<String, String>>;

/// Runs until the agent is told to end.
pub(super) async fn until_end(
    path: &Path,
    mut running: Running,
    mut reloads: mpsc::Receiver<ReloadRequest>,
    leave: Arc<Bell>,
) -> Result<(), Failure> {
    let listen = |kind| {
        signal(kind).map_err(|e| Failure {
            exit: Exit::of_io(&e),
            text: format!("cannot listen for signals: {e}"),
        })
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = leave.notified() => break,
            // The outcome is in the log.
            _ = hangup.recv() => drop(reload(path, &mut running).await),
            Some(asked) = reloads.recv() => {
                let outcome = reload(path, &mut running).await;
                // Whoever asked may have hung up.
                let _ = asked.send(outcome);
            }
        }
    }
    tokio::select! {
        () = end(&running) => {}
        () = again(&mut terminate, &mut interrupt) => {
            tracing::warn!("told twice to stop: stopping at once");
        }
    }
    Ok(())
}

async fn again(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn end(running: &Running) {
    tracing::info!("draining");
    running.notify.stopping("draining");
    // A driver that is gone leaves nothing to drain.
    let _ = running.handle.command(Command::Drain(true)).await;
    tokio::time::sleep(SPREAD).await;
    running.proxy.stop_accepting();
    let left = running.proxy.drained(FINISH_LIMIT).await;
    if left > 0 {
        tracing::warn!(left, limit_s = FINISH_LIMIT.as_secs(), "requests under way are cut");
    }
    let left = running.locals.deactivated(HOOKS_LIMIT).await;
    if left > 0 {
        tracing::warn!(left, limit_s = HOOKS_LIMIT.as_secs(), "deactivation hooks are cut");
    }
    for _ in 0..LEAVE_TIMES {
        let _ = running.handle.command(Command::Leave).await;
        tokio::time::sleep(LEAVE_GAP).await;
    }
    running.links.close().await;
    running.spans.flush(FLUSH_LIMIT).await;
    tracing::info!("agent stopped");
}
