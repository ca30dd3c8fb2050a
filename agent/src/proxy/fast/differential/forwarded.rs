//! [`owner::write_request`] against hyper's server: whatever a peer calls method, target, fields and
//! trailers, what is written to the application is one message, that one, and nothing behind it.

use bytes::BytesMut;
use hearth_proto::ids::ServiceName;
use http::HeaderMap;

use super::super::super::head::{BodyKind, Fields, RequestHead};
use super::super::owner;
use super::oracle::{self, End};
use super::{Counts, Dice, assert_same, grammar, lines, run, shown, without};

/// What is not passed on to an application as it came.
const OF_THE_HOP: [&str; 9] = [
    "te",
    "upgrade",
    "connection",
    "keep-alive",
    "content-length",
    "proxy-connection",
    "transfer-encoding",
    "host",
    "expect",
];

fn check(dice: &mut Dice, counts: &mut Counts) {
    let [method, target, authority] = grammar::asked(dice);
    let body = if dice.one_in(2) { grammar::body(dice) } else { Vec::new() };
    let fields = lines(&grammar::block(dice));
    let trailers = dice.one_in(3).then(|| lines(&grammar::block(dice)));
    let head = RequestHead {
        attempts: 0,
        service: ServiceName::parse("ledger").unwrap(),
        instance: 0,
        left_us: 0,
        body: if body.is_empty() { BodyKind::None } else { BodyKind::Inline },
        length: Some(body.len() as u64),
        method,
        target,
        authority,
        upgrade: String::new(),
        fields,
    };
    let out = match written(&head, &body, trailers.as_ref()) {
        Ok(out) => out,
        Err(why) => return counts.add(why),
    };
    counts.add(if trailers.is_some() { "passed on, with trailers" } else { "passed on" });
    let served = oracle::serve(&out);
    let text = || format!("{served:?}\n{}", shown(&out));
    assert_eq!(served.seen.len(), 1, "not one message: {}", text());
    assert_eq!((&served.end, served.left), (&End::Open, 0), "not at its end: {}", text());
    let seen = &served.seen[0];
    assert_eq!((&seen.method, &seen.target), (&head.method, &head.target), "{}", text());
    let hosts: Vec<_> =
        seen.fields.get_all("host").iter().map(http::HeaderValue::as_bytes).collect();
    assert_eq!(hosts, [head.authority.as_bytes()], "{}", text());
    assert!(seen.content.whole && seen.content.data == body, "another body: {}", text());
    let framing = |name: &str| OF_THE_HOP.contains(&name);
    let came = HeaderMap::try_from(&head.fields).expect("it was passed on");
    assert_same(&without(&came, framing), &without(&seen.fields, framing), &out);
    let none = lines(b"");
    let trailers = HeaderMap::try_from(trailers.as_ref().unwrap_or(&none));
    assert_same(&trailers.expect("they were passed on"), &seen.content.trailers, &out);
}

#[test]
fn what_a_peer_asks_for_is_one_message_to_the_application() {
    let counts = run("what_a_peer_asks_for_is_one_message_to_the_application", 15, check);
    counts.at_least("passed on", 20);
    counts.at_least("passed on, with trailers", 5);
    counts.at_least("its header fields cannot be passed on", 5);
}

#[test]
fn trailers_without_a_single_one_still_end_the_message() {
    let head = RequestHead {
        attempts: 0,
        service: ServiceName::parse("ledger").unwrap(),
        instance: 0,
        left_us: 0,
        body: BodyKind::Inline,
        length: None,
        method: "POST".into(),
        target: "/".into(),
        authority: "x".into(),
        upgrade: String::new(),
        fields: lines(b""),
    };
    let out = written(&head, b"a", Some(&lines(b""))).unwrap();
    assert!(out.ends_with(b"\r\n\r\n1\r\na\r\n0\r\n\r\n"), "{}", shown(&out));
}

fn written(
    head: &RequestHead,
    body: &[u8],
    trailers: Option<&Fields>,
) -> Result<BytesMut, &'static str> {
    let mut out = BytesMut::new();
    owner::write_request(&head.borrowed(), body, trailers, &mut out).map(|()| out)
}
