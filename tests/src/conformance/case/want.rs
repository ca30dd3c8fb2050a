//! What is demanded of an answer, and of a request that arrived.

use super::super::application::Request;
use super::super::client::End;
use super::super::wire::{Answer, Whole, all, shown};

/// What is demanded, and how that is found out.
pub(super) struct Demand<T: ?Sized>(
    pub(super) String,
    pub(super) Box<dyn Fn(&T) -> bool + Send + Sync>,
);

/// An answer that must come.
pub struct Want {
    pub(super) method: &'static str,
    statuses: Vec<u16>,
    whole: bool,
    demands: Vec<Demand<Answer>>,
}

/// A request that must arrive.
#[derive(Default)]
pub struct Saw {
    demands: Vec<Demand<Request>>,
}

/// An answer to a GET with this status.
#[must_use]
pub fn status(status: u16) -> Want {
    one_of(&[status])
}

/// An answer to a GET with one of these.
#[must_use]
pub fn one_of(statuses: &[u16]) -> Want {
    Want { method: "GET", statuses: statuses.to_vec(), whole: true, demands: Vec::new() }
}

/// 200 with this content.
#[must_use]
pub fn ok(body: &str) -> Want {
    status(200).body(body)
}

impl Want {
    /// To a request with this method.
    #[must_use]
    pub fn to(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// With this content, exactly.
    #[must_use]
    pub fn body(self, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        self.that(format!("content is {:?}", shown(&body)), move |a| a.body == body)
    }

    /// Whose end is seen to be missing (fewer bytes than announced, or chunks without the last), or
    /// instead of it a whole 502.
    #[must_use]
    pub fn cut_short(mut self) -> Self {
        self.whole = false;
        self.statuses.push(502);
        self
    }

    /// With this field.
    #[must_use]
    pub fn with(self, name: &'static str, value: &str) -> Self {
        let value = value.to_owned();
        self.that(format!("{name}: {value}"), move |a| a.head.get(name).as_ref() == Some(&value))
    }

    /// With a field whose value contains this.
    #[must_use]
    pub fn mentions(self, name: &'static str, part: &str) -> Self {
        let part = part.to_owned();
        self.that(format!("{name} contains {part:?}"), move |a| {
            a.head.get(name).is_some_and(|v| v.contains(&part))
        })
    }

    /// Without this field.
    #[must_use]
    pub fn without(self, name: &'static str) -> Self {
        self.that(format!("no {name}"), move |a| a.head.get(name).is_none())
    }

    /// With this interim answer before it.
    #[must_use]
    pub fn after(self, interim: u16) -> Self {
        self.that(format!("{interim} before it"), move |a| {
            a.interim.iter().any(|(s, _)| *s == interim)
        })
    }

    /// Anything else.
    #[must_use]
    pub fn that(
        mut self,
        what: impl Into<String>,
        holds: impl Fn(&Answer) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.demands.push(Demand(what.into(), Box::new(holds)));
        self
    }

    /// What is not so of the `n`th answer.
    pub(super) fn complaints(&self, n: usize, answer: &Answer, end: Option<End>) -> Vec<String> {
        let mut found = Vec::new();
        if !self.statuses.contains(&answer.status) {
            found.push(format!("answer {n}: {}, expected {:?}", answer.status, self.statuses));
        }
        let whole = match answer.whole {
            Whole::Yes => true,
            Whole::ByClose => end == Some(End::Fin) || answer.status == 101,
            Whole::Not => false,
        };
        match (whole, self.whole || answer.status == 502) {
            (false, true) => found.push(format!("answer {n}: its end is missing")),
            (true, false) => found.push(format!("answer {n}: cut short, and not seen to be")),
            _ => {}
        }
        let missed = self.demands.iter().filter(|d| !(d.1)(answer));
        found.extend(missed.map(|d| format!("answer {n}: not so: {}", d.0)));
        found
    }
}

/// A request with this method and target.
#[must_use]
pub fn saw(method: &str, target: &str) -> Saw {
    let (method, target) = (method.to_owned(), target.to_owned());
    Saw::default()
        .that(format!("{method} {target}"), move |r| r.method() == method && r.target() == target)
}

impl Saw {
    /// With this content, exactly.
    #[must_use]
    pub fn body(self, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        self.that(format!("content is {:?}", shown(&body)), move |r| r.body == body)
    }

    /// With this field; several are joined.
    #[must_use]
    pub fn with(self, name: &'static str, value: &str) -> Self {
        let value = value.to_owned();
        self.that(format!("{name}: {value}"), move |r| r.head.get(name).as_ref() == Some(&value))
    }

    /// With a field whose value contains this.
    #[must_use]
    pub fn mentions(self, name: &'static str, part: &str) -> Self {
        let part = part.to_owned();
        self.that(format!("{name} contains {part:?}"), move |r| {
            r.head.get(name).is_some_and(|v| v.contains(&part))
        })
    }

    /// Without this field.
    #[must_use]
    pub fn without(self, name: &'static str) -> Self {
        self.that(format!("no {name}"), move |r| r.head.get(name).is_none())
    }

    /// With this trailer field.
    #[must_use]
    pub fn trailer(self, name: &'static str, value: &str) -> Self {
        let value = value.to_owned();
        self.that(format!("trailer {name}: {value}"), move |r| {
            all(&r.trailers, name) == [value.as_str()]
        })
    }

    /// Anything else.
    #[must_use]
    pub fn that(
        mut self,
        what: impl Into<String>,
        holds: impl Fn(&Request) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.demands.push(Demand(what.into(), Box::new(holds)));
        self
    }

    /// What is not so of the `n`th request.
    pub(super) fn complaints(&self, n: usize, request: &Request) -> Vec<String> {
        let mut found = Vec::new();
        if !request.whole {
            found.push(format!("request {n}: not whole"));
        }
        let missed = self.demands.iter().filter(|d| !(d.1)(request));
        found.extend(missed.map(|d| format!("request {n}: not so: {}", d.0)));
        found
    }
}
