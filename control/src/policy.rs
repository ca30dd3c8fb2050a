//! Policy texts: what one means, what changes between two, what can obviously never work.
//!
//! Pure. Changes and warnings are lines for people; the policy itself is proto's.

use std::collections::BTreeSet;
use std::time::Duration;

use hearth_proto::ids::{NodeName, ServiceName};
use hearth_proto::lint::CALLER_HOLD;
use hearth_proto::policy::{
    Caller, Drills, Exclusive, Failback, Hedge, Mode, Need, Patience, Percent, Policy,
    ServicePolicy,
};
use hearth_proto::settings::{self, SettingsError};
use hearth_proto::time::Span;

/// Largest policy text taken.
pub const MAX_TEXT: usize = 256 * 1024;

/// Reads a policy text that stands in `file`.
pub fn compile(file: &str, text: &str) -> Result<Policy, SettingsError> {
    if text.len() > MAX_TEXT {
        return Err(SettingsError {
            file: file.to_owned(),
            place: None,
            what: format!("the policy has {} bytes, at most {MAX_TEXT} are allowed", text.len()),
            hint: None,
        });
    }
    settings::parse(file, text)
}

/// The keys of a service's policy with their values as written, in the order of the documentation.
fn values(p: &ServicePolicy) -> [(&'static str, String); 21] {
    let mode = match p.mode {
        Mode::HotHot => "hot-hot",
        Mode::HotWarm => "hot-warm",
        Mode::Exclusive => "exclusive",
    };
    let allow: Vec<String> = p.allow.iter().map(ToString::to_string).collect();
    let retry_on: Vec<String> = p.retry_on.iter().map(ToString::to_string).collect();
    [
        ("mode", mode.to_owned()),
        ("min_hot", p.min_hot.to_string()),
        ("failback", p.failback.to_string()),
        ("timeout", p.timeout.to_string()),
        ("hedge", p.hedge.to_string()),
        ("retries", p.retries.to_string()),
        ("panic", p.panic.to_string()),
        ("allow", allow.join(", ")),
        ("per_try_timeout", p.per_try_timeout.to_string()),
        ("idle_timeout", p.idle_timeout.to_string()),
        ("retry_on", if retry_on.is_empty() { "nothing".into() } else { retry_on.join(", ") }),
        ("max_requests", p.max_requests.to_string()),
        ("rate_limit", p.rate_limit.to_string()),
        ("drills", if p.drills == Drills::On { "on".into() } else { "off".into() }),
        ("exclusive", p.exclusive.as_ref().map_or_else(|| "nobody".to_owned(), owners)),
        ("relay", p.relay.word().to_owned()),
        ("balance", p.balance.to_string()),
        ("locality", p.locality.to_string()),
        ("affinity", p.affinity.as_ref().map_or_else(|| "off".into(), ToString::to_string)),
        ("ramp", p.ramp.to_string()),
        ("damping", p.damping.to_string()),
    ]
}

/// `db-1, db-2, db-3 (number 2, lease 5s, before: db-1, db-2)`
fn owners(e: &Exclusive) -> String {
    let names = |set: &[NodeName]| set.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
    let before: Vec<String> = e.former.iter().map(|set| names(set)).collect();
    let before =
        if before.is_empty() { String::new() } else { format!(", before: {}", before.join("; ")) };
    format!("{} (number {}, lease {}{before})", names(&e.owners), e.number, e.lease)
}

/// What must not come into force after `old`. The first mistake found, in words.
///
/// That is an exclusive service without owners, or owners that changed in a way in which two nodes could hold its
/// lease at once.
pub fn refusal(old: &Policy, new: &Policy) -> Option<String> {
    new.services.iter().find_map(|(name, p)| {
        if p.mode != Mode::Exclusive {
            return None;
        }
        let Some(now) = &p.exclusive else {
            return Some(format!(
                "services.{name}: mode exclusive needs its owners; write exclusive = {{ owners = [\"…\"] }}"
            ));
        };
        let was = old.services.get(name).filter(|p| p.mode == Mode::Exclusive);
        let was = was.and_then(|p| p.exclusive.as_ref())?;
        let set = |names: &[NodeName]| names.iter().cloned().collect::<BTreeSet<NodeName>>();
        let same = set(&was.owners) == set(&now.owners);
        match same {
            true if was.number == now.number => None,
            false if now.number == was.number + 1
                && now.former.first().is_some_and(|f| set(f) == set(&was.owners)) =>
            {
                None
            }
            true => Some(format!(
                "services.{name}: exclusive.number goes from {} to {} and the owners stay; it grows by one \
                 with each change of owners, and only then",
                was.number, now.number
            )),
            false => Some(format!(
                "services.{name}: the owners of the lease change; write number = {} and, first in former, \
                 the owners before: {:?}",
                was.number + 1,
                was.owners.iter().map(NodeName::as_str).collect::<Vec<_>>()
            )),
        }
    })
}

/// What changes from `old` to `new`, a line each: `services.ledger.min_hot: 100% -> 2`. A service
/// that appears or goes away is compared with the defaults, because that is what it had or will have.
pub fn changes(old: &Policy, new: &Policy) -> Vec<String> {
    let names: BTreeSet<&ServiceName> = old.services.keys().chain(new.services.keys()).collect();
    let mut lines = Vec::new();
    if old.moves != new.moves {
        lines.push(format!("moves: {} -> {}", old.moves, new.moves));
    }
    for name in names {
        match (old.services.contains_key(name), new.services.contains_key(name)) {
            (false, _) => lines.push(format!("services.{name}: defaults -> named")),
            (_, false) => lines.push(format!("services.{name}: named -> defaults")),
            _ => {}
        }
        let (before, after) = (old.service(name), new.service(name));
        for ((key, was), (_, is)) in values(&before).into_iter().zip(values(&after)) {
            if was != is {
                lines.push(format!("services.{name}.{key}: {was} -> {is}"));
            }
        }
    }
    lines
}

/// What is allowed, and will not do what was probably meant. Only what is certain from the policy
/// alone: how many endpoints a service has is not known here.
pub fn warnings(policy: &Policy) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, p) in &policy.services {
        let mut warn = |text: String| lines.push(format!("services.{name}: {text}"));
        if p.allow.is_empty() {
            warn("allow is empty: nobody may call it".into());
        }
        if p.allow.len() > 1 && p.allow.contains(&Caller::Anyone) {
            warn(
                "allow has \"*\" beside names: everyone may call, the names change nothing".into(),
            );
        }
        if p.timeout.0 == Duration::ZERO {
            warn("timeout is 0: every request fails before it starts".into());
        }
        if p.mode == Mode::HotWarm
            && matches!(p.min_hot, Need::Count(0) | Need::Percent(Percent(0)))
        {
            warn(format!(
                "min_hot is {}: no warm endpoint is ever called up before all hot ones are lost",
                p.min_hot
            ));
        }
        if p.mode == Mode::HotHot && p.min_hot != ServicePolicy::default().min_hot {
            warn("min_hot has no effect in mode hot-hot: nobody is called up".into());
        }
        if p.retries == 0 {
            warn(
                "retries is 0: the requests under way to an endpoint when it is lost fail, later \
                 ones go elsewhere"
                    .into(),
            );
        }
        if let Hedge::After(span) = p.hedge
            && span >= p.timeout
        {
            warn(format!("hedge {span} is not before timeout {}: it never happens", p.timeout));
        }
        if let Patience::For(span) = p.per_try_timeout
            && span >= p.timeout
        {
            warn(format!(
                "per_try_timeout {span} is not before timeout {}: it never happens",
                p.timeout
            ));
        }
        if let (Failback::After(hold), Patience::For(ramp)) = (p.failback, p.ramp)
            && p.ramp != ServicePolicy::default().ramp
            && ramp > hold
        {
            warn(format!("ramp {ramp} is longer than failback {hold}: it ends after {hold}"));
        }
        if p.mode != Mode::Exclusive && p.exclusive.is_some() {
            warn("exclusive has no effect: mode is not exclusive".into());
        }
        if let (Mode::Exclusive, Some(e)) = (p.mode, &p.exclusive) {
            exclusive_warnings(p, e, &mut warn);
        }
        if p.retries == 0 && !p.retry_on.is_empty() {
            warn("retry_on has no effect: retries is 0".into());
        }
    }
    lines
}

fn exclusive_warnings(p: &ServicePolicy, e: &Exclusive, warn: &mut impl FnMut(String)) {
    match e.owners.len() {
        1 => warn("exclusive has 1 owner: when it is lost nobody serves".into()),
        2 => warn(
            "exclusive has 2 owners: when one is lost nobody serves, since a majority takes both"
                .into(),
        ),
        n if n.is_multiple_of(2) => warn(format!(
            "exclusive has {n} owners, which survive no more losses than {}: write an odd number",
            n - 1
        )),
        _ => {}
    }
    if matches!(p.failback, Failback::Never | Failback::Manual) {
        warn(
            "failback is no time: in mode exclusive a warm owner then keeps the lease until `hearth drain` on its \
             node, `hearth failback` moves no lease"
                .into(),
        );
    }
    let patience = p.timeout.min(Span(CALLER_HOLD));
    if patience <= e.lease {
        warn(format!(
            "lease {} is not shorter than {patience}, for which requests wait: those that come when the holder \
             is lost fail before another may serve",
            e.lease
        ));
    }
    let defaults = ServicePolicy::default();
    for (key, is_set) in [
        ("min_hot", p.min_hot != defaults.min_hot),
        ("balance", p.balance != defaults.balance),
        ("locality", p.locality != defaults.locality),
        ("affinity", p.affinity != defaults.affinity),
    ] {
        if is_set {
            warn(format!("{key} has no effect in mode exclusive: one endpoint serves"));
        }
    }
}

/// What is allowed and looks like a mistake beside what runs: callers and owners that never joined, services that
/// fall back to the defaults because the text no longer names them.
pub fn doubts(old: &Policy, new: &Policy, known: &BTreeSet<NodeName>) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, p) in &new.services {
        for caller in &p.allow {
            if let Caller::Node(node) = caller
                && !known.contains(node)
            {
                lines.push(format!("services.{name}: allow names {node}, which never joined"));
            }
        }
        let owners = p.exclusive.iter().flat_map(|e| &e.owners);
        for owner in owners.filter(|owner| !known.contains(*owner)) {
            lines.push(format!(
                "services.{name}: exclusive names {owner}, which never joined: it counts, and has no voice"
            ));
        }
    }
    for name in old.services.keys().filter(|name| !new.services.contains_key(*name)) {
        lines.push(format!("services.{name}: no longer named, so it has the defaults again"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        compile("p.toml", text).unwrap()
    }

    #[test]
    fn changes_name_each_key_with_its_old_and_new_value() {
        let old = policy("[services.ledger]\n[services.mail]\nretries = 1\n");
        let new = policy(
            "[services.ledger]\nmin_hot = 2\nfailback = \"never\"\nallow = [\"web-1\", \"web-2\"]\n\
             [services.shop]\nmode = \"hot-hot\"\n",
        );
        assert_eq!(
            changes(&old, &new),
            [
                "services.ledger.min_hot: 100% -> 2",
                "services.ledger.failback: 30s -> never",
                "services.ledger.allow: * -> web-1, web-2",
                "services.mail: named -> defaults",
                "services.mail.retries: 1 -> 3",
                "services.shop: defaults -> named",
                "services.shop.mode: hot-warm -> hot-hot",
            ]
        );
    }

    #[test]
    fn the_same_policy_in_other_words_changes_nothing() {
        let a = policy("[services.ledger]\ntimeout = \"15s\" # as always\n");
        let b = policy("services = { ledger = { timeout = \"15000ms\", retries = 3 } }\n");
        assert_eq!(changes(&a, &b), [""; 0]);
    }

    #[test]
    fn a_mistake_is_placed_and_the_nearest_key_is_offered() {
        let e = compile("mesh.toml", "[services.ledger]\nmin_hto = 2\n").unwrap_err();
        assert_eq!(
            e.to_string(),
            "mesh.toml:2:1: unknown field `min_hto`, expected one of `mode`, `min_hot`, \
             `failback`, `timeout`, `hedge`, `retries`, `panic`, `allow`, `per_try_timeout`, \
             `idle_timeout`, `retry_on`, `max_requests`, `rate_limit`, `drills`, `exclusive`, \
             `relay`, `balance`, `locality`, `affinity`, `ramp`, `damping`\n  hint: did you mean \
             `min_hot`?"
        );
        let e = compile("mesh.toml", "[services.ledger]\ntimeout = \"5\"\n").unwrap_err();
        assert_eq!(
            e.to_string(),
            "mesh.toml:2:11: \"5\" has no unit; write for example \"5s\" or \"5ms\" (units: us, \
             ms, s, m, h, d)"
        );
    }

    #[test]
    fn owners_of_a_lease_change_by_one_number_and_with_those_before_or_not_at_all() {
        let of = |exclusive: &str| {
            policy(&format!("[services.db]\nmode = \"exclusive\"\nexclusive = {{ {exclusive} }}\n"))
        };
        let one = of("owners = [\"a\", \"b\", \"c\"]");
        assert_eq!(refusal(&Policy::default(), &one), None);
        assert_eq!(refusal(&one, &of("owners = [\"c\", \"b\", \"a\"], lease = \"9s\"")), None);
        let two = "owners = [\"a\", \"b\", \"d\"], number = 2, former = [[\"a\", \"b\", \"c\"]]";
        assert_eq!(refusal(&one, &of(two)), None);
        for bad in [
            "owners = [\"a\", \"b\"]",
            "owners = [\"a\", \"b\"], number = 2, former = [[\"a\", \"x\"]]",
            "owners = [\"a\", \"b\"], number = 3, former = [[\"a\", \"b\", \"c\"]]",
            "owners = [\"a\", \"b\", \"c\"], number = 2, former = [[\"a\"]]",
        ] {
            assert!(refusal(&one, &of(bad)).is_some(), "{bad} was taken");
        }
        let bare = policy("[services.db]\nmode = \"exclusive\"\n");
        assert!(refusal(&Policy::default(), &bare).unwrap().contains("needs its owners"));
    }

    #[test]
    fn an_exclusive_service_that_survives_no_loss_or_says_what_it_cannot_mean_is_warned_of() {
        let of = |keys: &str| {
            let text = format!("[services.db]\nmode = \"exclusive\"\n{keys}\n");
            warnings(&policy(&text))
        };
        assert_eq!(of("exclusive = { owners = [\"a\", \"b\", \"c\"] }"), [""; 0]);
        for (keys, said) in [
            ("exclusive = { owners = [\"a\"] }", "has 1 owner: when it is lost nobody serves"),
            ("exclusive = { owners = [\"a\", \"b\"] }", "when one is lost nobody serves"),
            ("exclusive = { owners = [\"a\", \"b\", \"c\", \"d\"] }", "no more losses than 3"),
            (
                "exclusive = { owners = [\"a\", \"b\", \"c\"], lease = \"20s\" }",
                "lease 20s is not shorter than 10s",
            ),
            (
                "timeout = \"2s\"\nexclusive = { owners = [\"a\", \"b\", \"c\"] }",
                "lease 5s is not shorter than 2s",
            ),
            (
                "balance = \"round-robin\"\nexclusive = { owners = [\"a\", \"b\", \"c\"] }",
                "balance has no effect in mode exclusive",
            ),
        ] {
            let lines = of(keys);
            assert!(lines.len() == 1 && lines[0].contains(said), "{keys}: {lines:?}");
        }
    }

    #[test]
    fn an_owner_that_never_joined_is_doubted() {
        let text =
            "[services.db]\nmode = \"exclusive\"\nexclusive = { owners = [\"a\", \"b\", \"c\"] }\n";
        let known = ["a", "b"].map(|name| NodeName::parse(name).unwrap()).into();
        let lines = doubts(&policy(text), &policy(text), &known);
        assert!(lines.len() == 1 && lines[0].contains("exclusive names c"), "{lines:?}");
    }

    #[test]
    fn what_can_never_work_is_warned_of_and_the_defaults_are_not() {
        assert_eq!(warnings(&policy("[services.ledger]\n")), [""; 0]);
        let bad = policy(
            "[services.a]\nallow = []\nretries = 0\n[services.b]\nmin_hot = 0\n\
             [services.c]\nmode = \"hot-hot\"\nmin_hot = 2\ntimeout = \"1s\"\nhedge = \"2s\"\nper_try_timeout = \"1s\"\n",
        );
        assert_eq!(
            warnings(&bad),
            [
                "services.a: allow is empty: nobody may call it",
                "services.a: retries is 0: the requests under way to an endpoint when it \
                 is lost fail, later ones go elsewhere",
                "services.b: min_hot is 0: no warm endpoint is ever called up before all \
                 hot ones are lost",
                "services.c: min_hot has no effect in mode hot-hot: nobody is called up",
                "services.c: hedge 2s is not before timeout 1s: it never happens",
                "services.c: per_try_timeout 1s is not before timeout 1s: it never happens",
            ]
        );
    }
}
