//! Requests to an exclusive service: under which term they are sent, and whether they may still be served.
//!
//! The term travels as the field [`TERM`]. A client's own is removed where it comes in; the caller's agent writes
//! the term it routed by, and the owner's agent writes the one it holds, so that what the application reads is
//! its own agent's word. The lease is looked at by the clock at the last moment before the application is called,
//! and at each turn from then on: an agent that was stopped past its lease passes nothing on when it goes on.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use hearth_proto::ids::{EndpointId, ServiceName};
use hearth_proto::policy::Mode;
use tokio::time::timeout;

use super::Inner;
use super::body::{Body, watched};
use super::frame::{Cause, Refused};
use super::head::{Fields, RequestHead, parse_lines, put_field};
use crate::pipe::AppAddress;

/// The field that carries the term.
pub(crate) const TERM: &str = "hearth-term";

/// Why a request is kept from an application of ours, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    /// We do not hold the lease.
    NoLease,
    /// It was sent under an older term than the one we hold.
    OlderTerm,
    /// It was sent under a newer one: to our successor.
    NewerTerm,
    /// The lease ended while it was under way.
    LeaseOver,
}

impl Fence {
    fn word(self) -> &'static str {
        match self {
            Self::NoLease => "no_lease",
            Self::OlderTerm => "older_term",
            Self::NewerTerm => "newer_term",
            Self::LeaseOver => "lease_over",
        }
    }
}

/// The head as it is sent under `term`.
pub(crate) fn attach(mut head: RequestHead, term: Option<u64>) -> RequestHead {
    // Fields that cannot be read are refused where they arrive, as they would be without a term.
    if let Some(term) = term
        && let Some((_, fields)) = replaced(&head.fields, term)
    {
        head.fields = fields;
    }
    head
}

/// The terms that the fields name, and the fields with `term` in their place; `None` if they cannot be read.
fn replaced(fields: &Fields, term: u64) -> Option<(Vec<Option<u64>>, Fields)> {
    let mut lines = BytesMut::with_capacity(fields.lines().len() + 40);
    let mut named = Vec::new();
    parse_lines(fields.lines(), |name, value| {
        if name.eq_ignore_ascii_case(TERM) {
            named.push(std::str::from_utf8(value).ok().and_then(|v| v.trim().parse().ok()));
        } else {
            put_field(&mut lines, name, value);
        }
    })
    .ok()?;
    put_field(&mut lines, TERM, term.to_string().as_bytes());
    lines.extend_from_slice(b"\r\n");
    Some((named, Fields::unread(lines.freeze())))
}

impl Inner {
    /// Whether a service has one holder at a time.
    pub(crate) fn is_exclusive(&self, service: &ServiceName) -> bool {
        self.route(service).is_some_and(|route| route.policy.mode == Mode::Exclusive)
    }

    /// The term under which our endpoint `id` may serve now, and for how long yet unless it is renewed.
    fn held(&self, id: &EndpointId) -> Option<(u64, Duration)> {
        let snapshot = self.mesh.snapshot.load();
        let now = self.mesh.origin.time();
        let lease = snapshot.leases.get(&id.service);
        let lease = lease.filter(|lease| lease.endpoint == *id && now < lease.until)?;
        Some((lease.term, lease.until.since(now)))
    }

    /// Whether the application at `address` may be written to: in mode exclusive, only under the lease.
    pub(crate) fn may_reach(&self, address: &AppAddress) -> bool {
        let locals = self.locals.load();
        let mut there = locals.iter().map(|l| &l.endpoint).filter(|e| e.address == *address);
        there.all(|e| !self.is_exclusive(&e.id.service) || self.held(&e.id).is_some())
    }

    /// The term under which our endpoint `id` may serve now; `None` where it needs none.
    pub(crate) fn leased(&self, id: &EndpointId) -> Result<Option<u64>, Refused> {
        if !self.is_exclusive(&id.service) {
            return Ok(None);
        }
        let term = self.held(id).map(|(term, _)| term);
        term.map(Some).ok_or_else(|| {
            let detail = format!("{id} does not hold the lease of {}", id.service);
            self.fenced(id, Fence::NoLease, detail)
        })
    }

    /// The fields as our application gets them: with the term we hold; `None` where they stay as they are.
    /// What was sent under an older term was meant for a holder that is none any longer.
    pub(crate) fn fence(
        &self,
        id: &EndpointId,
        fields: &Fields,
    ) -> Result<Option<Fields>, Refused> {
        let Some(term) = self.leased(id)? else { return Ok(None) };
        let malformed =
            |detail: String| Refused { executed: false, cause: Cause::Malformed, detail };
        let Some((named, fields)) = replaced(fields, term) else {
            return Err(malformed("its header fields cannot be passed on".into()));
        };
        for sent in named {
            let Some(sent) = sent else {
                return Err(malformed(format!("its {TERM} is no number")));
            };
            let (fence, age) = match sent.cmp(&term) {
                std::cmp::Ordering::Equal => continue,
                std::cmp::Ordering::Less => (Fence::OlderTerm, "an older"),
                std::cmp::Ordering::Greater => (Fence::NewerTerm, "a newer"),
            };
            let detail = format!("it was sent under {age} term, {sent}; {id} holds term {term}");
            return Err(self.fenced(id, fence, detail));
        }
        Ok(Some(fields))
    }

    fn fenced(&self, id: &EndpointId, fence: Fence, detail: String) -> Refused {
        self.metrics.fenced(&id.service, fence.word());
        tracing::debug!(endpoint = %id, reason = fence.word(), detail, "request fenced off");
        Refused { executed: fence == Fence::LeaseOver, cause: Cause::Fenced, detail }
    }

    /// Does `work` of our endpoint `id`, at most until its lease is over. The clock is asked before each step of
    /// it: who was stopped does not go on with it first.
    pub(crate) async fn under_lease<T>(
        &self,
        id: &EndpointId,
        work: impl Future<Output = T>,
    ) -> Result<T, Refused> {
        if !self.is_exclusive(&id.service) {
            return Ok(work.await);
        }
        let (mut work, mut over) = (pin!(work), pin!(self.lease_over(id)));
        poll_fn(|cx| {
            if self.held(id).is_none() || over.as_mut().poll(cx).is_ready() {
                let detail = format!("the lease of {} ended while it was under way", id.service);
                return Poll::Ready(Err(self.fenced(id, Fence::LeaseOver, detail)));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    async fn lease_over(&self, id: &EndpointId) {
        let mut changed = self.mesh.changed.clone();
        while let Some((_, left)) = self.held(id) {
            // A renewal comes with a new snapshot; none comes any more when the agent ends.
            if let Ok(Err(_)) = timeout(left, changed.changed()).await {
                tokio::time::sleep(left).await;
            }
        }
    }
}

/// An answer's body of our endpoint `id`, which breaks off when its lease is over.
pub(crate) fn leased_body(inner: &Arc<Inner>, id: &EndpointId, body: Body) -> Body {
    if !inner.is_exclusive(&id.service) {
        return body;
    }
    let (inner, id) = (inner.clone(), id.clone());
    watched(body, async move { inner.lease_over(&id).await })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &'static str) -> Fields {
        Fields::unread(bytes::Bytes::from_static(lines.as_bytes()))
    }

    #[test]
    fn one_term_goes_on_whatever_came_in() {
        let came = fields("a: b\r\nHearth-Term: 7\r\nhearth-term: x\r\n\r\n");
        let (named, out) = replaced(&came, 9).unwrap();
        assert_eq!(named, [Some(7), None]);
        assert_eq!(out.lines(), b"a: b\r\nhearth-term: 9\r\n\r\n");
        let (named, out) = replaced(&Fields::default(), 1).unwrap();
        assert_eq!((named, out.lines()), (vec![], &b"hearth-term: 1\r\n\r\n"[..]));
        assert!(replaced(&fields("a b\r\n\r\n"), 1).is_none());
    }
}
