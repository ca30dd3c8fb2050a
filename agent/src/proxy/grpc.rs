//! What gRPC says in header fields and trailers (gRPC over HTTP/2). Pure.
//!
//! gRPC has failures of its own beside HTTP's: the status comes in the trailers, or in the head of an
//! answer that has nothing else ("trailers-only"). A client of gRPC understands a failure of ours only in
//! this form.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The statuses that we give or look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u8);

impl Code {
    pub(crate) const DEADLINE_EXCEEDED: Self = Self(4);
    pub(crate) const PERMISSION_DENIED: Self = Self(7);
    pub(crate) const RESOURCE_EXHAUSTED: Self = Self(8);
    pub(crate) const UNIMPLEMENTED: Self = Self(12);
    pub(crate) const INTERNAL: Self = Self(13);
    pub(crate) const UNAVAILABLE: Self = Self(14);

    /// What an answer's head or its trailers say.
    pub(crate) fn of(fields: &HeaderMap) -> Option<Self> {
        fields.get(STATUS)?.to_str().ok()?.parse().ok().map(Self)
    }

    /// What a status of HTTP is to gRPC.
    pub(crate) fn from_http(status: StatusCode) -> Self {
        match status.as_u16() {
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 => Self::RESOURCE_EXHAUSTED,
            502 | 503 => Self::UNAVAILABLE,
            504 => Self::DEADLINE_EXCEEDED,
            _ => Self::INTERNAL,
        }
    }

    /// How requests that ended so are counted.
    pub(crate) fn outcome(self) -> &'static str {
        match self.0 {
            0 => "ok",
            // Unknown, deadline, internal, unavailable, data loss; the others are answers to what was asked.
            2 | 4 | 13 | 14 | 15 => "server_error",
            _ => "client_error",
        }
    }
}

/// Whether a message is one of gRPC. gRPC-Web is not: it is for HTTP/1.1, its trailers stand in its body.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let rest = value.get(..16).filter(|v| v.eq_ignore_ascii_case("application/grpc"));
    rest.is_some() && matches!(value.as_bytes().get(16), None | Some(b'+' | b';' | b' '))
}

/// The time a client gives its call.
pub(crate) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(TIMEOUT)?.to_str().ok()?;
    let (number, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Tells the next hop how much is left of the time.
pub(crate) fn set_timeout(headers: &mut HeaderMap, left: Duration) {
    if let Ok(value) = HeaderValue::try_from(print(left)) {
        headers.insert(TIMEOUT, value);
    }
}

/// Tells the next hop that so much of the time is over.
pub(crate) fn spend(headers: &mut HeaderMap, spent: Duration) {
    if let Some(given) = timeout(headers) {
        set_timeout(headers, given.saturating_sub(spent));
    }
}

/// The trailers of an answer that broke off.
pub(crate) fn broken_off(why: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, HeaderValue::from(u16::from(Code::UNAVAILABLE.0)));
    if let Ok(value) = HeaderValue::try_from(message(why)) {
        trailers.insert(MESSAGE, value);
    }
    trailers
}

/// At most eight digits, as exactly as they allow; rounded down, and never to nothing.
fn print(time: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let (us, ms) = (time.as_micros(), time.as_millis());
    match () {
        () if us <= MOST => format!("{}u", us.max(1)),
        () if ms <= MOST => format!("{ms}m"),
        () if u128::from(time.as_secs()) <= MOST => format!("{}S", time.as_secs()),
        () => format!("{}H", (u128::from(time.as_secs()) / 3600).min(MOST)),
    }
}

/// What the server says of another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushback {
    /// Nothing.
    None,
    /// Not before this.
    After(Duration),
    /// It is not to be made.
    Never,
}

/// What an answer says of another try. What is no time is a refusal (gRFC A6).
pub(crate) fn pushback(fields: &HeaderMap) -> Pushback {
    let Some(value) = fields.get(PUSHBACK) else { return Pushback::None };
    match value.to_str().ok().and_then(|v| v.parse::<i64>().ok()).map(u64::try_from) {
        Some(Ok(ms)) => Pushback::After(Duration::from_millis(ms)),
        _ => Pushback::Never,
    }
}

/// A message as `grpc-message` has it: printable ASCII without `%`, the rest percent-encoded.
pub(crate) fn message(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn calls_are_known_by_their_type_and_grpc_web_is_none() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC;charset=x", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(&with(CONTENT_TYPE, value)), expected, "{value}");
        }
    }

    #[test]
    fn a_time_is_read_and_passed_on_shortened() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("100m", Some(Duration::from_millis(100))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("0S", Some(Duration::ZERO)),
            ("100000000m", None),
            ("1", None),
            ("m", None),
            ("-1m", None),
            ("1.5S", None),
            ("", None),
        ] {
            assert_eq!(timeout(&with(TIMEOUT, text)), expected, "{text:?}");
        }
        let mut h = with(TIMEOUT, "10S");
        spend(&mut h, Duration::from_millis(7_500));
        assert_eq!(h[TIMEOUT], "2500000u");
        spend(&mut h, Duration::from_secs(1000));
        assert_eq!(timeout(&h), Some(Duration::from_micros(1)));
        let mut none = HeaderMap::new();
        spend(&mut none, Duration::ZERO);
        assert!(none.is_empty());
        for time in [Duration::ZERO, Duration::from_secs(1 << 40), Duration::from_secs(200_000)] {
            let h = with(TIMEOUT, &print(time));
            assert!(timeout(&h).is_some(), "{time:?} became {:?}", h[TIMEOUT]);
        }
    }

    #[test]
    fn a_server_can_put_another_try_off_or_forbid_it() {
        let says = |value: &str| pushback(&with(PUSHBACK, value));
        assert_eq!(says("100"), Pushback::After(Duration::from_millis(100)));
        assert_eq!(says("-1"), Pushback::Never);
        assert_eq!(says("soon"), Pushback::Never);
        assert_eq!(pushback(&HeaderMap::new()), Pushback::None);
    }

    #[test]
    fn messages_are_encoded_and_statuses_counted() {
        assert_eq!(message("100% für\n"), "100%25 f%C3%BCr%0A");
        assert_eq!(Code::of(&with(STATUS, "14")), Some(Code::UNAVAILABLE));
        assert_eq!(Code::of(&with(STATUS, "x")), None);
        assert_eq!(Code(0).outcome(), "ok");
        assert_eq!(Code::UNAVAILABLE.outcome(), "server_error");
        assert_eq!(Code(5).outcome(), "client_error");
    }
}
