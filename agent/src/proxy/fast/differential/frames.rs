//! Bytes of peers that are not HTTP, however broken and however cut: the frames of a stream, the heads in
//! them, blocks of fields. They are read or refused; no piece of them is read twice, none is waited for
//! that cannot come.

use bytes::{Bytes, BytesMut};
use hearth_proto::ids::ServiceName;
use http::HeaderMap;

use super::super::super::frame::{self, Cause, Frame, HEADER, MAX_HEAD, Ready, Refused};
use super::super::super::head::{BodyKind, RequestHead, ResponseHead};
use super::{Counts, Dice, cut, grammar, lines, mutation, run, shown};

/// What is read of a stream, its data in one.
#[derive(Debug, Default, PartialEq)]
struct Account {
    frames: Vec<Frame>,
    data: Vec<u8>,
    refused: bool,
}

fn read(pieces: &[&[u8]]) -> Account {
    let (mut account, mut ahead, mut left) = (Account::default(), Bytes::new(), 0);
    for piece in pieces {
        let mut more = BytesMut::from(&ahead[..]);
        more.extend_from_slice(piece);
        ahead = more.freeze();
        loop {
            let before = ahead.len();
            match frame::take(&mut ahead, &mut left) {
                Err(_) => {
                    account.refused = true;
                    return account;
                }
                Ok(Ready::Wants(bytes)) => {
                    assert!(bytes > ahead.len(), "it wants what is here");
                    assert!(bytes <= HEADER + MAX_HEAD, "it gathers {bytes} bytes");
                    break;
                }
                Ok(Ready::Frame(frame)) => {
                    assert!(ahead.len() < before, "it reads the same again");
                    match frame {
                        Frame::Data(data) => {
                            assert!(!data.is_empty(), "an empty piece would end a body in chunks");
                            account.data.extend_from_slice(&data);
                        }
                        frame => account.frames.push(frame),
                    }
                }
            }
        }
    }
    account
}

fn payload(dice: &mut Dice, kind: u8) -> Vec<u8> {
    let mut out = BytesMut::new();
    match kind {
        frame::HEAD | frame::INFO => {
            let length = dice.one_in(2).then(|| dice.next() % 1000);
            let status = dice.pick(&[0, 100, 200, 404, 65535]);
            ResponseHead { status, length, fields: lines(&grammar::block(dice)) }.put(&mut out);
        }
        frame::TRAILERS => out.extend(grammar::block(dice)),
        frame::REFUSED => {
            let cause = dice.pick(&[Cause::NotOurs, Cause::Busy, Cause::Malformed]);
            let refused = Refused { executed: dice.one_in(2), cause, detail: "why".into() };
            return frame::refused(&refused).unwrap()[HEADER..].to_vec();
        }
        frame::END | frame::GO => {}
        _ => out.extend(grammar::body(dice)),
    }
    out.to_vec()
}

fn stream(dice: &mut Dice) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    for _ in 0..dice.below(6) {
        let kind = (dice.next() % 9) as u8;
        let payload = payload(dice, kind);
        let length = if dice.one_in(20) {
            dice.pick(&[0, 1, MAX_HEAD, MAX_HEAD + 1, u32::MAX as usize])
        } else {
            payload.len()
        };
        frame::put_header(&mut bytes, kind, length);
        bytes.extend(payload);
    }
    let mut bytes = bytes.to_vec();
    if dice.one_in(3) {
        mutation::mutate(dice, &mut bytes);
    }
    bytes
}

fn request_head(dice: &mut Dice) -> Bytes {
    let [method, target, authority] = grammar::asked(dice);
    let mut out = BytesMut::new();
    let head = RequestHead {
        attempts: dice.pick(&[0, 0, 1, 255]),
        service: ServiceName::parse(dice.pick(&["a", "ledger", "x-1"])).unwrap(),
        instance: dice.next() as u16,
        left_us: dice.next(),
        body: dice.pick(&[BodyKind::None, BodyKind::Inline, BodyKind::AfterGo]),
        length: dice.one_in(2).then(|| dice.next()),
        method,
        target,
        authority,
        upgrade: dice.pick(&["", "websocket"]).into(),
        fields: lines(&grammar::block(dice)),
    };
    if dice.one_in(10) {
        return (0..dice.below(90)).map(|_| dice.byte()).collect();
    }
    head.put(&mut out);
    let mut bytes = out.to_vec();
    if dice.one_in(2) {
        mutation::mutate(dice, &mut bytes);
    }
    bytes.into()
}

/// What is read of a block of fields is what an HTTP parser may be given again.
fn check_block(bytes: &[u8], counts: &mut Counts) {
    let (fields, mut again) = (lines(bytes), Vec::new());
    let parsed = fields.parse(|name, value| {
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':'));
        assert!(!value.iter().any(|b| b"\0\r\n".contains(b)), "{}", shown(value));
        again.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    });
    assert_eq!(parsed.is_ok(), HeaderMap::try_from(&fields).is_ok(), "{}", shown(bytes));
    if parsed.is_err() {
        return counts.add("fields refused");
    }
    counts.add("fields");
    again.extend_from_slice(b"\r\n");
    let same = HeaderMap::try_from(&lines(&again)).unwrap();
    super::assert_same(&HeaderMap::try_from(&fields).unwrap(), &same, bytes);
}

fn check(dice: &mut Dice, counts: &mut Counts) {
    match dice.below(3) {
        0 => {
            let bytes = stream(dice);
            let account = read(&[&bytes]);
            assert_eq!(account, read(&cut(dice, &bytes)), "{}", shown(&bytes));
            counts.add(if account.refused { "stream refused" } else { "stream" });
        }
        1 => {
            let bytes = request_head(dice);
            let Ok(head) = RequestHead::decode(&bytes) else {
                return counts.add("request head refused");
            };
            counts.add("request head");
            let mut again = BytesMut::new();
            head.put(&mut again);
            assert_eq!(again, bytes, "it is not what was read");
        }
        _ => check_block(&grammar::block(dice), counts),
    }
}

#[test]
fn what_a_peer_sends_is_read_or_refused() {
    let counts = run("what_a_peer_sends_is_read_or_refused", 10, check);
    for class in ["stream", "stream refused", "request head", "request head refused", "fields"] {
        counts.at_least(class, 2);
    }
    counts.at_least("fields refused", 2);
}
