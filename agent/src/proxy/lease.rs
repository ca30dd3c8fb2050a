//! Requests to an exclusive service: under which term they are sent, and whether they may still be served.
//!
//! The term travels as the field `hearth-term`. A client's own is removed where it comes in; the caller's
//! agent writes the term it routed by, and the owner's agent writes the one it holds, so that what the
//! application reads is its own agent's word. The lease is looked at by the clock at the last moment before
//! the application is called: an agent that was stopped past its lease accepts nothing when it goes on.

use bytes::BytesMut;
use hearth_proto::ids::{EndpointId, ServiceName};
use hearth_proto::policy::Mode;

use super::Inner;
use super::frame::{Cause, Refused};
use super::head::{Fields, RequestHead, parse_lines, put_field};

/// The field that carries the term.
pub(crate) const TERM: &str = "hearth-term";

/// The request as it is sent under `term`.
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

    /// The term under which our endpoint `id` may serve now; `None` where it needs none.
    pub(crate) fn leased(&self, id: &EndpointId) -> Result<Option<u64>, Refused> {
        if !self.is_exclusive(&id.service) {
            return Ok(None);
        }
        let snapshot = self.mesh.snapshot.load();
        let now = self.mesh.origin.time();
        let lease = snapshot.leases.get(&id.service);
        match lease.filter(|lease| lease.endpoint == *id && now < lease.until) {
            Some(lease) => Ok(Some(lease.term)),
            None => {
                let detail = format!("{id} does not hold the lease of {}", id.service);
                Err(Refused { executed: false, cause: Cause::NotServing, detail })
            }
        }
    }

    /// The request as our application gets it: under the term we hold. One that was sent under an older term
    /// was meant for a holder that is none any longer, one under a newer term for our successor.
    pub(crate) fn fence(&self, id: &EndpointId, mut head: RequestHead) -> Result<RequestHead, Refused> {
        let Some(term) = self.leased(id)? else { return Ok(head) };
        let refused = |cause, detail| Err(Refused { executed: false, cause, detail });
        let Some((named, fields)) = replaced(&head.fields, term) else {
            return refused(Cause::Malformed, "its header fields cannot be passed on".into());
        };
        for sent in named {
            match sent {
                Some(sent) if sent == term => {}
                Some(sent) => {
                    let age = if sent < term { "an older" } else { "a newer" };
                    let detail = format!("it was sent under {age} term, {sent}; {id} holds term {term}");
                    return refused(Cause::NotServing, detail);
                }
                None => return refused(Cause::Malformed, format!("its {TERM} is no number")),
            }
        }
        head.fields = fields;
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &'static str) -> Fields {
        Fields::unread(bytes::Bytes::from_static(lines.as_bytes()))
    }

    #[test]
    fn one_term_goes_on_whatever_came_in() {
        let (named, out) = replaced(&fields("a: b\r\nHearth-Term: 7\r\nhearth-term: x\r\n\r\n"), 9).unwrap();
        assert_eq!(named, [Some(7), None]);
        assert_eq!(out.lines(), b"a: b\r\nhearth-term: 9\r\n\r\n");
        let (named, out) = replaced(&Fields::default(), 1).unwrap();
        assert_eq!((named, out.lines()), (vec![], &b"hearth-term: 1\r\n\r\n"[..]));
        assert!(replaced(&fields("a b\r\n\r\n"), 1).is_none());
    }
}
