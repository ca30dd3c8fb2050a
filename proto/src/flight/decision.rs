//! What counts as a decision, and the line of text it is: one text for the recording, the replay and people.
//!
//! A decision is what changes where requests go, who is to serve, or what is told of a loss: routes and
//! standings, conditions of own endpoints, hooks, wakes, looks, cuts, incidents, refusals. Whom gossip is
//! sent to is none.

use crate::ids::Identity;
use crate::lifecycle::Stop;
use crate::node::{Event, Mark, Node, Transmit};
use crate::route::{Route, Snapshot};
use crate::wire::Message;

/// What was decided in the step since `mark`, before which the routes were `before`.
pub(super) fn lines(node: &Node, mark: Mark, before: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    let after = node.snapshot();
    if after.version != before.version {
        for (name, route) in &after.services {
            match before.services.get(name) {
                Some(old) if std::sync::Arc::ptr_eq(old, route) => {}
                old => moved(old.map(AsRef::as_ref), route, &mut lines),
            }
        }
    }
    lines.extend(node.events_since(mark).filter_map(event));
    lines.extend(node.transmits_since(mark).filter_map(transmit));
    lines
}

/// How a route differs from the one before.
fn moved(old: Option<&Route>, new: &Route, lines: &mut Vec<String>) {
    for c in &new.candidates {
        let was = old.and_then(|o| o.candidates.iter().find(|x| x.id == c.id));
        let word = |standing: &crate::evidence::Standing| match standing.why() {
            Some(why) => format!("{} ({why})", standing.word()),
            None => standing.word().to_owned(),
        };
        let now = word(&c.standing);
        match was.map(|x| word(&x.standing)) {
            Some(before) if before == now => {}
            Some(before) => lines.push(format!("{}: {before} → {now}", c.id)),
            None => lines.push(format!("{}: {now}", c.id)),
        }
    }
    let gone = old.into_iter().flat_map(|o| &o.candidates);
    for c in gone.filter(|c| !new.candidates.iter().any(|x| x.id == c.id)) {
        lines.push(format!("{}: gone", c.id));
    }
    let (was, now) = (old.map(summary), summary(new));
    if was.as_ref() != Some(&now) {
        lines.push(now);
    }
}

fn summary(route: &Route) -> String {
    let ids = |ids: &mut dyn Iterator<Item = String>| ids.collect::<Vec<_>>().join(", ");
    let mut text = format!("route {}: {}, {}", route.service, route.choice.word(), route.reason);
    let picks =
        ids(&mut route.choice.indices().iter().map(|i| route.candidates[*i].id.to_string()));
    if !picks.is_empty() {
        text.push_str(&format!("; picks {picks}"));
    }
    let tally = &route.tally;
    text.push_str(&format!("; {} of {} needed serve", tally.serving, tally.needed));
    let called = ids(&mut tally.called.iter().map(ToString::to_string));
    if !called.is_empty() {
        text.push_str(&format!("; called {called}"));
    }
    text
}

fn event(event: &Event) -> Option<String> {
    Some(match event {
        Event::Activate { endpoint, incident, attempt, .. } => match incident {
            Some(key) => format!("activate {endpoint} for {key}, attempt {attempt}"),
            None => format!("activate {endpoint}, attempt {attempt}"),
        },
        Event::WarmUp { endpoint, .. } => format!("warm up {endpoint}"),
        Event::Deactivate { endpoint, stop: Stop::Idle } => {
            format!("deactivate {endpoint} once it is idle")
        }
        Event::Deactivate { endpoint, stop: Stop::Now } => format!("deactivate {endpoint} now"),
        Event::Check { endpoint } => format!("check {endpoint}"),
        Event::Condition { endpoint, from, to, .. } => format!("{endpoint}: {from} → {to}"),
        Event::IncidentOpened { key, reason, decision } => {
            format!("incident {key} of {} opens ({reason}): {decision}", key.lost)
        }
        Event::IncidentClosed { key, after, stable } => {
            let word = if *stable { "is stable" } else { "is given up" };
            format!("incident {key} {word} after {after:?}")
        }
        Event::IncidentChanged { key } => format!("incident {key} is over, {} is ready", key.lost),
        Event::DrillBegan { id, service, lose } => format!("{id} of {service} begins: {lose}"),
        Event::DrillOver { id, service, why } => format!("{id} of {service} is over: {why}"),
        Event::Watch(peers) => {
            let names: Vec<String> = peers.iter().map(|(name, _)| name.to_string()).collect();
            format!("sense {}", names.join(", "))
        }
        Event::Relay(wishes) => {
            let ways: Vec<String> =
                wishes.iter().map(|w| format!("{} through {}", w.to, w.via)).collect();
            format!("relay {}", ways.join(", "))
        }
        Event::Lease { service, term, held: Ok(endpoint) } => {
            format!("{endpoint} holds the lease of {service}, term {term}")
        }
        Event::Lease { service, term, held: Err(why) } => {
            format!("the lease of {service}, term {term}, is {why}")
        }
        Event::Trust(roots) => format!("trust {} roots", roots.len()),
        Event::Revoked(revoked) => format!("revoke {} nodes", revoked.len()),
        // SWIM's packets are not in the recording, so their refusals are not either.
        Event::Refused { what: "swim", .. } => return None,
        Event::Refused { what, reason, from, .. } => {
            let from = match from {
                Identity::Node(name) | Identity::Control(name) => name,
            };
            format!("refuse {what} of {from}: {reason}")
        }
        // What membership says is put in, not decided.
        Event::Member { .. } => return None,
        Event::Lonely
        | Event::SaveTable
        | Event::SaveDocuments
        | Event::SaveActivations
        | Event::SavePromises { .. }
        | Event::Spans(_) => return None,
    })
}

fn transmit(transmit: &Transmit) -> Option<String> {
    match transmit {
        Transmit::Message { to, message: Message::Wake(wake), .. } => {
            let how = if wake.urgent { "urgently " } else { "" };
            Some(format!("wake {} {how}over {to} for {}", wake.endpoint, wake.incident))
        }
        Transmit::Look { node, .. } => Some(format!("look at {node}")),
        Transmit::Cut { node } => Some(format!("cut {node}")),
        Transmit::Message { .. } | Transmit::Datagram { .. } => None,
    }
}
