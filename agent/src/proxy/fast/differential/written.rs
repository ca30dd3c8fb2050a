//! [`answer`] against hyper's client: whatever a peer calls status, length, fields and trailers, what is
//! written to the client is one answer, that one, and nothing behind it.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};

use super::super::super::head::{BadHead, Fields, ResponseHead};
use super::super::answer::{self, Coding, Shape};
use super::oracle;
use super::{Counts, Dice, assert_same, grammar, lines, run, shown, without};

const OF_THE_HOP: [&str; 7] = [
    "te",
    "upgrade",
    "connection",
    "keep-alive",
    "content-length",
    "proxy-connection",
    "transfer-encoding",
];

/// What a peer sends back.
#[derive(Debug)]
struct Answer {
    interim: Vec<ResponseHead>,
    head: ResponseHead,
    pieces: Vec<Bytes>,
    trailers: Fields,
}

impl Answer {
    fn head_has(&self, name: &str) -> bool {
        HeaderMap::try_from(&self.head.fields).is_ok_and(|fields| fields.contains_key(name))
    }
}

fn status(dice: &mut Dice) -> u16 {
    const ODD: [u16; 12] = [0, 1, 20, 99, 100, 101, 103, 199, 600, 999, 1000, u16::MAX];
    if dice.one_in(8) {
        dice.pick(&ODD)
    } else {
        dice.pick(&[200, 200, 201, 204, 206, 301, 304, 404, 418, 499, 500, 599])
    }
}

fn answered(dice: &mut Dice) -> Answer {
    let body = if dice.one_in(3) { Vec::new() } else { grammar::body(dice) };
    let length = match dice.below(8) {
        0..4 => Some(body.len() as u64),
        4 => Some(dice.pick(&[0, 1, 5, u64::MAX - 1, body.len() as u64 + 1])),
        _ => None,
    };
    let pieces = super::cut(dice, &body).into_iter().map(Bytes::copy_from_slice).collect();
    let interim = if dice.one_in(10) {
        let status = dice.pick(&[100, 102, 103, 103, 199, 101, 200, 204, 0, 99]);
        vec![ResponseHead { status, length: None, fields: lines(&grammar::block(dice)) }]
    } else {
        Vec::new()
    };
    Answer {
        interim,
        head: ResponseHead { status: status(dice), length, fields: lines(&grammar::block(dice)) },
        pieces,
        trailers: if dice.one_in(4) { lines(&grammar::block(dice)) } else { Fields::default() },
    }
}

/// Writes it as the client's connection does.
fn put(answer: &Answer, shape: Shape) -> Result<(BytesMut, Coding), BadHead> {
    let mut out = BytesMut::new();
    for interim in &answer.interim {
        // One that cannot be passed on ends the exchange.
        answer::put_interim(&mut out, interim)?;
    }
    let empty = answer.pieces.iter().all(Bytes::is_empty);
    let mut coding = answer::put_head(&mut out, &answer.head, b"via: 1.1 a\r\n", shape, empty)?;
    let began = coding;
    for piece in answer.pieces.iter().filter(|p| !p.is_empty()) {
        coding.before(&mut out, piece)?;
        out.put_slice(piece);
        coding.after(&mut out);
    }
    coding.end(&mut out, &answer.trailers)?;
    Ok((out, began))
}

fn check(dice: &mut Dice, counts: &mut Counts) {
    let answer = answered(dice);
    let method = dice.pick(&["GET", "GET", "GET", "POST", "HEAD"]);
    let shape = Shape { to_head: method == "HEAD", close: dice.one_in(4) };
    let (out, coding) = match put(&answer, shape) {
        Ok(written) => written,
        Err(_) => return counts.add("refused"),
    };
    counts.add(match coding {
        Coding::None => "without a body",
        Coding::Sized(_) => "of known length",
        Coding::Chunked => "in chunks",
    });
    let heard = match oracle::ask(&out, method, false) {
        Ok(heard) => heard,
        Err(why) => panic!("hyper refuses it, {why}: {answer:?}\n{}", shown(&out)),
    };
    let text = || format!("{answer:?}\n{heard:?}\n{}", shown(&out));
    assert_eq!(heard.status, answer.head.status, "{}", text());
    assert!(heard.content.whole, "hyper does not see its end: {}", text());
    assert_eq!((heard.left, heard.kept), (0, !shape.close), "{}", text());
    assert!(heard.content.data == answer.pieces.concat(), "another body: {}", text());
    let dropped = |name: &str| OF_THE_HOP.contains(&name);
    let mut fields = without(&HeaderMap::try_from(&answer.head.fields).unwrap(), dropped);
    fields.append("via", HeaderValue::from_static("1.1 a"));
    // An answer that has no date gets one, which nobody can know beforehand.
    let added = |name: &str| name == "date" && !answer.head_has("date");
    let heard_fields = without(&heard.fields, |name| dropped(name) || added(name));
    assert_same(&fields, &heard_fields, &out);
    if coding == Coding::Chunked {
        let trailers = HeaderMap::try_from(&answer.trailers).unwrap();
        assert_same(&without(&trailers, dropped), &heard.content.trailers, &out);
    }
}

#[test]
fn what_a_peer_answers_is_one_message_to_the_client() {
    let counts = run("what_a_peer_answers_is_one_message_to_the_client", 15, check);
    counts.at_least("without a body", 5);
    counts.at_least("of known length", 10);
    counts.at_least("in chunks", 5);
    counts.at_least("refused", 5);
}
