//! What an intermediary does to header fields. Pure.
//!
//! RFC 9110 section 7.6.1: fields of a single hop are removed, in both directions, those that
//! `Connection` names included. Then each hop signs with `Via`, tells whom it forwards for, and makes
//! sure that a request can be followed (`X-Request-ID`, W3C `traceparent`).

use std::net::IpAddr;

use http::header::{CONNECTION, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request that passed so many agents goes in a circle.
pub(crate) const MAX_VIA: usize = 16;

/// Removes the fields that concern one hop only. `Trailer` stays: trailers are passed on.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // These say how the message is to be read; naming them in Connection must not hide them.
        .filter(|name| *name != HOST && *name != TRAILER && *name != http::header::CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
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

/// How many intermediaries have signed.
pub(crate) fn hops(headers: &HeaderMap) -> usize {
    headers.get_all(VIA).iter().filter_map(|v| v.to_str().ok()).map(|v| v.split(',').count()).sum()
}

/// Prepares a client's request for the way through the mesh. `random` makes up ids.
pub(crate) fn forward_request(
    headers: &mut HeaderMap,
    version: Version,
    node: &str,
    client: IpAddr,
    random: impl Fn() -> u128,
) {
    strip_hop_by_hop(headers);
    // hyper has answered it already.
    headers.remove(EXPECT);
    headers.remove(HOST);
    sign_via(headers, version, node);
    let mut chain: Vec<String> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|v| v.to_str().ok().map(str::to_owned))
        .collect();
    chain.push(client.to_string());
    if let Ok(value) = HeaderValue::try_from(chain.join(", ")) {
        headers.insert(FORWARDED_FOR, value);
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if !headers.contains_key(REQUEST_ID)
        && let Ok(value) = HeaderValue::try_from(format!("{:032x}", random()))
    {
        headers.insert(REQUEST_ID, value);
    }
    if !headers.contains_key(TRACEPARENT) {
        // All-zero ids are invalid (W3C Trace Context section 3.2.2). Not sampled: nobody asked for it.
        let trace = random().max(1);
        let span = u64::try_from(random() & u128::from(u64::MAX)).unwrap_or(1).max(1);
        if let Ok(value) = HeaderValue::try_from(format!("00-{trace:032x}-{span:016x}-00")) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

/// Prepares an application's answer for the way back.
pub(crate) fn forward_response(headers: &mut HeaderMap, version: Version, node: &str) {
    strip_hop_by_hop(headers);
    sign_via(headers, version, node);
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
        forward_request(&mut h, Version::HTTP_11, "web-1", [127, 0, 0, 1].into(), || 7);
        assert_eq!(h["x-forwarded-for"], "9.9.9.9, 127.0.0.1");
        assert_eq!(h["x-request-id"], "00000000000000000000000000000007");
        assert_eq!(h["traceparent"], "00-00000000000000000000000000000007-0000000000000007-00");
        assert_eq!(hops(&h), 2);
    }

    #[test]
    fn ids_that_came_with_the_request_are_kept() {
        let mut h = map(&[("x-request-id", "mine"), ("traceparent", "00-a-b-01")]);
        forward_request(&mut h, Version::HTTP_2, "web-1", [10, 0, 0, 9].into(), || 0);
        assert_eq!(
            (h["x-request-id"].as_bytes(), h["traceparent"].as_bytes()),
            (&b"mine"[..], &b"00-a-b-01"[..])
        );
        assert_eq!(h["via"], "2.0 web-1");
    }
}
