//! What a race that was lost tells the client, and why it was not run further.

use super::super::answer::Failure;
use super::super::attempt::FaultKind;
use super::super::frame::Cause;
use super::{Choice, Race, Route, Standing};

impl Race<'_> {
    pub(super) fn nobody(&mut self) -> Option<Failure> {
        if self.running() {
            return None;
        }
        let mut why = self.decision.clone();
        if let Some((target, fault)) = &self.last {
            why = format!("{why}; {} failed: {}", target.id, fault.detail);
        }
        Some(Failure::Nobody { service: self.service.to_string(), why })
    }

    /// The failure of a request that everybody who could take it turned away, or as many as its budget lets it
    /// ask, the last one for having too much to do.
    pub(super) fn shed(&self, route: &Route) -> Option<Failure> {
        let serves = matches!(route.choice, Choice::Serve(_) | Choice::Panic(_) | Choice::Relay(_));
        match &self.last {
            Some((_, fault))
                if serves && !self.running() && fault.kind == FaultKind::Owner(Cause::Busy) =>
            {
                let service = self.service.to_string();
                Some(Failure::Shed { service, why: fault.detail.clone() })
            }
            _ => None,
        }
    }

    /// Why a request that may have been executed is not sent again: `because`, or what rules it out.
    pub(super) fn broken(&self, because: &'static str) -> Failure {
        let why_not = if !because.is_empty() {
            because
        } else if !self.request.head.upgrade.is_empty() {
            "it asks for another protocol, and the application may have seen it"
        } else if !self.request.supply.at_hand() {
            "its body was sent already"
        } else if self.extra >= u32::from(self.policy.retries) {
            "its retries are used up"
        } else {
            "its method is not idempotent, and the application may have seen it"
        };
        match &self.last {
            Some((target, fault)) if fault.kind == FaultKind::Owner(Cause::AppSilent) => {
                self.timed_out(target.id.to_string(), &fault.detail)
            }
            Some((target, fault)) => {
                Failure::Broken { hop: target.id.to_string(), why: fault.detail.clone(), why_not }
            }
            None => {
                Failure::Nobody { service: self.service.to_string(), why: self.decision.clone() }
            }
        }
    }

    fn timed_out(&self, hop: String, why: &str) -> Failure {
        let limit_ms = self.policy.timeout.0.as_millis();
        Failure::TimedOut { hop, limit_ms, why: format!("{why}; {}", self.decision) }
    }

    /// The whole time is over.
    pub(super) fn too_late(&mut self) -> Failure {
        if self.running() {
            let waited_for =
                self.tries.iter().rev().find(|t| matches!(t.standing, Standing::Running));
            let hop = waited_for.map_or_else(String::new, |t| t.target.id.to_string());
            return self.timed_out(hop, "the endpoint took the request and did not answer");
        }
        self.nobody().unwrap_or_else(|| Failure::Overloaded { service: self.service.to_string() })
    }
}
