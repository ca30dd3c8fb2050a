//! `HEARTH_<SECTION>_<KEY>` over the file: `HEARTH_MESH_LISTEN`, `HEARTH_ENDPOINT_0_ADDRESS`.
//!
//! Entries of lists of tables are counted from 0 in the file's order; the number behind the last one adds
//! one. A list is written with commas, a command as words. Variables that are none of ours are let be
//! (Kubernetes puts `HEARTH_SERVICE_HOST` and its like into every pod near a service of that name) unless
//! they look like a slip of the pen.

use super::raw::{self, Config, Given, Place, Table};
use super::validate::Mistakes;

/// Variables of the agent's surroundings that look alike but are not its configuration: the command
/// line's, and what hooks are given.
const OTHERS: [&str; 8] =
    ["SOCKET", "CONTROL", "TOKEN", "CA", "SERVICE", "INCIDENT", "ENDPOINT", "CONFIG"];

/// Where a variable's value goes.
enum Slot<'a> {
    One(&'a mut Option<Given>),
    Commas(&'a mut Option<Vec<Given>>),
    Words(&'a mut Option<Vec<Given>>),
}

/// Puts the variables over what the file says.
pub(super) fn apply(
    config: &mut Config,
    environment: impl IntoIterator<Item = (String, String)>,
    mistakes: &mut Mistakes<'_>,
) {
    let mut ours: Vec<(String, String)> =
        environment.into_iter().filter(|(name, _)| name.starts_with("HEARTH_")).collect();
    // In an order of its own, so that entry 0 is there before entry 1 and messages do not wander.
    ours.sort_by_key(|(name, _)| (number(name), name.clone()));
    for (variable, value) in ours {
        let key = &variable["HEARTH_".len()..];
        if OTHERS.contains(&key) {
            continue;
        }
        match slot(config, key, &variable) {
            Some(slot) => fill(slot, &variable, &value),
            None => slip_of_the_pen(config, key, &variable, mistakes),
        }
    }
}

/// The number in `HEARTH_ENDPOINT_3_ROLE`; 0 where there is none.
fn number(variable: &str) -> usize {
    variable.split('_').find_map(|part| part.parse().ok()).unwrap_or(0)
}

fn fill(slot: Slot<'_>, variable: &str, value: &str) {
    let given =
        |text: &str| Given { text: text.to_owned(), place: Place::Variable(variable.to_owned()) };
    match slot {
        Slot::One(key) => *key = Some(given(value)),
        Slot::Commas(list) => {
            let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
            *list = Some(items.map(given).collect());
        }
        Slot::Words(list) => *list = Some(value.split_whitespace().map(given).collect()),
    }
}

fn slot<'a>(config: &'a mut Config, key: &str, variable: &str) -> Option<Slot<'a>> {
    Some(match key {
        "NAME" => Slot::One(&mut config.name),
        "ZONE" => Slot::One(&mut config.zone),
        "REGION" => Slot::One(&mut config.region),
        "STATE_DIR" => Slot::One(&mut config.state_dir),
        "LOG" => Slot::One(&mut config.log),
        "MESH_LISTEN" => Slot::One(&mut config.mesh.listen),
        "MESH_ADVERTISE" => Slot::One(&mut config.mesh.advertise),
        "MESH_LANE" => Slot::One(&mut config.mesh.lane),
        "MESH_SENSING" => Slot::One(&mut config.mesh.sensing),
        "MESH_RELAY" => Slot::One(&mut config.mesh.relay),
        "MESH_SEEDS" => Slot::Commas(&mut config.mesh.seeds),
        "JOIN_CONTROL" => Slot::One(&mut join(config, variable).control),
        // One of the two replaces the other of the file: the variable is the later word.
        "JOIN_TOKEN" => {
            let join = join(config, variable);
            join.token_file.take_if(|given| matches!(given.place, Place::At(_)));
            Slot::One(&mut join.token)
        }
        "JOIN_TOKEN_FILE" => {
            let join = join(config, variable);
            join.token.take_if(|given| matches!(given.place, Place::At(_)));
            Slot::One(&mut join.token_file)
        }
        "ADMIN_SOCKET" => Slot::One(&mut config.admin.socket),
        "ADMIN_HTTP" => Slot::One(&mut config.admin.http),
        "OUTBOUND_HTTP" => Slot::One(&mut config.outbound.http),
        "OUTBOUND_SOCKS5" => Slot::One(&mut config.outbound.socks5),
        "DNS_LISTEN" => Slot::One(&mut config.dns.listen),
        "DNS_ADDRESS" => Slot::One(&mut config.dns.address),
        "DNS_UPSTREAM" => Slot::Commas(&mut config.dns.upstream),
        "FLIGHT_SIZE" => Slot::One(&mut config.flight.size),
        "TELEMETRY_OTLP" => Slot::One(&mut config.telemetry.otlp),
        _ => {
            if let Some(rest) = key.strip_prefix("UPSTREAM_") {
                return upstream(config, rest, variable);
            }
            if let Some(rest) = key.strip_prefix("INGRESS_") {
                return ingress(config, rest, variable);
            }
            return endpoint(config, key.strip_prefix("ENDPOINT_")?, variable);
        }
    })
}

fn join<'a>(config: &'a mut Config, variable: &str) -> &'a mut raw::Join {
    let table = || Table { place: Place::Variable(variable.to_owned()), keys: Default::default() };
    &mut config.join.get_or_insert_with(table).keys
}

fn upstream<'a>(config: &'a mut Config, rest: &str, variable: &str) -> Option<Slot<'a>> {
    let (n, key) = rest.split_once('_')?;
    if !UPSTREAM_KEYS.contains(&key) {
        return None;
    }
    let upstream = entry(&mut config.upstream, n, variable)?;
    Some(Slot::One(match key {
        "SERVICE" => &mut upstream.service,
        "LISTEN" => &mut upstream.listen,
        "PROTOCOL" => &mut upstream.protocol,
        _ => &mut upstream.idle,
    }))
}

/// `0_LISTEN`, `0_TLS_KEY`, `0_ROUTE_1_HOSTS`.
fn ingress<'a>(config: &'a mut Config, rest: &str, variable: &str) -> Option<Slot<'a>> {
    let (n, key) = rest.split_once('_')?;
    if let Some(rest) = key.strip_prefix("ROUTE_") {
        let (k, key) = rest.split_once('_')?;
        if !ROUTE_KEYS.contains(&key) {
            return None;
        }
        let route = entry(&mut entry(&mut config.ingress, n, variable)?.route, k, variable)?;
        return Some(match key {
            "HOSTS" => Slot::Commas(&mut route.hosts),
            "PATH" => Slot::One(&mut route.path),
            _ => Slot::One(&mut route.service),
        });
    }
    if !INGRESS_KEYS.contains(&key) {
        return None;
    }
    let ingress = entry(&mut config.ingress, n, variable)?;
    let tls = |tls: &'a mut Option<Table<raw::IngressTls>>| {
        let place = || Place::Variable(variable.to_owned());
        let new = || Table { place: place(), keys: Default::default() };
        &mut tls.get_or_insert_with(new).keys
    };
    Some(match key {
        "LISTEN" => Slot::One(&mut ingress.listen),
        "TRUST" => Slot::Commas(&mut ingress.trust),
        "TLS_CERTIFICATE" => Slot::One(&mut tls(&mut ingress.tls).certificate),
        _ => Slot::One(&mut tls(&mut ingress.tls).key),
    })
}

fn endpoint<'a>(config: &'a mut Config, rest: &str, variable: &str) -> Option<Slot<'a>> {
    let (n, key) = rest.split_once('_')?;
    if !ENDPOINT_KEYS.contains(&key) {
        return None;
    }
    let e = entry(&mut config.endpoint, n, variable)?;
    let place = || Place::Variable(variable.to_owned());
    let check = |e: &'a mut raw::Endpoint| {
        let new = || Table { place: place(), keys: Default::default() };
        &mut e.check.get_or_insert_with(new).keys
    };
    let hook = |hook: &'a mut Option<Table<raw::Hook>>| {
        let new = || Table { place: place(), keys: Default::default() };
        &mut hook.get_or_insert_with(new).keys
    };
    let warm_up = |warm_up: &'a mut Option<Table<raw::WarmUp>>| {
        let new = || Table { place: place(), keys: Default::default() };
        &mut warm_up.get_or_insert_with(new).keys
    };
    Some(match key {
        "SERVICE" => Slot::One(&mut e.service),
        "ADDRESS" => Slot::One(&mut e.address),
        "ROLE" => Slot::One(&mut e.role),
        "PRIORITY" => Slot::One(&mut e.priority),
        "PROTOCOL" => Slot::One(&mut e.protocol),
        "HTTP" => Slot::One(&mut e.http),
        "PID_FILE" => Slot::One(&mut e.pid_file),
        "WEIGHT" => Slot::One(&mut e.weight),
        "ACTIVATION_DEADLINE" => Slot::One(&mut e.activation_deadline),
        "WARM_UP_PATH" => Slot::One(&mut warm_up(&mut e.warm_up).path),
        "WARM_UP_REQUESTS" => Slot::One(&mut warm_up(&mut e.warm_up).requests),
        "CHECK_KIND" => Slot::One(&mut check(e).kind),
        "CHECK_PATH" => Slot::One(&mut check(e).path),
        "CHECK_INTERVAL" => Slot::One(&mut check(e).interval),
        "CHECK_TIMEOUT" => Slot::One(&mut check(e).timeout),
        "CHECK_FALL" => Slot::One(&mut check(e).fall),
        "CHECK_RISE" => Slot::One(&mut check(e).rise),
        "ACTIVATE_KIND" => Slot::One(&mut hook(&mut e.activate).kind),
        "ACTIVATE_URL" => Slot::One(&mut hook(&mut e.activate).url),
        "ACTIVATE_COMMAND" => Slot::Words(&mut hook(&mut e.activate).command),
        "ACTIVATE_DEADLINE" => Slot::One(&mut hook(&mut e.activate).deadline),
        "ACTIVATE_ATTEMPTS" => Slot::One(&mut hook(&mut e.activate).attempts),
        "DEACTIVATE_KIND" => Slot::One(&mut hook(&mut e.deactivate).kind),
        "DEACTIVATE_URL" => Slot::One(&mut hook(&mut e.deactivate).url),
        "DEACTIVATE_COMMAND" => Slot::Words(&mut hook(&mut e.deactivate).command),
        "DEACTIVATE_DEADLINE" => Slot::One(&mut hook(&mut e.deactivate).deadline),
        _ => return None,
    })
}

/// The `n`-th entry of a list of tables; the one behind the last is made.
fn entry<'a, T: Default>(
    list: &'a mut Vec<Table<T>>,
    n: &str,
    variable: &str,
) -> Option<&'a mut T> {
    let n: usize = n.parse().ok()?;
    if n == list.len() {
        list.push(Table { place: Place::Variable(variable.to_owned()), keys: T::default() });
    }
    list.get_mut(n).map(|table| &mut table.keys)
}

const PLAIN_KEYS: [&str; 20] = [
    "NAME",
    "ZONE",
    "REGION",
    "STATE_DIR",
    "LOG",
    "MESH_LISTEN",
    "MESH_ADVERTISE",
    "MESH_LANE",
    "MESH_SEEDS",
    "JOIN_CONTROL",
    "JOIN_TOKEN",
    "JOIN_TOKEN_FILE",
    "ADMIN_SOCKET",
    "ADMIN_HTTP",
    "OUTBOUND_HTTP",
    "OUTBOUND_SOCKS5",
    "DNS_LISTEN",
    "DNS_ADDRESS",
    "DNS_UPSTREAM",
    "TELEMETRY_OTLP",
];

const UPSTREAM_KEYS: [&str; 4] = ["SERVICE", "LISTEN", "PROTOCOL", "IDLE"];
const INGRESS_KEYS: [&str; 4] = ["LISTEN", "TRUST", "TLS_CERTIFICATE", "TLS_KEY"];
const ROUTE_KEYS: [&str; 3] = ["HOSTS", "PATH", "SERVICE"];

const ENDPOINT_KEYS: [&str; 25] = [
    "SERVICE",
    "ADDRESS",
    "ROLE",
    "PRIORITY",
    "PROTOCOL",
    "HTTP",
    "WEIGHT",
    "ACTIVATION_DEADLINE",
    "WARM_UP_PATH",
    "WARM_UP_REQUESTS",
    "ACTIVATE_ATTEMPTS",
    "CHECK_KIND",
    "CHECK_PATH",
    "CHECK_INTERVAL",
    "CHECK_TIMEOUT",
    "CHECK_FALL",
    "CHECK_RISE",
    "ACTIVATE_KIND",
    "ACTIVATE_URL",
    "ACTIVATE_COMMAND",
    "ACTIVATE_DEADLINE",
    "DEACTIVATE_KIND",
    "DEACTIVATE_URL",
    "DEACTIVATE_COMMAND",
    "DEACTIVATE_DEADLINE",
];

/// Two letters off, or one swap: a slip. More than that is somebody else's variable.
const SLIP: usize = 2;

fn slip_of_the_pen(config: &Config, key: &str, variable: &str, mistakes: &mut Mistakes<'_>) {
    let numbered = |list: &str, len: usize| {
        let (n, rest) = key.strip_prefix(list)?.split_once('_')?;
        let n: usize = n.parse().ok()?;
        Some((n, rest.to_owned(), len))
    };
    let place = Place::Variable(variable.to_owned());
    let found = numbered("ENDPOINT_", config.endpoint.len())
        .map(|found| (found, &ENDPOINT_KEYS[..]))
        .or_else(|| {
            numbered("UPSTREAM_", config.upstream.len()).map(|found| (found, &UPSTREAM_KEYS[..]))
        })
        .or_else(|| {
            numbered("INGRESS_", config.ingress.len()).map(|found| (found, &INGRESS_KEYS[..]))
        });
    if let Some(((n, rest, len), allowed)) = found {
        if allowed.contains(&rest.as_str()) {
            let what = format!("there is no entry {n}; there are {len}, counted from 0");
            mistakes.add(&place, what, Some(format!("the next one would be {len}")));
        } else {
            let prefix = &variable[..variable.len() - rest.len()];
            let nearest = hearth_proto::settings::nearest(&rest, allowed.iter().copied());
            let hint = nearest.map(|best| format!("did you mean {prefix}{best}?"));
            mistakes.add(&place, "names no key of the configuration".into(), hint);
        }
        return;
    }
    let nearest = PLAIN_KEYS
        .iter()
        .map(|known| (strsim::damerau_levenshtein(key, known), known))
        .min()
        .filter(|(distance, _)| *distance <= SLIP);
    if let Some((_, known)) = nearest {
        let hint = Some(format!("did you mean HEARTH_{known}?"));
        mistakes.add(&place, "names no key of the configuration".into(), hint);
    }
}
