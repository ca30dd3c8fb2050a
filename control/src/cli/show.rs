//! What the agent says, for people: tables, sentences, timelines. Pure: values in, text out.

use hearth_proto::time::Wall;
use hearth_proto::view::{
    ActivationView, DrillView, EndpointView, ExplainView, FailbackView, IncidentView, LinkView,
    MemberView, RouteView, StatusView,
};

use super::table::{Style, Table, pairs, wrap};
use crate::moment::{ago, between, length, measured, utc};

/// How to lay out, and what time it is.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Layout.
    pub style: Style,
    /// Now.
    pub now: Wall,
}

impl Page {
    fn ago(self, then: Wall) -> String {
        ago(then, self.now)
    }
}

fn policy(status: &StatusView, page: Page) -> String {
    match (status.policy_version, status.policy_issued) {
        (0, _) => "none yet: every service has the defaults".to_owned(),
        (version, Some(issued)) => format!("version {version}, signed {}", page.ago(issued)),
        (version, None) => format!("version {version}"),
    }
}

fn certificate(expires: Option<Wall>, page: Page) -> String {
    match expires {
        None => "none".to_owned(),
        Some(at) if at <= page.now => {
            format!("EXPIRED {} ({}): join again with a new token", page.ago(at), utc(at))
        }
        Some(at) => format!("valid for {} (until {})", length(between(page.now, at)), utc(at)),
    }
}

/// How many links there are, and which of them do not run as they should.
fn links(links: &[LinkView]) -> String {
    let silent = links.iter().filter(|l| l.state == "silent").count();
    let mut text = format!("{} up, {silent} silent", links.len() - silent);
    for link in links.iter().filter(|l| on_tcp(&l.carrier)) {
        text += &format!("; {} over {}", link.node, link.carrier);
    }
    for (link, via) in links.iter().filter_map(|l| Some((l, l.via.as_ref()?))) {
        text += &format!("; {} through {via}", link.node);
    }
    text
}

fn on_tcp(carrier: &str) -> bool {
    carrier.starts_with("tcp")
}

/// `hearth status`
pub fn status(view: &StatusView, page: Page) -> String {
    let incidents = match view.open_incidents {
        0 => "none open".to_owned(),
        n => format!("{n} open: see hearth incidents"),
    };
    let mut text = pairs(
        page.style,
        &[
            ("node", format!("{} (hearth-agent {})", view.node, view.agent_version)),
            (
                "phase",
                format!(
                    "{}, started {} (generation {})",
                    view.phase,
                    page.ago(view.started),
                    view.generation
                ),
            ),
            ("address", view.address.clone()),
            (
                "members",
                format!(
                    "{} alive, {} suspect, {} unsteady, {} down; {} records",
                    view.alive, view.suspect, view.unsteady, view.down, view.records
                ),
            ),
            ("links", links(&view.links)),
            ("policy", policy(view, page)),
            ("certificate", certificate(view.certificate_expires, page)),
            ("incidents", incidents),
        ],
    );
    for d in &view.drills {
        let DrillView { id, service, lose, left_s, .. } = d;
        text.push_str(&format!(
            "DRILL      {id} of {service}: {lose} taken for lost, {left_s:.0} s left\n"
        ));
    }
    for lease in &view.leases {
        text.push_str(&format!("LEASE      of {}: {}\n", lease.service, lease.sentence));
    }
    if !view.endpoints.is_empty() {
        text.push('\n');
        text.push_str(&endpoints(&view.endpoints, page));
    }
    text
}

/// An endpoint's state in a word: its standing, except where it is out because that is its part.
fn state(e: &EndpointView) -> &str {
    match (e.standing.as_str(), e.condition.as_str()) {
        ("out", "standby") if e.reason.starts_with("it stands by") => "standby",
        ("out", "activating") if e.reason.starts_with("it is being activated") => "activating",
        (standing, _) => standing,
    }
}

/// Endpoints, one a line: first how they are seen from here, then what their owner says.
fn endpoints(list: &[EndpointView], page: Page) -> String {
    let mut table = Table::new(&["ENDPOINT", "ROLE", "STATE", "FOR", "OWNER SAYS", "WHY"]);
    for e in list {
        let why = match (&e.activated_for, e.reason.as_str()) {
            (Some(incident), "") => format!("activated for {incident}"),
            (Some(incident), reason) => format!("{reason}; activated for {incident}"),
            (None, reason) => reason.to_owned(),
        };
        let term = e.term.map_or_else(String::new, |term| format!("holds the lease, term {term}"));
        let parts = [term, why, e.activations.as_ref().map(activations).unwrap_or_default()];
        let why = parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("; ");
        table.row([
            e.endpoint.clone(),
            e.role.clone(),
            state(e).to_owned(),
            length(between(e.standing_since, page.now)),
            format!("{}, {}", e.condition, page.ago(e.condition_since)),
            why,
        ]);
    }
    table.render(page.style)
}

/// How long activations took, where their owner is asked.
fn activations(a: &ActivationView) -> String {
    let s = |seconds: Option<f64>| format!("{:.2} s", seconds.unwrap_or_default());
    let mut text = match a.count {
        0 => "never activated".to_owned(),
        n => format!(
            "{n} activations (median {}, 95 % in {}, longest {})",
            s(a.p50_s),
            s(a.p95_s),
            s(a.max_s)
        ),
    };
    if a.failures > 0 {
        text.push_str(&format!(", {} given up", a.failures));
    }
    text
}

/// `hearth failback`
pub fn failback(view: &FailbackView) -> String {
    let mut text = String::new();
    for endpoint in &view.told {
        text.push_str(&format!("{endpoint} told to stand down: it does unless it sees a need\n"));
    }
    for endpoint in &view.needed {
        text.push_str(&format!(
            "{endpoint} is needed and stays: see hearth explain {}\n",
            view.service
        ));
    }
    if let Some(refused) = &view.refused {
        text.push_str(&format!("nobody was told: {refused}\n"));
    }
    if text.is_empty() {
        text = format!("no warm endpoint of {} is up as seen from here\n", view.service);
    }
    text
}

/// `hearth members`
pub fn members(list: &[MemberView], page: Page) -> String {
    let mut table =
        Table::new(&["NODE", "STATE", "SINCE", "ADDRESS", "ZONE", "POLICY", "ENDPOINTS"]);
    for m in list {
        let offers: Vec<String> = m
            .endpoints
            .iter()
            .map(|e| match m.state.as_str() {
                // Its owner's last word is all there is, and no longer true.
                "down" | "left" => format!("{} {} (was {})", e.service, e.role, e.condition),
                _ => format!("{} {} {}", e.service, e.role, e.condition),
            })
            .collect();
        table.row([
            m.node.to_string(),
            m.state.clone(),
            page.ago(m.since),
            if on_tcp(&m.link) { format!("{}, {}", m.address, m.link) } else { m.address.clone() },
            m.zone.clone(),
            m.policy_version.to_string(),
            offers.join(", "),
        ]);
    }
    table.render(page.style)
}

/// `hearth routes`
pub fn routes(list: &[RouteView], page: Page) -> String {
    if list.is_empty() {
        return "no service is known here yet\n".to_owned();
    }
    let mut table = Table::new(&["SERVICE", "DECISION", "SERVING", "GOES TO", "WHY"]);
    for r in list {
        let picks = match r.picks.as_slice() {
            [] => "nobody".to_owned(),
            picks => {
                picks.iter().map(|p| short(p, r.service.as_str())).collect::<Vec<_>>().join(" ")
            }
        };
        table.row([
            r.service.to_string(),
            r.decision.clone(),
            format!("{}/{}", r.serving, r.needed),
            picks,
            r.reason.clone(),
        ]);
    }
    table.render(page.style)
}

/// `node` instead of `service@node` where the service stands beside it.
fn short(endpoint: &str, service: &str) -> String {
    let rest = endpoint.strip_prefix(service).and_then(|rest| rest.strip_prefix('@'));
    rest.unwrap_or(endpoint).to_owned()
}

/// `hearth explain SERVICE`
pub fn explain(view: &ExplainView, page: Page) -> String {
    let mut text = String::new();
    for sentence in &view.sentences {
        text.push_str(&wrap(sentence, page.style.width).join("\n  "));
        text.push('\n');
    }
    if !view.endpoints.is_empty() {
        text.push('\n');
        text.push_str(&endpoints(&view.endpoints, page));
    }
    if !view.incidents.is_empty() {
        text.push('\n');
        text.push_str(&incidents(&view.incidents, page));
    }
    text.push_str(&format!(
        "\nas seen from {}, under policy version {}\n",
        view.node, view.policy_version
    ));
    text
}

/// `hearth incidents`
pub fn incidents(list: &[IncidentView], page: Page) -> String {
    if list.is_empty() {
        return "no incidents\n".to_owned();
    }
    let mut table = Table::new(&[
        "INCIDENT",
        "OPENED",
        "LOST",
        "MOVED IN",
        "STABLE IN",
        "RECOVERED",
        "CALLED UP",
        "REASON",
    ]);
    for i in list {
        let after = |at| measured(between(i.opened, at));
        let stable = i.stable.map_or_else(|| "open".to_owned(), after);
        let moved = i.timeline.iter().find(|entry| entry.event == "shift");
        let moved = moved.map(|entry| after(entry.at)).unwrap_or_default();
        let recovered = i.recovered.map_or_else(|| "not yet".to_owned(), after);
        table.row([
            i.id.clone(),
            page.ago(i.opened),
            i.lost.clone(),
            moved,
            stable,
            recovered,
            i.activated.clone().unwrap_or_default(),
            i.reason.clone(),
        ]);
    }
    table.render(page.style)
}

#[cfg(test)]
mod tests;
