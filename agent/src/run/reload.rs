//! Reading the configuration anew: all of it takes effect, or nothing does.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::config::{Changes, Config};
use crate::driver::Command;
use crate::local;
use crate::proxy::Entry;

use super::{Running, core_endpoints, entries};

/// Reloads. The text says what changed, or why nothing did.
pub(super) async fn reload(path: &Path, running: &mut Running) -> Result<String, String> {
    running.notify.reloading();
    let outcome = attempt(path, running).await;
    match &outcome {
        Ok(what) => tracing::info!(what, "configuration reloaded"),
        Err(error) => tracing::error!(error, "configuration not reloaded, the old one is kept"),
    }
    running.notify.ready(super::STATUS);
    outcome
}

async fn attempt(path: &Path, running: &mut Running) -> Result<String, String> {
    let new = Config::load(path, std::env::vars()).map_err(|e| e.to_string())?;
    let changes = running.config.diff(&new).map_err(|e| e.to_string())?;
    if changes.is_empty() {
        return Ok("nothing changed".to_owned());
    }
    if changes.upstreams {
        // The only step that can fail comes first: a port may be taken.
        listen(running, &new).await?;
    }
    if changes.log {
        running.logs.set_filter(&new.log).map_err(|e| e.to_string())?;
    }
    if changes.seeds {
        running.seeds.store(Arc::new(new.mesh.seeds.clone()));
    }
    running.locals.set(&new.endpoints);
    running.proxy.set_locals(local::for_path(&new));
    let interest = new.upstreams.iter().map(|u| u.service.clone()).collect();
    let apply = Command::Apply(core_endpoints(&new), interest);
    running.handle.command(apply).await.map_err(|e| e.to_string())?;
    running.config = new;
    Ok(words(&changes))
}

/// Opens the ports that are new, which may fail: then those opened before are closed again and nothing has
/// changed. After that, ports that lead elsewhere are redirected, without being closed, and those that are
/// gone are closed.
async fn listen(running: &Running, new: &Config) -> Result<(), String> {
    let (before, after) = (entries(&running.config), entries(new));
    let has = |set: &[(SocketAddr, Entry)], address: &SocketAddr| {
        set.iter().any(|(taken, _)| taken == address)
    };
    let mut opened = Vec::new();
    for (address, entry) in after.iter().filter(|(address, _)| !has(&before, address)) {
        match running.proxy.listen(*address, entry.clone()).await {
            Ok(bound) => opened.push(bound),
            Err(error) => {
                opened.into_iter().for_each(|bound| running.proxy.close_listener(bound));
                return Err(error.to_string());
            }
        }
    }
    for (address, entry) in after.iter().filter(|(address, _)| has(&before, address)) {
        running.proxy.redirect(*address, entry.clone());
    }
    let gone = before.iter().filter(|(address, _)| !has(&after, address));
    gone.for_each(|(address, _)| running.proxy.close_listener(*address));
    Ok(())
}

fn words(changes: &Changes) -> String {
    let mut said = Vec::new();
    let counted = [
        ("endpoints added", changes.added.len()),
        ("endpoints removed", changes.removed.len()),
        ("endpoints altered", changes.altered.len()),
    ];
    said.extend(counted.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")));
    let flags = [
        ("upstreams", changes.upstreams),
        ("socks5", changes.socks),
        ("ingresses", changes.ingresses),
        ("dns", changes.dns),
        ("log filter", changes.log),
        ("seeds", changes.seeds),
        ("zone or region (at the next start)", changes.locality),
        ("telemetry (at the next start)", changes.telemetry),
        ("join (at the next renewal after a start)", changes.join),
    ];
    said.extend(flags.iter().filter(|(_, on)| *on).map(|(what, _)| (*what).to_owned()));
    said.join(", ")
}
