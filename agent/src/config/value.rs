//! Single values: names, addresses, words, numbers, durations, each with the hint that mends a wrong one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hearth_proto::ids::NameError;
use hearth_proto::settings::nearest;
use hearth_proto::time::Span;

use super::HostPort;
use super::raw::Given;
use super::validate::Mistakes;

/// Checks closer together than this would be load, not checks.
const SHORTEST: Duration = Duration::from_millis(10);
const LOG: &str = "info";
/// Five hours at least of a quiet mesh of 20 (at most 55 KB a minute, measured in the simulator).
const FLIGHT: u64 = 16 << 20;
/// Less would hold no incident, more would not be replayed within a minute.
const FLIGHT_BOUNDS: std::ops::RangeInclusive<u64> = 1 << 20..=16 << 30;

pub(super) fn name_hint(error: &NameError) -> Option<String> {
    let (NameError::Character { text, .. } | NameError::TooLong { text, .. }) = error else {
        return Some("write one, such as \"web-1\"".into());
    };
    let mended: String = text
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(hearth_proto::ids::MAX_LABEL)
        .collect();
    let mended = mended.trim_matches('-');
    (!mended.is_empty()).then(|| format!("for example {mended:?}"))
}

/// Zones and regions are compared and shown, nothing else.
pub(super) fn place_name(what: &str, given: Option<&Given>, m: &mut Mistakes<'_>) -> String {
    let Some(given) = given else { return String::new() };
    let fits = given.text.len() <= 63
        && given.text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if !fits {
        let problem = format!(
            "the {what} {:?} is not one; allowed are at most 63 of a-z, A-Z, 0-9, '.', '-', '_'",
            given.text
        );
        m.add(&given.place, problem, None);
    }
    given.text.clone()
}

pub(super) fn path(given: Option<&Given>, default: &str, m: &mut Mistakes<'_>) -> PathBuf {
    let Some(given) = given else { return default.into() };
    if !given.text.starts_with('/') {
        let hint = format!("for example {default:?}");
        m.add(&given.place, format!("{:?} is not an absolute path", given.text), Some(hint));
    }
    PathBuf::from(&given.text)
}

pub(super) fn log_filter(given: Option<&Given>, m: &mut Mistakes<'_>) -> String {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let Some(given) = given else { return LOG.into() };
    let text = given.text.trim();
    // A lone word that is no level would be taken for the name of a module, and all else be silenced.
    let lone = text.chars().all(char::is_alphanumeric) && !LEVELS.contains(&text);
    let problem = if lone {
        Some(format!("{text:?} is not a log level"))
    } else {
        tracing_subscriber::EnvFilter::try_new(text)
            .err()
            .map(|e| format!("{text:?} is not a log filter: {e}"))
    };
    if let Some(problem) = problem {
        let hint = match nearest(text, LEVELS.into_iter()) {
            Some(level) => format!("did you mean {level:?}?"),
            None => format!("a level ({}) or \"info,hearth_agent::link=debug\"", LEVELS.join(", ")),
        };
        m.add(&given.place, problem, Some(hint));
    }
    text.to_owned()
}

/// Disk for the flight recorder: `16MiB`, `1GiB`, or `off`.
pub(super) fn flight_size(given: Option<&Given>, m: &mut Mistakes<'_>) -> Option<u64> {
    let Some(given) = given else { return Some(FLIGHT) };
    if given.text == "off" {
        return None;
    }
    let digits = given.text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &given.text[digits.len()..] {
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let size = digits.parse::<u64>().ok().zip(unit).and_then(|(n, unit)| n.checked_mul(unit));
    if size.is_none_or(|size| !FLIGHT_BOUNDS.contains(&size)) {
        let hint = "for example \"16MiB\"; from 1MiB to 16GiB, or \"off\"".to_owned();
        m.add(
            &given.place,
            format!("{:?} is no size for the flight recorder", given.text),
            Some(hint),
        );
    }
    size
}

pub(super) fn address(given: &Given, m: &mut Mistakes<'_>) -> Option<SocketAddr> {
    let result = given.text.parse::<SocketAddr>().map_err(|_| {
        let hint = match HostPort::parse(&given.text) {
            Ok(_) => "names are not looked up here; write the IP address",
            Err(_) if given.text.parse::<std::net::IpAddr>().is_ok() => "the port is missing",
            Err(_) => "for example \"127.0.0.1:9000\" or \"[::1]:9000\"",
        };
        (format!("{:?} is not an address (IP:port)", given.text), Some(hint.to_owned()))
    });
    m.take(given, result)
}

/// An address that others connect to.
pub(super) fn target(given: &Given, m: &mut Mistakes<'_>) -> Option<SocketAddr> {
    let found = address(given, m)?;
    if found.ip().is_unspecified() || found.port() == 0 {
        let what = format!("{found} cannot be connected to");
        m.add(&given.place, what, Some("write the address and port others reach it at".into()));
        return None;
    }
    Some(found)
}

pub(super) fn optional_address(
    given: Option<&Given>,
    default: SocketAddr,
    m: &mut Mistakes<'_>,
) -> Option<SocketAddr> {
    match given {
        None => Some(default),
        Some(given) if given.text == "off" => None,
        Some(given) => address(given, m),
    }
}

pub(super) fn host_port(given: &Given, m: &mut Mistakes<'_>) -> Option<HostPort> {
    let result = HostPort::parse(&given.text).map_err(|what| {
        let scheme = given.text.contains("://");
        let hint =
            if scheme { "write it without the scheme" } else { "for example \"10.0.0.2:7945\"" };
        (what, Some(hint.to_owned()))
    });
    m.take(given, result)
}

/// An `http://` URL with a host.
pub(super) fn plain_http(text: &str, example: &str) -> Result<http::Uri, (String, Option<String>)> {
    let example = || Some(format!("for example {example:?}"));
    let uri: http::Uri =
        text.parse().map_err(|e| (format!("{text:?} is not a URL: {e}"), example()))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(host)) if !host.is_empty() => Ok(uri),
        (Some("https"), _) => {
            let hint = "use http:// on the loopback interface or inside a trusted network";
            Err((format!("{text:?}: https is not supported here"), Some(hint.into())))
        }
        _ => Err((format!("{text:?} is not an http:// URL with a host"), example())),
    }
}

/// One of a few words.
pub(super) fn word<'a>(
    given: &Given,
    key: &str,
    allowed: &[&'a str],
    m: &mut Mistakes<'_>,
) -> Option<&'a str> {
    if let Some(found) = allowed.iter().find(|word| **word == given.text) {
        return Some(*found);
    }
    let list = allowed.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(" or ");
    let hint = nearest(&given.text, allowed.iter().copied());
    let hint = hint.map_or(format!("write {list}"), |word| format!("did you mean {word:?}?"));
    m.add(&given.place, format!("{key} is {:?}; it must be {list}", given.text), Some(hint));
    None
}

pub(super) fn number(given: &Given, min: u32, max: u32, m: &mut Mistakes<'_>) -> Option<u32> {
    let parsed = given.text.parse::<u32>().ok().filter(|n| (min..=max).contains(n));
    if parsed.is_none() {
        let what = format!("{:?} is not a whole number from {min} to {max}", given.text);
        m.add(&given.place, what, None);
    }
    parsed
}

pub(super) fn span(
    given: Option<&Given>,
    default: Duration,
    longest: Duration,
    m: &mut Mistakes<'_>,
) -> Duration {
    let Some(given) = given else { return default };
    let result = Span::parse(&given.text).map_err(|e| (e.to_string(), None)).and_then(|span| {
        if (SHORTEST..=longest).contains(&span.0) {
            return Ok(span.0);
        }
        let bounds = format!("{} to {}", Span(SHORTEST), Span(longest));
        Err((format!("{span} is out of bounds; allowed is {bounds}"), None))
    });
    m.take(given, result).unwrap_or(default)
}
