//! A client's request, made ready to be sent any number of times.
//!
//! Decides in which form a request crosses the mesh: its target, its fields, and how its body goes: kept
//! where it is short, so that it can be sent again, else taken from the client when somebody asks for it.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use hearth_proto::ids::ServiceName;
use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, MAX_FORWARDS};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout_at;

use super::Inner;
use super::answer::Failure;
use super::attempt::Prepared;
use super::head::{BodyKind, RequestHead};
use super::headers::{Hop, forward_request};
use super::outbound::authority;
use super::safety::MAX_REPLAY;
use super::scan::Refusal;
use super::supply::{Coming, Supply};
use super::target::{canonical, valid_authority};

/// Makes a request ready to be sent any number of times. Short bodies of known length are read first.
pub(crate) async fn prepare(
    inner: &Inner,
    service: &ServiceName,
    client: SocketAddr,
    request: Request<Incoming>,
    deadline: Instant,
) -> Result<Prepared, Failure> {
    let authority = authority(&request);
    // HTTP/1.1 was looked at on its way to hyper; HTTP/2 is looked at here.
    if !authority.is_empty() && !valid_authority(&authority) {
        return Err(Failure::BadRequest(format!("{authority:?} is no host with an optional port")));
    }
    let (mut parts, body) = request.into_parts();
    let target = target(&parts)?;
    let hop = Hop {
        version: parts.version,
        node: inner.node().as_str(),
        client: client.ip(),
        host: &authority,
    };
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    max_forwards(&mut parts)?;
    let told = parts.headers.get(CONTENT_LENGTH).is_some();
    let expects = expectation(&mut parts)?;
    forward_request(&mut parts.headers, &hop, rand::random);
    let length = body.size_hint().exact();
    let (supply, kind) = match length {
        _ if body.is_end_stream() => (Supply::None, BodyKind::None),
        Some(length) if length <= MAX_REPLAY && !expects => {
            (read(body, deadline).await?, BodyKind::Inline)
        }
        Some(_) => (Supply::once(Coming::new(body)), BodyKind::AfterGo),
        None if expects => (Supply::once(Coming::new(body)), BodyKind::AfterGo),
        None => gathered(body).await?,
    };
    let head = RequestHead {
        service: service.clone(),
        instance: 0,
        left_us: 0,
        attempts: 0,
        body: kind,
        length: if kind == BodyKind::None && !told { None } else { length },
        method: parts.method.as_str().to_owned(),
        target,
        authority,
        upgrade: String::new(),
        fields: (&parts.headers).into(),
    };
    Ok(Prepared::new(parts.method, head, supply))
}

/// HTTP/2 may cut the cookies up into fields; elsewhere there is one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

/// How often a question about the way itself is still passed on (RFC 9110 section 7.6.2).
fn max_forwards(parts: &mut Parts) -> Result<(), Failure> {
    if !matches!(parts.method, Method::OPTIONS | Method::TRACE) {
        return Ok(());
    }
    let Some(value) = parts.headers.get(MAX_FORWARDS) else { return Ok(()) };
    match value.to_str().ok().and_then(|v| v.parse::<u32>().ok()) {
        Some(0) => Err(Failure::Here),
        Some(left) => {
            parts.headers.insert(MAX_FORWARDS, HeaderValue::from(left - 1));
            Ok(())
        }
        None => Err(Failure::BadRequest("its Max-Forwards is no number".into())),
    }
}

/// Whether the client wants to be asked for its body. The one expectation there is goes on with the
/// request where interim answers come back, and is left out elsewhere (RFC 9110 section 10.1.1).
fn expectation(parts: &mut Parts) -> Result<bool, Failure> {
    if !parts.headers.contains_key(EXPECT) {
        return Ok(false);
    }
    let mut all = parts.headers.get_all(EXPECT).iter();
    if !all.all(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        let why = "it expects something else than 100-continue";
        return Err(Failure::Unreadable(Refusal::new(StatusCode::EXPECTATION_FAILED, why)));
    }
    let expects = parts.version == Version::HTTP_11;
    if !expects {
        parts.headers.remove(EXPECT);
    }
    Ok(expects)
}

/// Path and query in their canonical form.
fn target(parts: &Parts) -> Result<String, Failure> {
    let raw = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    match raw {
        "*" if parts.method == Method::OPTIONS => Ok(raw.to_owned()),
        "" => Ok("/".to_owned()),
        _ if raw.starts_with('?') => target_of(&format!("/{raw}")),
        _ => target_of(raw),
    }
}

fn target_of(raw: &str) -> Result<String, Failure> {
    canonical(raw)
        .map(std::borrow::Cow::into_owned)
        .map_err(|bad| Failure::BadRequest(bad.to_string()))
}

/// A body of unknown length: kept where all of it is here, as a call with one message is; else sent as it
/// comes.
async fn gathered(body: Incoming) -> Result<(Supply, BodyKind), Failure> {
    let mut body = Coming::new(body);
    match body.gather().await {
        Ok(Some((bytes, trailers))) => Ok((Supply::Inline(bytes, trailers), BodyKind::Inline)),
        Ok(None) => Ok((Supply::once(body), BodyKind::AfterGo)),
        Err(error) => Err(Failure::BadRequest(format!("its body broke off: {error}"))),
    }
}

async fn read(body: Incoming, deadline: Instant) -> Result<Supply, Failure> {
    // The length is announced and small; the bound holds should it lie.
    let limited = Limited::new(body, usize::try_from(MAX_REPLAY).unwrap_or(usize::MAX));
    match timeout_at(deadline.into(), limited.collect()).await {
        Ok(Ok(collected)) => {
            let trailers = collected.trailers().cloned();
            let bytes: Bytes = collected.to_bytes();
            Ok(Supply::Inline(bytes, trailers))
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Failure::BadRequest("its body is longer than announced".into()))
        }
        Ok(Err(error)) => Err(Failure::BadRequest(format!("its body broke off: {error}"))),
        Err(_) => Err(Failure::BadRequest("its body did not come in time".into())),
    }
}
