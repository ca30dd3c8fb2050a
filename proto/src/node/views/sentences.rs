//! The explanation in words, for a person who was woken by it: first where requests go, then what the
//! policy wants, then of every endpoint whether it serves, stands by or is out, for how long and why.
//!
//! Pure: the same values that stand beside the sentences in `ExplainView`, said aloud. Decides nothing.

use crate::balance::tiers::{Tier, WHOLE};
use crate::exclusive::Status;
use crate::policy::{Balance, Failback, Mode, Need};
use crate::route::{Choice, Route};
use crate::time::Wall;
use crate::view::{EndpointView, IncidentView};

/// Endpoints named in one sentence; of more their number is said.
const NAMED: usize = 6;

/// The sentences about one service.
pub(super) fn of(
    route: &Route,
    endpoints: &[EndpointView],
    incidents: &[IncidentView],
    policy_version: u64,
    now: Wall,
) -> Vec<String> {
    let mut said = vec![traffic(route)];
    said.extend(distance(route));
    said.extend(session(route));
    said.push(demand(route, policy_version));
    if route.tally.short > 0 {
        let none = !endpoints.iter().any(|e| e.role == "warm");
        let why =
            if none { "There is no warm endpoint" } else { "No warm endpoint is left to call" };
        said.push(format!("{why}: {} more would be called up.", route.tally.short));
    }
    match route.tally.damped {
        0 => {}
        1 => said.push(
            "One hot endpoint serves and does not count: it was lost too often of late.".into(),
        ),
        n => said.push(format!(
            "{n} hot endpoints serve and do not count: they were lost too often of late."
        )),
    }
    let about = About { route, incidents, now };
    said.extend(endpoints.iter().map(|e| about.endpoint(e)));
    said
}

/// Where this node's seat among the owners of an exclusive service stands.
pub(super) fn seat(status: &Status) -> String {
    format!("Of the lease: {status}.")
}

fn traffic(route: &Route) -> String {
    let (service, reason) = (&route.service, &route.reason);
    let to = names(route);
    match &route.choice {
        Choice::Serve(picks) if picks.len() > 1 => {
            format!("Requests for {service} go to {to} ({reason}), {}.", balancer(route))
        }
        Choice::Serve(_) => format!("Requests for {service} go to {to} ({reason})."),
        Choice::Panic(_) => format!("Requests for {service} go to {to}, good or not: {reason}."),
        Choice::Relay(_) => format!("Requests for {service} go to {to}, {reason}."),
        Choice::Wake(_) => format!("Requests for {service} wait for {to}: {reason}."),
        Choice::Nobody => format!("Requests for {service} fail: {reason}."),
    }
}

/// How one of several is picked.
fn balancer(route: &Route) -> &'static str {
    match route.policy.balance {
        Balance::PeakEwma => "each to the less loaded of two drawn at random",
        Balance::LeastRequest => "each to the one of two drawn at random that has fewer under way",
        Balance::RoundRobin => "to one after the other",
        Balance::RingHash => "those of one session or client to the same",
    }
}

/// How far requests go, where that differs.
fn distance(route: &Route) -> Option<String> {
    let mut before = 0;
    let mut parts = Vec::new();
    for share in route.spread.shares() {
        let part = share.upto - std::mem::replace(&mut before, share.upto);
        let percent = (part * 100 + WHOLE / 2) / WHOLE;
        let endpoints = |thousandths: u64| {
            let tenths = thousandths.div_ceil(100);
            match tenths % 10 {
                0 => (tenths / 10).to_string(),
                tenth => format!("{}.{tenth}", tenths / 10),
            }
        };
        let place = match share.tier {
            Tier::Zone => "stay in this zone",
            Tier::Region => "go to other zones of this region",
            Tier::Rest => "go beyond",
        };
        parts.push(format!(
            "{percent}% {place} ({} of {} endpoints ready)",
            endpoints(share.ready),
            endpoints(share.should)
        ));
    }
    let (last, others) = parts.split_last()?;
    let spill = match route.spread.shares().first() {
        Some(nearest) if nearest.upto < WHOLE => {
            "What is nearest has too little left of what it should have, so part of the requests spills over"
        }
        _ => "What is nearest has enough",
    };
    Some(format!("{spill}: {} and {last}.", others.join(", ")))
}

/// What keeps sessions together.
fn session(route: &Route) -> Option<String> {
    let name = route.policy.affinity.as_ref()?;
    Some(format!(
        "Requests of one session (by {name}) go to the same endpoint wherever it is; when it is lost its \
         sessions move, and return with it."
    ))
}

/// Whom requests may go to: `hot-1, hot-2 and warm-1`.
fn names(route: &Route) -> String {
    let ids = route.choice.indices().iter().filter_map(|i| route.candidates.get(*i));
    let mut names: Vec<String> = ids
        .map(|c| match c.id.instance {
            0 => c.id.node.to_string(),
            instance => format!("{}#{instance}", c.id.node),
        })
        .collect();
    if names.len() > NAMED {
        let more = names.len() - NAMED;
        names.truncate(NAMED);
        names.push(format!("{more} more"));
    }
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => "nobody".to_owned(),
    }
}

fn demand(route: &Route, policy_version: u64) -> String {
    let tally = &route.tally;
    let by = match policy_version {
        0 => "By default (no policy was received)".to_owned(),
        version => format!("By policy version {version}"),
    };
    if route.policy.mode == Mode::HotHot {
        return format!(
            "{by}, nobody is called up (mode hot-hot); {} of {} hot serve.",
            tally.hot, tally.declared
        );
    }
    if route.policy.mode == Mode::Exclusive {
        let owners = route.policy.exclusive.as_ref().map_or(0, |e| e.owners.len());
        return format!(
            "{by}, one endpoint at a time serves, and only while most of the {owners} owners lease it to its \
             node (mode exclusive)."
        );
    }
    let share = match route.policy.min_hot {
        Need::Count(n) => format!("min_hot {n}"),
        Need::Percent(p) if (tally.declared * usize::from(p.0)).is_multiple_of(100) => {
            format!("min_hot {}% of {} hot", p.0, tally.declared)
        }
        Need::Percent(p) => format!("min_hot {}% of {} hot, rounded up", p.0, tally.declared),
    };
    format!("{by}, {} must serve ({share}); {} do.", tally.needed, tally.serving)
}

/// What sentences about endpoints draw on.
struct About<'a> {
    route: &'a Route,
    incidents: &'a [IncidentView],
    now: Wall,
}

impl About<'_> {
    fn endpoint(&self, e: &EndpointView) -> String {
        let who = format!("{} ({})", e.endpoint, e.role);
        let standing = self.for_(e.standing_since);
        let called = self.route.tally.called.iter().any(|id| id.to_string() == e.endpoint);
        match (e.standing.as_str(), e.condition.as_str()) {
            ("ready", _) if e.role == "warm" => {
                let why = self.activation(e, called);
                format!("{who} has served for {}: {why}.", self.for_(e.condition_since))
            }
            ("ready", _) if !e.reason.is_empty() => {
                format!("{who} serves, ready for {standing}, {}.", e.reason)
            }
            ("ready", _) => format!("{who} serves, ready for {standing}."),
            ("out", "standby") if called => format!("{who} stands by and is called up."),
            ("out", "standby") if e.reason.starts_with("it stands by") => {
                format!("{who} stands by, for {}.", self.for_(e.condition_since))
            }
            ("out", "activating") if e.reason.starts_with("it is being activated") => {
                let why = self.activation(e, called);
                format!("{who} has been starting for {}: {why}.", self.for_(e.condition_since))
            }
            (word, _) => {
                let mut text = format!("{who} has been {word} for {standing}: {}", e.reason);
                if e.condition == "standby" {
                    text.push_str("; it stood by");
                }
                let lost = |i: &&IncidentView| i.lost == e.endpoint && i.recovered.is_none();
                if let Some(incident) = self.incidents.iter().find(lost) {
                    text.push_str(&format!(" (incident {})", incident.id));
                }
                text + "."
            }
        }
    }

    /// Why a warm endpoint is up, or still is.
    fn activation(&self, e: &EndpointView, called: bool) -> String {
        if self.route.policy.mode == Mode::Exclusive {
            return self.tenure();
        }
        let mut why = match &e.activated_for {
            None => "called up because too few hot ones served".to_owned(),
            Some(id) => match self.incidents.iter().find(|i| i.id == *id) {
                Some(i) => format!("called up when {} was lost (incident {id})", i.lost),
                None => format!("called up for incident {id}"),
            },
        };
        match (called, self.route.policy.failback) {
            (true, _) => {}
            (false, Failback::After(hold)) => why.push_str(&format!(
                "; not needed any more, stands down when that has been so for {hold}"
            )),
            (false, Failback::Never) => {
                why.push_str("; not needed any more, stays up (failback never)");
            }
            (false, Failback::Manual) => why.push_str(&format!(
                "; not needed any more, stays up until `hearth failback {}` (failback manual)",
                e.service
            )),
        }
        why
    }

    /// A warm owner serves since it holds the lease, whoever else is up: when it gives it back.
    fn tenure(&self) -> String {
        let until = match self.route.policy.failback {
            Failback::After(hold) => {
                format!("hands it to a hot owner that has been able to serve for {hold}")
            }
            Failback::Never => "keeps it until it is drained (failback never)".to_owned(),
            Failback::Manual => "keeps it until it is drained (failback manual)".to_owned(),
        };
        format!("it holds the lease, and {until}")
    }

    /// How long something has been so.
    fn for_(&self, since: Wall) -> String {
        let s = self.now.0.saturating_sub(since.0) / 1_000_000;
        match s {
            0 => "less than a second".to_owned(),
            1..=119 => format!("{s} s"),
            120..=7199 => format!("{} min", s / 60),
            7200..=172_799 => format!("{} h", s / 3600),
            _ => format!("{} days", s / 86_400),
        }
    }
}

#[cfg(test)]
mod tests;
