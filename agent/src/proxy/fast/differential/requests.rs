//! [`request::read`] against hyper's server: what is plain is the same message to both.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::super::request::{self, MAX_PLAIN_FIELDS, Read, Room};
use super::oracle::{self, End, Seen, Served};
use super::{Counts, Dice, assert_same, cut, fields_of, grammar, run, shown, without};

const VIA: &str = "1.1 web-1";
const CLIENT: &str = "192.0.2.7";
/// Ids of requests that brought none are made of this.
const RANDOM: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;

/// The plain requests that stand at the beginning of some bytes, as the fast path takes them one by one.
struct Taken<'b> {
    /// Each from where it begins, and its body.
    plain: Vec<(&'b [u8], &'b [u8])>,
    /// Bytes of them.
    used: usize,
    then: Then,
}

/// Where taking plain requests ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The bytes end with a request.
    Nothing,
    /// The next head is not whole.
    Head,
    /// The next head is plain and its body not whole.
    Body,
    /// The next one is unusual.
    Unusual,
    /// The last one wants the connection closed.
    Close,
}

fn room<'b>() -> Room<'b> {
    [const { std::mem::MaybeUninit::uninit() }; MAX_PLAIN_FIELDS]
}

fn take(bytes: &[u8]) -> Taken<'_> {
    let mut taken = Taken { plain: Vec::new(), used: 0, then: Then::Nothing };
    loop {
        let rest = &bytes[taken.used..];
        if rest.is_empty() {
            return taken;
        }
        let mut room = room();
        let plain = match request::read(rest, &mut room) {
            Read::Partial => return Taken { then: Then::Head, ..taken },
            Read::Unusual => return Taken { then: Then::Unusual, ..taken },
            Read::Plain(plain) => plain,
        };
        let whole = plain.head + plain.length as usize;
        if rest.len() < whole {
            return Taken { then: Then::Body, ..taken };
        }
        let close = plain.close;
        let body = &rest[plain.head..whole];
        taken.used += whole;
        taken.plain.push((rest, body));
        if close {
            return Taken { then: Then::Close, ..taken };
        }
    }
}

/// The fields that go on, by what hyper read of them: its own account, not that of the code it checks.
fn expected(fields: &HeaderMap) -> HeaderMap {
    const DROPPED: [&str; 6] = [
        "host",
        "content-length",
        "connection",
        "keep-alive",
        "proxy-connection",
        "x-forwarded-for",
    ];
    let mut on = without(fields, |name| DROPPED.contains(&name));
    let mut add = |name: &'static str, value: &[u8]| {
        on.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
    };
    add("via", VIA.as_bytes());
    let mut chain: Vec<&[u8]> =
        fields.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes).collect();
    chain.push(CLIENT.as_bytes());
    add("x-forwarded-for", &chain.join(&b", "[..]));
    if !fields.contains_key("x-forwarded-proto") {
        add("x-forwarded-proto", b"http");
    }
    if !fields.contains_key("x-request-id") {
        add("x-request-id", format!("{RANDOM:032x}").as_bytes());
    }
    if !fields.contains_key("traceparent") {
        let span = RANDOM & u128::from(u64::MAX);
        add("traceparent", format!("00-{RANDOM:032x}-{span:016x}-00").as_bytes());
    }
    on
}

fn assert_one(begins: &[u8], body: &[u8], seen: &Seen, bytes: &[u8]) {
    let mut room = room();
    let Read::Plain(plain) = request::read(begins, &mut room) else {
        unreachable!("it was plain before")
    };
    let text = || shown(bytes);
    assert_eq!(plain.method, seen.method, "{}", text());
    assert_eq!(plain.target, seen.target, "{}", text());
    let hosts: Vec<_> = seen.fields.get_all("host").iter().collect();
    assert_eq!(hosts, [plain.host], "{}", text());
    assert_eq!((body, true), (&seen.content.data[..], seen.content.whole), "{}", text());
    assert!(seen.content.trailers.is_empty(), "{}", text());
    let mut on = BytesMut::new();
    plain.put_fields(&mut on, format!("via: {VIA}\r\n").as_bytes(), CLIENT, || RANDOM);
    assert_same(&fields_of(&on), &expected(&seen.fields), bytes);
}

/// What hyper makes of a head that is whole and a body that is not, must be so far the same.
fn assert_begun(taken: &Taken<'_>, bytes: &[u8], served: &Served) {
    let text = || shown(bytes);
    let rest = &bytes[taken.used..];
    let mut room = room();
    let Read::Plain(plain) = request::read(rest, &mut room) else {
        unreachable!("it was plain before")
    };
    let seen = served.seen.last().unwrap_or_else(|| panic!("hyper saw no head: {}", text()));
    assert_eq!((plain.method, plain.target), (&*seen.method, &*seen.target), "{}", text());
    assert_eq!(&rest[plain.head..], seen.content.data, "{}", text());
    assert!(!seen.content.whole, "hyper sees the end of a body that ours does not: {}", text());
}

fn check(dice: &mut Dice, counts: &mut Counts) {
    let bytes = &grammar::requests(dice)[..];
    let taken = take(bytes);
    assert_cuts(dice, bytes);
    counts.add(match (taken.plain.len(), taken.then) {
        (1, _) => "plain",
        (2.., _) => "plain, pipelined",
        (_, Then::Unusual) => "unusual",
        (_, Then::Body) => "plain, its body not whole",
        _ => "not whole",
    });
    // Of what ours leaves to hyper only that is compared which comes before.
    let until = match taken.then {
        Then::Unusual | Then::Close => taken.used,
        Then::Nothing | Then::Head | Then::Body => bytes.len(),
    };
    if until == 0 {
        return;
    }
    let read = &bytes[..until];
    let served = oracle::serve(read);
    let whole = taken.plain.len();
    let begun = usize::from(taken.then == Then::Body);
    let text = || format!("{served:?}\nafter {whole}: {:?}\n{}", taken.then, shown(bytes));
    assert_eq!(served.seen.len(), whole + begun, "not as many messages: {}", text());
    let end = if taken.then == Then::Close { End::Closed } else { End::Open };
    assert_eq!(served.end, end, "{}", text());
    let left = if taken.then == Then::Head { until - taken.used } else { 0 };
    assert_eq!(served.left, left, "the messages end elsewhere: {}", text());
    for ((plain, body), seen) in taken.plain.iter().zip(&served.seen) {
        assert_one(plain, body, seen, bytes);
    }
    if begun == 1 {
        assert_begun(&taken, bytes, &served);
    }
}

/// A head that is plain is partial until it is whole, and nothing behind it changes what it is.
fn assert_cuts(dice: &mut Dice, bytes: &[u8]) {
    let mut room_of_whole = room();
    let Read::Plain(whole) = request::read(bytes, &mut room_of_whole) else { return };
    for piece in cut(dice, bytes) {
        let end = piece.as_ptr_range().end as usize - bytes.as_ptr() as usize;
        match request::read(&bytes[..end], &mut room()) {
            Read::Partial if end < whole.head => {}
            Read::Plain(plain) if end >= whole.head => {
                assert_eq!((plain.head, plain.length), (whole.head, whole.length));
            }
            _ => panic!("cut at {end} it is another message: {}", shown(bytes)),
        }
    }
}

#[test]
fn a_plain_request_is_the_same_message_to_hyper() {
    let counts = run("a_plain_request_is_the_same_message_to_hyper", 35, check);
    counts.at_least("plain", 20);
    counts.at_least("plain, pipelined", 2);
    counts.at_least("unusual", 20);
    counts.at_least("not whole", 1);
}
