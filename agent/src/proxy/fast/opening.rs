//! A plain request as it goes to a peer: the preamble of its stream, and its body where it has one. Pure.
//!
//! Laid out once; only whom it is for and how much time is left is written into it for each attempt.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use hearth_proto::ids::ServiceName;
use hearth_proto::wire::PROTOCOL;
use http::Method;

use super::super::answer::Failure;
use super::super::attempt::Prepared;
use super::super::frame::{self, DATA, END, HEADER, HTTP};
use super::super::head::{BadHead, BodyKind, HeadParts, RequestHead, left_after, put_request};
use super::super::supply::Supply;
use super::request::Plain;

/// Where instance and time stand in an opening: version, kind, length, then they.
const INSTANCE: usize = 1 + HEADER;
const LEFT: usize = INSTANCE + 2;

/// Writes into an opening whom it is for, and how much time is left.
pub(super) fn address(opening: &mut [u8], instance: u16, left: Duration) {
    let left = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
    opening[INSTANCE..INSTANCE + 2].copy_from_slice(&instance.to_be_bytes());
    opening[LEFT..LEFT + 8].copy_from_slice(&left_after(left, 0).to_be_bytes());
}

/// Appends the preamble of a request's stream, and returns how long it is.
pub(super) fn put(
    out: &mut BytesMut,
    plain: &Plain<'_, '_>,
    service: &ServiceName,
    via: &[u8],
    client: &str,
) -> usize {
    let body = if plain.length == 0 { BodyKind::None } else { BodyKind::Inline };
    let parts = HeadParts {
        service,
        // Both are written when it is known who is asked.
        instance: 0,
        left_us: 0,
        attempts: 0,
        body,
        length: (plain.length > 0).then_some(plain.length),
        method: plain.method,
        target: plain.target,
        authority: plain.host,
        upgrade: "",
    };
    out.reserve(plain.head + 512);
    out.put_u8(PROTOCOL);
    frame::with_header(out, HTTP, |out| {
        put_request(out, &parts);
        plain.put_fields(out, via, client, rand::random);
    });
    out.len()
}

/// Appends a body that is here whole, and its end.
pub(super) fn put_body(out: &mut BytesMut, body: &[u8]) {
    frame::put_header(out, DATA, body.len());
    out.put_slice(body);
    frame::put_header(out, END, 0);
}

/// The request of an opening as the race wants it; `end` is where its head ends.
pub(super) fn prepared(opening: &[u8], end: usize) -> Result<Prepared, Failure> {
    let bad = |e: BadHead| Failure::BadRequest(e.to_string());
    let opening = Bytes::copy_from_slice(opening);
    let head = RequestHead::decode(&opening.slice(1 + HEADER..end)).map_err(bad)?;
    let method = Method::from_bytes(head.method.as_bytes())
        .map_err(|e| Failure::BadRequest(e.to_string()))?;
    let supply = match head.body {
        // Between the frame's header and the end's.
        BodyKind::Inline => {
            Supply::Inline(opening.slice(end + HEADER..opening.len() - HEADER), None)
        }
        BodyKind::None | BodyKind::AfterGo => Supply::None,
    };
    Ok(Prepared::new(method, head, supply))
}
