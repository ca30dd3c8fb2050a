//! Reading the configuration anew: all of it takes effect, or nothing does.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::config::{Changes, Config, Transport};
use crate::driver::Command;
use crate::local;

use super::{Running, core_endpoints, entries, interest, udp_entries};

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
    // The files that an ingress names may hold a new certificate, whatever the configuration says.
    let shows = new.ingresses.iter().any(|ingress| ingress.tls.is_some());
    if changes.is_empty() && !shows {
        return Ok("nothing changed".to_owned());
    }
    // What can fail comes first: a port may be taken, a file may be unreadable.
    let names = running.dns.open(new.dns.as_ref()).map_err(|e| e.to_string())?;
    if changes.upstreams || changes.socks || changes.ingresses || shows {
        let opened = open_udp(running, &new)?;
        if let Err(error) = listen(running, &new).await {
            opened.into_iter().for_each(|bound| running.proxy.close_udp(bound));
            return Err(error);
        }
        settle_udp(running, &new);
    }
    running.dns.settle(new.dns.as_ref(), names);
    if changes.log {
        running.logs.set_filter(&new.log).map_err(|e| e.to_string())?;
    }
    if changes.sensing {
        running.links.sense(new.mesh.sensing);
    }
    if changes.relay {
        running.proxy.relay_for_others(new.mesh.relay);
    }
    if changes.lane {
        running.links.prefer(new.mesh.lane);
    }
    if changes.seeds {
        running.seeds.store(Arc::new(new.mesh.seeds.clone()));
    }
    running.locals.set(&new.endpoints);
    running.proxy.set_locals(local::for_path(&new));
    let apply = Command::Apply(core_endpoints(&new), interest(&new));
    running.handle.command(apply).await.map_err(|e| e.to_string())?;
    running.config = new;
    Ok(words(&changes))
}

/// Opens the ports that are new, which may fail: then those opened before are closed again and nothing has
/// changed. After that, ports that lead elsewhere are redirected, without being closed, and those that are
/// gone are closed.
async fn listen(running: &Running, new: &Config) -> Result<(), String> {
    let after = entries(new).map_err(|e| e.to_string())?;
    let before = ports(&running.config);
    let mut opened = Vec::new();
    for (address, entry) in after.iter().filter(|(address, _)| !before.contains(address)) {
        match running.proxy.listen(*address, entry.clone()).await {
            Ok(bound) => opened.push(bound),
            Err(error) => {
                opened.into_iter().for_each(|bound| running.proxy.close_listener(bound));
                return Err(error.to_string());
            }
        }
    }
    for (address, entry) in after.iter().filter(|(address, _)| before.contains(address)) {
        running.proxy.redirect(*address, entry.clone());
    }
    let gone = before.iter().filter(|before| !after.iter().any(|(address, _)| address == *before));
    gone.for_each(|address| running.proxy.close_listener(*address));
    Ok(())
}

/// Opens the ports for datagrams that are new: all of them or none.
fn open_udp(running: &Running, new: &Config) -> Result<Vec<SocketAddr>, String> {
    let before = udp_entries(&running.config);
    let mut opened = Vec::new();
    for (address, entry) in udp_entries(new) {
        if before.iter().any(|(taken, _)| *taken == address) {
            continue;
        }
        match running.proxy.listen_udp(address, entry) {
            Ok(bound) => opened.push(bound),
            Err(error) => {
                opened.into_iter().for_each(|bound| running.proxy.close_udp(bound));
                return Err(error.to_string());
            }
        }
    }
    Ok(opened)
}

/// Redirects the ports for datagrams that stay, and closes those that are gone.
fn settle_udp(running: &Running, new: &Config) {
    let after = udp_entries(new);
    for (address, _) in udp_entries(&running.config) {
        match after.iter().find(|(a, _)| *a == address) {
            Some((_, entry)) => running.proxy.redirect_udp(address, entry.clone()),
            None => running.proxy.close_udp(address),
        }
    }
}

/// The ports of [`entries`].
fn ports(config: &Config) -> Vec<SocketAddr> {
    let streams = config.upstreams.iter().filter(|u| u.transport == Transport::Tcp);
    let own = config.outbound.into_iter().chain(config.socks);
    let ingresses = config.ingresses.iter().map(|ingress| ingress.listen);
    own.chain(streams.map(|u| u.listen)).chain(ingresses).collect()
}

fn words(changes: &Changes) -> String {
    let mut said = Vec::new();
    let counted = [
        ("endpoints added", changes.added.len()),
        ("endpoints removed", changes.removed.len()),
        ("endpoints altered", changes.altered.len()),
    ];
    said.extend(counted.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")));
    let shows = changes.is_empty().then_some("certificates of ingresses read anew");
    said.extend(shows.map(str::to_owned));
    let flags = [
        ("upstreams", changes.upstreams),
        ("socks5", changes.socks),
        ("ingresses", changes.ingresses),
        ("dns", changes.dns),
        ("log filter", changes.log),
        ("seeds", changes.seeds),
        ("lane", changes.lane),
        ("sensing", changes.sensing),
        ("relay", changes.relay),
        ("zone or region (at the next start)", changes.locality),
        ("telemetry (at the next start)", changes.telemetry),
        ("join (at the next renewal after a start)", changes.join),
    ];
    said.extend(flags.iter().filter(|(_, on)| *on).map(|(what, _)| (*what).to_owned()));
    said.join(", ")
}
