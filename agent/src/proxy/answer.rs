//! Answers that Hearth gives itself, when no application did: which status, and what is said.
//!
//! The three that operators tell apart: 503, nobody was available and nothing was done; 502, somebody
//! took the request and broke it; 504, somebody took it and did not answer in time. `Proxy-Status`
//! (RFC 9209) names the error, the next hop and the decision.

use std::ops::RangeInclusive;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::body::{Body, full};
use super::grpc;
use super::scan::Refusal;

/// Who finds nobody, or nobody with room, is to come again after so many seconds.
const AGAIN: RangeInclusive<u16> = 1..=3;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Why a request got no answer of an application.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Nobody said which service it is for.
    #[error(
        "no service is named by the host {0:?}; address <service>.mesh, or use the service's own port"
    )]
    NoService(String),
    /// No ingress route fits.
    #[error("nothing is served under the host {0:?} and this path")]
    NoRoute(String),
    /// A tunnel to somewhere else was asked for.
    #[error("{0:?} is not in the mesh, and tunnels lead nowhere else")]
    Outside(String),
    /// It cannot be passed on.
    #[error("the request cannot be passed on: {0}")]
    BadRequest(String),
    /// It was not even read.
    #[error("the request is refused: {}", .0.why)]
    Unreadable(Refusal),
    /// It asks about the way, and this is as far as it was to go. No failure: the answer it asked for.
    #[error("this is as far as Max-Forwards lets the request go")]
    Here,
    /// It has been passed on too often.
    #[error("the request went through {0} agents: it goes in a circle")]
    Circle(usize),
    /// The policy does not let this node call.
    #[error("{hop} does not admit calls of this node: {why}")]
    Denied {
        /// Who said so.
        hop: String,
        /// What it said.
        why: String,
    },
    /// Nobody could take it.
    #[error("nobody is available for {service}: {why}")]
    Nobody {
        /// The service.
        service: String,
        /// The decision, in words.
        why: String,
    },
    /// Too many requests wait already.
    #[error("too many requests for {service} wait for somebody to serve")]
    Overloaded {
        /// The service.
        service: String,
    },
    /// Every endpoint has too much to do.
    #[error("every endpoint of {service} has as much to do as it can: {why}")]
    Shed {
        /// The service.
        service: String,
        /// The last one's word.
        why: String,
    },
    /// The caller calls too often.
    #[error("{hop} has had its share of calls of this node: {why}")]
    TooOften {
        /// Who said so.
        hop: String,
        /// What it said.
        why: String,
    },
    /// An attempt broke and it may not be repeated.
    #[error("{hop} broke the request, and it was not sent again ({why_not}): {why}")]
    Broken {
        /// Where.
        hop: String,
        /// What happened.
        why: String,
        /// Why it was not repeated.
        why_not: &'static str,
    },
    /// No answer came in time.
    #[error("no answer within {limit_ms} ms: {why}")]
    TimedOut {
        /// Where it was waited for last; empty when nobody took it.
        hop: String,
        /// The whole time it had.
        limit_ms: u128,
        /// The decision, in words.
        why: String,
    },
}

impl Failure {
    /// The status code.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unreadable(refusal) => refusal.status,
            Self::Here => StatusCode::OK,
            Self::NoService(_) | Self::NoRoute(_) => StatusCode::NOT_FOUND,
            Self::Circle(_) => StatusCode::LOOP_DETECTED,
            Self::Denied { .. } | Self::Outside(_) => StatusCode::FORBIDDEN,
            Self::TooOften { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Nobody { .. } | Self::Overloaded { .. } | Self::Shed { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Broken { .. } => StatusCode::BAD_GATEWAY,
            Self::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The error type of RFC 9209 section 2.3.
    fn error(&self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::Unreadable(_) => "http_request_error",
            Self::NoService(_) | Self::NoRoute(_) => "destination_not_found",
            Self::Circle(_) => "proxy_loop_detected",
            Self::Here | Self::Denied { .. } | Self::TooOften { .. } | Self::Outside(_) => {
                "http_request_denied"
            }
            Self::Nobody { .. } => "destination_unavailable",
            Self::Overloaded { .. } => "proxy_internal_error",
            Self::Shed { .. } => "connection_limit_reached",
            Self::Broken { .. } => "connection_terminated",
            Self::TimedOut { .. } => "http_response_timeout",
        }
    }

    fn hop(&self) -> &str {
        match self {
            Self::Denied { hop, .. }
            | Self::TooOften { hop, .. }
            | Self::Broken { hop, .. }
            | Self::TimedOut { hop, .. } => hop,
            _ => "",
        }
    }

    /// The answer to the client.
    pub(crate) fn respond(&self, node: &str) -> Response<Body> {
        let mut response = Response::new(full(Bytes::from(format!("hearth: {self}\n")), None));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        match self.status() {
            StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                // Those that are turned away together are not to come back together.
                headers.insert(RETRY_AFTER, HeaderValue::from(rand::random_range(AGAIN)));
            }
            _ => {}
        }
        self.sign(headers, node);
        response
    }

    /// The answer to a client of gRPC: nothing but a head, whose status HTTP takes for success.
    pub(crate) fn respond_grpc(&self, node: &str) -> Response<Body> {
        let mut response = Response::new(super::body::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let code = grpc::Code::from_http(self.status());
        headers.insert(grpc::STATUS, HeaderValue::from(u16::from(code.0)));
        // Proof: the encoding leaves visible ASCII and spaces.
        if let Ok(message) = HeaderValue::try_from(grpc::message(&format!("hearth: {self}"))) {
            headers.insert(grpc::MESSAGE, message);
        }
        self.sign(headers, node);
        response
    }

    fn sign(&self, headers: &mut HeaderMap, node: &str) {
        let mut status = format!("{node}; error={}", self.error());
        if !self.hop().is_empty() {
            status.push_str(&format!("; next-hop={}", quoted(self.hop())));
        }
        status.push_str(&format!("; details={}", quoted(&self.to_string())));
        if let Ok(value) = HeaderValue::try_from(status) {
            headers.insert(PROXY_STATUS, value);
        }
    }
}

/// A string of RFC 8941 section 3.3.3: printable ASCII, quotes and backslashes escaped.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_broken_and_late_are_told_apart() {
        let nobody = Failure::Nobody { service: "ledger".into(), why: "none \"left\"".into() };
        let r = nobody.respond("web-1");
        assert_eq!(r.status(), 503);
        assert_eq!(
            r.headers()["proxy-status"],
            "web-1; error=destination_unavailable; \
             details=\"nobody is available for ledger: none \\\"left\\\"\""
        );
        let broken = Failure::Broken {
            hop: "ledger@a".into(),
            why: "gone".into(),
            why_not: "POST is not idempotent",
        };
        let r = broken.respond("web-1");
        assert_eq!(r.status(), 502);
        assert!(r.headers()["proxy-status"].to_str().unwrap().contains("next-hop=\"ledger@a\""));
        let shed = || Failure::Shed { service: "ledger".into(), why: "full".into() };
        let r = shed().respond("web-1");
        assert_eq!(r.status(), 503);
        assert!(r.headers()["proxy-status"].to_str().unwrap().contains("connection_limit_reached"));
        let again: std::collections::BTreeSet<u16> = (0..200)
            .map(|_| {
                shed().respond("w").headers()["retry-after"].to_str().unwrap().parse().unwrap()
            })
            .collect();
        assert_eq!(again.into_iter().collect::<Vec<_>>(), [1, 2, 3], "they come back together");
        let late = Failure::TimedOut { hop: "x".into(), limit_ms: 15_000, why: "ü".into() };
        let r = late.respond("web-1");
        assert_eq!(r.status(), 504);
        assert!(r.headers()["proxy-status"].to_str().unwrap().ends_with("within 15000 ms: ?\""));
    }

    #[test]
    fn a_client_of_grpc_is_told_in_its_own_words() {
        let nobody = Failure::Nobody { service: "ledger".into(), why: "100% gone".into() };
        let r = nobody.respond_grpc("web-1");
        assert_eq!(
            (r.status().as_u16(), &r.headers()["grpc-status"]),
            (200, &"14".parse().unwrap())
        );
        let message = "hearth: nobody is available for ledger: 100%25 gone";
        assert_eq!(r.headers()["grpc-message"], message);
        assert!(hyper::body::Body::is_end_stream(r.body()));
        assert!(r.headers().contains_key("proxy-status"));
        let late = Failure::TimedOut { hop: "x".into(), limit_ms: 1, why: String::new() };
        assert_eq!(late.respond_grpc("a").headers()["grpc-status"], "4");
        let often = Failure::TooOften { hop: "x".into(), why: String::new() };
        assert_eq!(often.respond_grpc("a").headers()["grpc-status"], "8");
        assert_eq!(often.respond("a").status(), 429);
        assert_eq!(often.respond("a").headers()["retry-after"], "1");
    }
}
