//! What an intermediary does to header fields. Pure.
//!
//! RFC 9110 section 7.6.1: fields of a single hop are removed, in both directions, those that
//! `Connection` names included. Then each hop signs with `Via`, tells whom it forwards for
//! (`X-Forwarded-For` and, where somebody uses it already, `Forwarded` of RFC 7239), and makes sure that a
//! request can be followed (`X-Request-ID`, W3C `traceparent`). `Host` goes on unchanged, so there is
//! nothing that an `X-Forwarded-Host` could add; one that comes along is left alone, and so are `Date` and
//! `Server`.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TERM: HeaderName = HeaderName::from_static(super::lease::TERM);
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A request that passed so many intermediaries goes in a circle.
pub(crate) const MAX_VIA: usize = 16;
/// So does one that passed this very node so often. Applications that pass `Via` on, proxies among them,
/// may call each other across the same hosts a few times; a circle does it without end.
pub(crate) const MAX_OWN_VIA: usize = 4;

/// Fields that `Connection` cannot name away: how the message is read, and who handled it. Naming them
/// would blind the next hop to the body's length, or to a circle.
const KEPT: [HeaderName; 10] = [
    HOST,
    CONTENT_LENGTH,
    TRAILER,
    VIA,
    FORWARDED,
    FORWARDED_FOR,
    FORWARDED_PROTO,
    FORWARDED_HOST,
    REQUEST_ID,
    TRACEPARENT,
];

/// Removes the fields that concern one hop only. `Trailer` stays: trailers are passed on.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|name| name.parse().ok())
        .filter(|name| !KEPT.contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in
        [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE, HTTP2_SETTINGS]
    {
        headers.remove(name);
    }
}

/// The parts of a list that is separated by commas. What is not ASCII has none.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|t| !t.is_empty())
}

/// Whether a list has `token`, in any case and without its parameters.
pub(crate) fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(tokens)
        .any(|t| t.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case(token)))
}

/// Adds ourselves to `Via`.
pub(crate) fn sign_via(headers: &mut HeaderMap, version: Version, node: &str) {
    let version = match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        _ => "1.1",
    };
    // A node name is a DNS label, always a valid value.
    if let Ok(value) = HeaderValue::try_from(format!("{version} {node}")) {
        headers.append(VIA, value);
    }
}

/// How many intermediaries have signed, if they are too many, or this one did too often.
pub(crate) fn in_a_circle(headers: &HeaderMap, node: &str) -> Option<usize> {
    let (mut all, mut own) = (0, 0);
    for hop in headers.get_all(VIA).iter().flat_map(tokens) {
        all += 1;
        own += usize::from(hop.split_ascii_whitespace().nth(1) == Some(node));
    }
    (all >= MAX_VIA || own >= MAX_OWN_VIA).then_some(all)
}

/// Whom a request is passed on for, and by whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop<'a> {
    /// What the client speaks.
    pub(crate) version: Version,
    /// Our node.
    pub(crate) node: &'a str,
    /// Where the client is.
    pub(crate) client: IpAddr,
    /// Whom the client addressed.
    pub(crate) host: &'a str,
}

/// Prepares a client's request for the way through the mesh. `random` makes up ids.
pub(crate) fn forward_request(headers: &mut HeaderMap, hop: &Hop<'_>, random: impl Fn() -> u128) {
    let trailers = has_token(headers, TE, "trailers");
    strip_hop_by_hop(headers);
    if trailers {
        // Of this hop only as well, and true of the next: we read trailers and pass them on.
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    headers.remove(HOST);
    // Under which lease a request goes, its client does not know.
    headers.remove(TERM);
    sign_via(headers, hop.version, hop.node);
    tell_client(headers, hop);
    if !headers.contains_key(REQUEST_ID)
        && let Ok(value) = HeaderValue::try_from(format!("{:032x}", random()))
    {
        headers.insert(REQUEST_ID, value);
    }
    if !is_traced(headers) {
        headers.remove(TRACESTATE);
        // All-zero ids are invalid (W3C Trace Context section 3.2.2). Not sampled: nobody asked for it.
        let trace = random().max(1);
        let span = u64::try_from(random() & u128::from(u64::MAX)).unwrap_or(1).max(1);
        if let Ok(value) = HeaderValue::try_from(format!("00-{trace:032x}-{span:016x}-00")) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

/// Whether a request has one valid `traceparent` (W3C Trace Context section 3.2). Others start anew, and
/// without the state that belonged to them.
fn is_traced(headers: &HeaderMap) -> bool {
    let mut all = headers.get_all(TRACEPARENT).iter();
    match (all.next(), all.next()) {
        (Some(one), None) => is_traceparent(one.as_bytes()),
        _ => false,
    }
}

/// Whether a value is a valid `traceparent`.
pub(crate) fn is_traceparent(value: &[u8]) -> bool {
    let digits = |range: std::ops::Range<usize>| {
        let part = &value[range];
        part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let some = |range: std::ops::Range<usize>| {
        digits(range.clone()) && value[range].iter().any(|b| *b != b'0')
    };
    value.len() >= 55
        && [2, 35, 52].iter().all(|at| value[*at] == b'-')
        && digits(0..2)
        && !value.starts_with(b"ff")
        && some(3..35)
        && some(36..52)
        && digits(53..55)
        // Later versions may append fields.
        && (value.len() == 55 || (!value.starts_with(b"00") && value[55] == b'-'))
}

fn tell_client(headers: &mut HeaderMap, hop: &Hop<'_>) {
    let client = hop.client;
    let mut chain = String::new();
    for before in headers.get_all(FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok()) {
        chain.push_str(before);
        chain.push_str(", ");
    }
    if let Ok(value) = HeaderValue::try_from(chain + &client.to_string()) {
        headers.insert(FORWARDED_FOR, value);
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if headers.contains_key(FORWARDED) {
        let node = match client {
            IpAddr::V4(v4) => v4.to_string(),
            // RFC 7239 section 6: brackets, and so quotes.
            IpAddr::V6(v6) => format!("\"[{v6}]\""),
        };
        // An authority has neither quotes nor backslashes.
        let element = format!("for={node};host=\"{}\";proto=http", hop.host);
        if let Ok(value) = HeaderValue::try_from(element) {
            headers.append(FORWARDED, value);
        }
    }
}

/// Prepares an application's answer for the way back.
pub(crate) fn forward_response(headers: &mut HeaderMap, version: Version, node: &str) {
    strip_hop_by_hop(headers);
    sign_via(headers, version, node);
}

/// Prepares an interim answer for the way back. It has no body, whatever its fields say.
pub(crate) fn forward_interim(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    strip_hop_by_hop(headers);
}

/// Removes from trailers what must not be there (RFC 9110 section 6.5.1): whoever merges them into the
/// fields of the head would have them believed.
pub(crate) fn forward_trailers(trailers: &mut HeaderMap) {
    for name in [HOST, CONTENT_LENGTH, TRAILER] {
        trailers.remove(name);
    }
    strip_hop_by_hop(trailers);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (n, v) in fields {
            map.append(*n, HeaderValue::from_static(v));
        }
        map
    }

    fn hop(version: Version) -> Hop<'static> {
        let client = [127, 0, 0, 1].into();
        Hop { version, node: "web-1", client, host: "ledger.mesh:80" }
    }

    #[test]
    fn fields_of_one_hop_are_removed_those_named_by_connection_included() {
        let mut h = map(&[
            ("connection", "close, X-Hop"),
            ("connection", "keep-alive"),
            ("keep-alive", "timeout=5"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-connection", "close"),
            ("trailer", "x-sum"),
            ("x-stays", "1"),
        ]);
        strip_hop_by_hop(&mut h);
        let mut left: Vec<&str> = h.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["trailer", "x-stays"]);
    }

    #[test]
    fn connection_cannot_hide_how_the_message_is_framed_or_addressed() {
        let mut h = map(&[("connection", "content-length, host"), ("content-length", "3")]);
        h.insert(HOST, HeaderValue::from_static("ledger.mesh"));
        strip_hop_by_hop(&mut h);
        assert_eq!(h.len(), 2);
    }

    #[test]
    fn a_request_is_signed_and_can_be_followed() {
        let mut h = map(&[("via", "1.1 edge"), ("x-forwarded-for", "9.9.9.9")]);
        forward_request(&mut h, &hop(Version::HTTP_11), || 7);
        assert_eq!(h["x-forwarded-for"], "9.9.9.9, 127.0.0.1");
        assert_eq!(h["x-request-id"], "00000000000000000000000000000007");
        assert_eq!(h["traceparent"], "00-00000000000000000000000000000007-0000000000000007-00");
        assert_eq!(h.get_all("via").iter().collect::<Vec<_>>(), ["1.1 edge", "1.1 web-1"]);
    }

    #[test]
    fn ids_that_came_with_the_request_are_kept() {
        const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut h = map(&[("x-request-id", "mine"), ("traceparent", TRACE), ("tracestate", "a=b")]);
        forward_request(&mut h, &hop(Version::HTTP_2), || 0);
        assert_eq!(
            (h["x-request-id"].as_bytes(), h["traceparent"].as_bytes()),
            (&b"mine"[..], TRACE.as_bytes())
        );
        assert_eq!(h["tracestate"], "a=b");
        assert_eq!(h["via"], "2.0 web-1");
    }

    #[test]
    fn a_trace_that_is_none_starts_anew_without_its_state() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        for bad in [
            format!("00-{trace}-{span}"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{trace}-{span}-01-x"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00_{trace}-{span}-01"),
            String::new(),
        ] {
            assert!(!is_traceparent(bad.as_bytes()), "{bad}");
            let mut h = map(&[("tracestate", "a=b")]);
            h.insert(TRACEPARENT, bad.clone().try_into().unwrap());
            forward_request(&mut h, &hop(Version::HTTP_11), || 7);
            assert_ne!(h["traceparent"], bad);
            assert!(!h.contains_key("tracestate"));
        }
        assert!(is_traceparent(format!("01-{trace}-{span}-01-more").as_bytes()));
        let two = format!("00-{trace}-{span}-01");
        let mut h = HeaderMap::new();
        h.append(TRACEPARENT, two.clone().try_into().unwrap());
        h.append(TRACEPARENT, two.try_into().unwrap());
        forward_request(&mut h, &hop(Version::HTTP_11), || 7);
        assert_eq!(h.get_all(TRACEPARENT).iter().count(), 1);
    }

    #[test]
    fn who_handled_a_request_cannot_be_named_away() {
        let mut h = map(&[("connection", "via, X-Forwarded-For, traceparent"), ("via", "1.1 a")]);
        strip_hop_by_hop(&mut h);
        assert_eq!(h["via"], "1.1 a");
    }

    #[test]
    fn forwarded_is_extended_where_it_is_used() {
        let mut h = map(&[("forwarded", "for=9.9.9.9")]);
        forward_request(&mut h, &hop(Version::HTTP_11), || 7);
        let all: Vec<_> = h.get_all("forwarded").iter().collect();
        assert_eq!(all, ["for=9.9.9.9", "for=127.0.0.1;host=\"ledger.mesh:80\";proto=http"]);
        let mut h = map(&[("forwarded", "for=_x")]);
        let v6 = Hop { client: "::1".parse().unwrap(), ..hop(Version::HTTP_11) };
        forward_request(&mut h, &v6, || 7);
        assert!(h.get_all("forwarded").iter().any(|v| v.to_str().unwrap().contains("\"[::1]\"")));
        let mut h = map(&[]);
        forward_request(&mut h, &hop(Version::HTTP_11), || 7);
        assert!(!h.contains_key("forwarded"));
    }

    #[test]
    fn trailers_are_asked_for_where_the_client_takes_them() {
        let mut h = map(&[("te", "deflate;q=0.5, Trailers;q=1"), ("connection", "te")]);
        forward_request(&mut h, &hop(Version::HTTP_11), || 7);
        assert_eq!(h["te"], "trailers");
        let mut h = map(&[("te", "deflate")]);
        forward_request(&mut h, &hop(Version::HTTP_11), || 7);
        assert!(!h.contains_key("te"));
    }

    #[test]
    fn a_circle_shows_in_its_length_or_in_our_own_name() {
        let via = |n: usize, who: &str| {
            let mut h = HeaderMap::new();
            h.insert(VIA, vec![format!("1.1 {who} (x)"); n].join(", ").try_into().unwrap());
            in_a_circle(&h, "web-1")
        };
        assert_eq!(via(MAX_OWN_VIA - 1, "web-1"), None);
        assert_eq!(via(MAX_OWN_VIA, "web-1"), Some(MAX_OWN_VIA));
        assert_eq!(via(MAX_VIA - 1, "web-10"), None);
        assert_eq!(via(MAX_VIA, "web-10"), Some(MAX_VIA));
    }

    #[test]
    fn trailers_say_nothing_of_the_message() {
        let mut t = map(&[("content-length", "3"), ("host", "x"), ("te", "x"), ("x-sum", "1")]);
        forward_trailers(&mut t);
        assert_eq!(t.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"]);
    }
}
