//! Results and refusals as HTTP: status, and an [`ErrorView`] that says what to do.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hearth_proto::view::ErrorView;

use crate::authority::AuthorityError;
use crate::plane::{ApplyError, CreateTokenError, EnrolRefused, OperatorRefused};
use crate::store::StoreError;

/// Anything but success.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    status: StatusCode,
    view: ErrorView,
    retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal with its advice.
    pub(super) fn new(
        status: StatusCode,
        error: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let view = ErrorView { error: error.into(), hint: hint.into() };
        Self { status, view, retry_after: None }
    }

    /// Our own fault.
    pub(super) fn internal(error: impl Into<String>) -> Self {
        let hint = "nothing was changed; see the log of hearth-control on its host";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error, hint)
    }

    fn limited(error: impl Into<String>, after: Duration) -> Self {
        let hint = format!("wait {} s and try again with what is right", after.as_secs());
        let mut refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, error, hint);
        refusal.retry_after = Some(after);
        refusal
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.view)).into_response();
        if let Some(after) = self.retry_after {
            let seconds = HeaderValue::from(after.as_secs().max(1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<EnrolRefused> for Refusal {
    fn from(e: EnrolRefused) -> Self {
        use EnrolRefused as E;
        let text = e.to_string();
        match &e {
            E::Limited(denied) => Self::limited(text, denied.after),
            E::Token(why, node) => Self::new(StatusCode::FORBIDDEN, text, why.hint(node)),
            E::NoCertificate => Self::new(
                StatusCode::UNAUTHORIZED,
                text,
                "an agent whose certificate has expired joins again, with a new token",
            ),
            E::NotANode(_) => {
                Self::new(StatusCode::FORBIDDEN, text, "show the certificate the node joined with")
            }
            E::Request(AuthorityError::KeyKind) => {
                Self::new(StatusCode::BAD_REQUEST, text, "make the request with a P-256 key")
            }
            E::Request(_) => Self::new(
                StatusCode::BAD_REQUEST,
                text,
                "send PKCS #10 as PEM, signed with its own key; the token is still good",
            ),
            E::Address(_) => Self::new(
                StatusCode::BAD_REQUEST,
                text,
                "send the address of the mesh port, such as 192.0.2.11:7940; the token is still good",
            ),
            E::Failed(_) => Self::internal(text),
        }
    }
}

impl From<OperatorRefused> for Refusal {
    fn from(e: OperatorRefused) -> Self {
        let text = e.to_string();
        match &e {
            OperatorRefused::Limited(denied) => Self::limited(text, denied.after),
            OperatorRefused::Missing => Self::new(
                StatusCode::UNAUTHORIZED,
                text,
                "send Authorization: Bearer TOKEN (hearth: --token or HEARTH_TOKEN)",
            ),
            OperatorRefused::Unknown => Self::new(
                StatusCode::UNAUTHORIZED,
                text,
                "use the token hearth-control init printed for this mesh; lost? hearth-control operator makes a \
                 new one",
            ),
            OperatorRefused::Store(_) => Self::internal(text),
        }
    }
}

impl From<CreateTokenError> for Refusal {
    fn from(e: CreateTokenError) -> Self {
        let text = e.to_string();
        match &e {
            CreateTokenError::Ttl(_) => {
                Self::new(StatusCode::BAD_REQUEST, text, "an hour is the default")
            }
            _ => Self::internal(text),
        }
    }
}

impl From<ApplyError> for Refusal {
    fn from(e: ApplyError) -> Self {
        let text = e.to_string();
        match &e {
            ApplyError::Settings(settings) => {
                let hint = settings.hint.clone();
                let mut bare = settings.clone();
                bare.hint = None;
                let hint = hint.unwrap_or_else(|| "nothing was changed".to_owned());
                Self::new(StatusCode::BAD_REQUEST, bare.to_string(), hint)
            }
            ApplyError::Store(StoreError::NotNewer { .. }) => {
                Self::new(StatusCode::CONFLICT, text, "somebody else was faster; apply again")
            }
            ApplyError::Document(_) | ApplyError::Store(_) => Self::internal(text),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(e: StoreError) -> Self {
        Self::internal(e.to_string())
    }
}

/// A version nobody made.
pub(super) fn no_such_version(version: u64) -> Refusal {
    let error = format!("there is no policy version {version}");
    Refusal::new(StatusCode::NOT_FOUND, error, "see hearth policy history")
}
