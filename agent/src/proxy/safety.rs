//! What may be sent again. Pure.
//!
//! By the first rule that fits:
//! 1. nothing of it reached the application: anything may be sent elsewhere;
//! 2. its method is idempotent (RFC 9110 section 9.2.2) and its body is still at hand: it may;
//! 3. it may not.

use http::Method;

/// Bodies up to this size are read before the first attempt and can be sent any number of times.
pub(crate) const MAX_REPLAY: u64 = 64 * 1024;

/// Whether doing it twice is the same as doing it once.
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// How far a failed attempt got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Provably not to the application.
    NotExecuted,
    /// Perhaps to the application.
    Unknown,
}

/// Whether a request may be sent again after an attempt got that far. `repeatable`: doing it twice is the
/// same as doing it once; `at_hand`: its body has not been given away.
pub(crate) fn may_resend(repeatable: bool, at_hand: bool, reach: Reach) -> bool {
    match reach {
        Reach::NotExecuted => at_hand,
        Reach::Unknown => at_hand && repeatable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_of_rfc_9110_are_idempotent_or_not_and_unknown_ones_are_not() {
        for (method, expected) in [
            ("GET", true),
            ("HEAD", true),
            ("OPTIONS", true),
            ("TRACE", true),
            ("PUT", true),
            ("DELETE", true),
            ("POST", false),
            ("PATCH", false),
            ("CONNECT", false),
            ("PROPFIND", false),
            ("get", false),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(is_idempotent(&method), expected, "{method}");
        }
    }

    #[test]
    fn what_did_not_reach_the_application_may_always_go_elsewhere() {
        assert!(may_resend(false, true, Reach::NotExecuted));
        assert!(!may_resend(false, true, Reach::Unknown));
        assert!(may_resend(true, true, Reach::Unknown));
        assert!(!may_resend(true, false, Reach::Unknown));
        assert!(!may_resend(true, false, Reach::NotExecuted));
    }
}
