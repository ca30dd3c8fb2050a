//! `[[endpoint]]`: role, check and hooks, and which of them go together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_proto::advert::extension::{MAX_WEIGHT, WEIGHT};
use hearth_proto::advert::{MAX_ENDPOINTS, Protocol, Role};

use super::raw::{self, Given, Place, Table};
use super::validate::{Mistakes, service_name};
use super::value::{number, plain_http, span, target, word};
use super::{Action, Check, CheckKind, Endpoint, Hook, HttpVersion, WarmUp};
use crate::pipe::{AppAddress, MAX_SOCKET_PATH, UNIX};

/// Longest time between two checks, and longest time one may take.
const LONGEST: Duration = Duration::from_secs(3_600);
/// What an activation may take by default, and at most: a caller waits seconds, an operator minutes.
const DEADLINE: Duration = Duration::from_secs(10);
const LONGEST_DEADLINE: Duration = Duration::from_secs(600);
/// Readiness and warm-up after the hook are part of the activation: they get this much beyond one attempt.
const READINESS: Duration = Duration::from_secs(10);
/// Attempts of a hook that fails at once take some two seconds: longer than that the next in order would
/// be there sooner.
const ATTEMPTS: u32 = 5;
/// Requests that warm an application up: some tens fill pools and caches, and are done in the time there is.
const WARM_UP_REQUESTS: u32 = 20;

pub(super) fn endpoints(tables: &[Table<raw::Endpoint>], m: &mut Mistakes<'_>) -> Vec<Endpoint> {
    let mut found: Vec<(Endpoint, &Place)> = Vec::new();
    for table in tables {
        let Some(mut endpoint) = endpoint(table, m) else { continue };
        let same = |(e, _): &&(Endpoint, &Place)| e.service == endpoint.service;
        if let Some((_, first)) =
            found.iter().filter(same).find(|(e, _)| e.address == endpoint.address)
        {
            let what = format!(
                "{} at {} is an endpoint already ({})",
                endpoint.service,
                endpoint.address,
                m.words(first)
            );
            let hint = "delete one of the two, or correct its address";
            m.add(&table.place, what, Some(hint.into()));
            continue;
        }
        let instance = found.iter().filter(same).count();
        if found.len() == MAX_ENDPOINTS {
            let what = format!("there are more than {MAX_ENDPOINTS} endpoints on this node");
            m.add(&table.place, what, Some("spread them over more nodes".into()));
            break;
        }
        endpoint.instance = u16::try_from(instance).unwrap_or(u16::MAX);
        found.push((endpoint, &table.place));
    }
    let mut endpoints: Vec<_> = found.into_iter().map(|(endpoint, _)| endpoint).collect();
    endpoints.sort_by(|a, b| (&a.service, a.instance).cmp(&(&b.service, b.instance)));
    endpoints
}

fn endpoint(table: &Table<raw::Endpoint>, m: &mut Mistakes<'_>) -> Option<Endpoint> {
    let keys = &table.keys;
    let service = service_name(keys.service.as_ref(), &table.place, "[[endpoint]]", m);
    let address = match &keys.address {
        Some(given) => app_address(given, m),
        None => {
            let hint = "write address = \"127.0.0.1:PORT\" or \"unix:/PATH\", where the application \
                        listens";
            let what = "this [[endpoint]] lacks the key `address`".to_owned();
            m.add(&table.place, what, Some(hint.into()));
            None
        }
    };
    let role = role(keys, m);
    let activate = keys.activate.as_ref().and_then(|t| hook("endpoint.activate", t, m));
    let deactivate = keys.deactivate.as_ref().and_then(|t| hook("endpoint.deactivate", t, m));
    let protocol = keys.protocol.as_ref().and_then(|given| protocol(given, m)).unwrap_or_default();
    let http = http_version(keys.http.as_ref(), protocol, m);
    let pid_file = keys.pid_file.as_ref().and_then(|given| pid_file(given, m));
    let check = check(keys.check.as_ref(), protocol, m);
    let warm_up = keys.warm_up.as_ref().and_then(|t| warm_up(t, protocol, m));
    let attempts = keys.activate.as_ref().and_then(|t| t.keys.attempts.as_ref());
    if let Some(given) = keys.deactivate.as_ref().and_then(|t| t.keys.attempts.as_ref()) {
        let hint = "delete it; a deactivation is tried until its deadline";
        m.add(&given.place, "attempts is a key of [endpoint.activate]".into(), Some(hint.into()));
    }
    let usual = activate.as_ref().map_or(Duration::ZERO, |hook| hook.deadline) + READINESS;
    if let (Protocol::Udp, Some(AppAddress::Socket(_)), Some(given)) =
        (protocol, &address, &keys.address)
    {
        let hint = "write address = \"127.0.0.1:PORT\"";
        m.add(&given.place, "a udp endpoint has a port, not a socket".into(), Some(hint.into()));
    }
    Some(Endpoint {
        service: service?,
        instance: 0,
        address: address?,
        role,
        protocol,
        http,
        pid_file,
        check,
        activation_deadline: span(
            keys.activation_deadline.as_ref(),
            usual,
            LONGEST_DEADLINE + READINESS,
            m,
        ),
        attempts: attempts.and_then(|given| number(given, 1, 100, m)).unwrap_or(ATTEMPTS),
        weight: keys
            .weight
            .as_ref()
            .and_then(|given| number(given, 1, MAX_WEIGHT.into(), m))
            .and_then(|n| u16::try_from(n).ok())
            .unwrap_or(WEIGHT),
        warm_up,
        activate,
        deactivate,
    })
}

fn role(keys: &raw::Endpoint, m: &mut Mistakes<'_>) -> Role {
    let word = keys.role.as_ref().and_then(|given| word(given, "role", &["hot", "warm"], m));
    let priority = keys.priority.as_ref().and_then(|given| number(given, 0, u16::MAX.into(), m));
    if word == Some("warm") {
        return Role::Warm { priority: priority.and_then(|p| u16::try_from(p).ok()).unwrap_or(0) };
    }
    // An unknown role is one mistake, not three.
    let is_hot = word == Some("hot") || keys.role.is_none();
    let warm_only = [
        ("priority", keys.priority.as_ref().map(|g| &g.place)),
        ("[endpoint.activate]", keys.activate.as_ref().map(|t| &t.place)),
        ("[endpoint.deactivate]", keys.deactivate.as_ref().map(|t| &t.place)),
        ("[endpoint.warm_up]", keys.warm_up.as_ref().map(|t| &t.place)),
        ("activation_deadline", keys.activation_deadline.as_ref().map(|g| &g.place)),
    ];
    for (name, place) in warm_only {
        if let (true, Some(place)) = (is_hot, place) {
            let hint = "write role = \"warm\", or delete it; a hot endpoint always serves";
            m.add(
                place,
                format!("{name} is for warm endpoints, this one is hot"),
                Some(hint.into()),
            );
        }
    }
    Role::Hot
}

/// `IP:port`, or `unix:` and an absolute path.
fn app_address(given: &Given, m: &mut Mistakes<'_>) -> Option<AppAddress> {
    let Some(path) = given.text.strip_prefix(UNIX) else {
        return target(given, m).map(AppAddress::Port);
    };
    let problem = if !path.starts_with('/') {
        Some(format!("{path:?} is not an absolute path"))
    } else if path.len() > MAX_SOCKET_PATH || path.contains('\0') {
        Some(format!("{path:?} cannot be a socket: its path has more than {MAX_SOCKET_PATH} bytes"))
    } else {
        None
    };
    let hint = || Some("for example \"unix:/run/app.sock\"".to_owned());
    let result = problem.map_or(Ok(Path::new(path).into()), |what| Err((what, hint())));
    m.take(given, result)
}

fn pid_file(given: &Given, m: &mut Mistakes<'_>) -> Option<PathBuf> {
    let path = Path::new(&given.text);
    let result = match path.is_absolute() {
        true => Ok(path.to_owned()),
        false => Err((
            format!("{:?} is not an absolute path", given.text),
            Some(
                "for example \"/run/app.pid\", where the application writes its process id".into(),
            ),
        )),
    };
    m.take(given, result)
}

fn protocol(given: &Given, m: &mut Mistakes<'_>) -> Option<Protocol> {
    Some(match word(given, "protocol", &["http", "grpc", "tcp", "udp"], m)? {
        "grpc" => Protocol::Grpc,
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => Protocol::Http,
    })
}

fn http_version(given: Option<&Given>, protocol: Protocol, m: &mut Mistakes<'_>) -> HttpVersion {
    let implied = HttpVersion::of(protocol);
    let Some(given) = given else { return implied };
    let version = match word(given, "http", &["1.1", "2"], m) {
        Some("2") => HttpVersion::Two,
        Some(_) => HttpVersion::One,
        None => return implied,
    };
    let what = match protocol {
        Protocol::Http => return version,
        Protocol::Grpc if version == HttpVersion::Two => return version,
        Protocol::Grpc => "grpc is always HTTP/2",
        Protocol::Tcp | Protocol::Udp => "http is a version of HTTP, and this endpoint speaks none",
    };
    m.add(&given.place, what.into(), Some("delete it, or write protocol = \"http\"".into()));
    implied
}

fn check(table: Option<&Table<raw::Check>>, protocol: Protocol, m: &mut Mistakes<'_>) -> Check {
    let default = Check { kind: CheckKind::of(protocol), ..Check::default() };
    let Some(Table { keys, .. }) = table else { return default };
    let kind = check_kind(keys, &default.kind, m);
    if let (Protocol::Udp, Some(given)) = (protocol, keys.kind.as_ref().or(keys.path.as_ref()))
        && kind != CheckKind::Udp
    {
        let hint = "delete it; a udp endpoint is out when its port is closed";
        m.add(&given.place, "a udp endpoint cannot be checked so".into(), Some(hint.into()));
    }
    let times = |given: &Option<Given>, default, m: &mut Mistakes<'_>| {
        given.as_ref().and_then(|given| number(given, 1, 100, m)).unwrap_or(default)
    };
    Check {
        kind,
        interval: span(keys.interval.as_ref(), default.interval, LONGEST, m),
        timeout: span(keys.timeout.as_ref(), default.timeout, LONGEST, m),
        fall: times(&keys.fall, default.fall, m),
        rise: times(&keys.rise, default.rise, m),
    }
}

fn check_kind(keys: &raw::Check, default: &CheckKind, m: &mut Mistakes<'_>) -> CheckKind {
    let words = ["http", "tcp", "grpc", "udp"];
    let word = keys.kind.as_ref().map(|given| word(given, "kind", &words, m));
    match (word, &keys.path) {
        // `path` alone says which kind is meant.
        (Some(Some("http")) | None, Some(given)) => {
            CheckKind::Http { path: request_path(given, m).unwrap_or_else(|| "/".into()) }
        }
        (Some(Some(kind)), Some(given)) => {
            let hint = "write kind = \"http\", or delete it";
            let what = format!("path is for http checks, this one is {kind}");
            m.add(&given.place, what, Some(hint.into()));
            CheckKind::Tcp
        }
        (Some(Some("http")), None) => CheckKind::Http { path: "/".into() },
        (Some(Some("grpc")), None) => CheckKind::Grpc,
        (Some(Some("udp")), None) => CheckKind::Udp,
        (Some(Some(_)), None) => CheckKind::Tcp,
        (Some(None), _) | (None, None) => default.clone(),
    }
}

fn warm_up(table: &Table<raw::WarmUp>, protocol: Protocol, m: &mut Mistakes<'_>) -> Option<WarmUp> {
    if protocol != Protocol::Http {
        let what = "[endpoint.warm_up] is for endpoints that speak http".to_owned();
        m.add(&table.place, what, Some("delete it; its activation hook can do as much".into()));
        return None;
    }
    let Some(given) = &table.keys.path else {
        let hint = "write path = \"/PATH\"; it is asked for by GET, which must change nothing";
        m.add(&table.place, "[endpoint.warm_up] lacks the key `path`".into(), Some(hint.into()));
        return None;
    };
    let requests = table.keys.requests.as_ref().and_then(|given| number(given, 1, 10_000, m));
    let requests = requests.unwrap_or(WARM_UP_REQUESTS);
    Some(WarmUp { path: request_path(given, m)?, requests })
}

fn request_path(given: &Given, m: &mut Mistakes<'_>) -> Option<String> {
    let path = given.text.clone();
    if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() {
        let what = format!("{path:?} is not a path; it must begin with '/'");
        m.add(&given.place, what, Some("for example \"/healthz\"".into()));
        return None;
    }
    Some(path)
}

fn hook(name: &str, table: &Table<raw::Hook>, m: &mut Mistakes<'_>) -> Option<Hook> {
    let keys = &table.keys;
    let deadline = span(keys.deadline.as_ref(), DEADLINE, LONGEST_DEADLINE, m);
    let Some(kind) = &keys.kind else {
        let hint = "write kind = \"http\" and url, or kind = \"exec\" and command";
        m.add(&table.place, format!("[{name}] lacks the key `kind`"), Some(hint.into()));
        return None;
    };
    let kind = word(kind, "kind", &["http", "exec"], m)?;
    let command_place = keys
        .command
        .as_ref()
        .map(|list| list.first().map_or_else(|| table.place.clone(), |first| first.place.clone()));
    let url_place = keys.url.as_ref().map(|given| given.place.clone());
    let (stranger, key) = match kind {
        "http" => (command_place, "command"),
        _ => (url_place, "url"),
    };
    if let Some(place) = stranger {
        m.add(&place, format!("{key} is of no use to a hook of kind {kind:?}"), None);
    }
    let action = if kind == "http" {
        let Some(url) = &keys.url else {
            let hint = "write url = \"http://127.0.0.1:PORT/PATH\"; it is sent a POST";
            m.add(&table.place, format!("[{name}] lacks the key `url`"), Some(hint.into()));
            return None;
        };
        Action::Http(m.take(url, plain_http(&url.text, "http://127.0.0.1:9000/activate"))?)
    } else {
        let words = keys.command.as_deref().unwrap_or_default();
        if words.first().is_none_or(|program| program.text.is_empty()) {
            let hint = "write command = [\"/path/to/program\", \"argument\"]; no shell is used";
            m.add(&table.place, format!("[{name}] lacks the key `command`"), Some(hint.into()));
            return None;
        }
        Action::Exec(words.iter().map(|word| word.text.clone()).collect())
    };
    Some(Hook { action, deadline })
}
