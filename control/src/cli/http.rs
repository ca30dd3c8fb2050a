//! One HTTP request over a connection that is already there: method, path, body; status, body.
//!
//! Shared by both ways the command line asks: the agent's unix socket and the control plane's HTTPS.

use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::failure::{Exit, Failure};
use hearth_proto::view::ErrorView;

/// Largest answer read: a table of 2,000 nodes with all their endpoints fits many times.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Time for one request.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// What is asked.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<Vec<u8>>,
}

impl Ask {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None }
    }

    pub(super) fn send(
        method: Method,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<Self, Failure> {
        let body = serde_json::to_vec(body).map_err(|e| {
            Failure::new(Exit::Software, format!("cannot write the request: {e}"), "")
        })?;
        Ok(Self { method, path: path.to_owned(), body: Some(body) })
    }
}

/// What was answered.
pub(super) struct Answer {
    status: StatusCode,
    body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Timeout,
    #[error("the request cannot be written: {0}")]
    Request(#[from] http::Error),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the answer cannot be read: {0}")]
    Body(String),
}

/// Asks over `stream`.
pub(super) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    token: Option<&str>,
    ask: Ask,
) -> Result<Answer, NoAnswer> {
    let exchange = async move {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let mut request = Request::builder().method(ask.method).uri(ask.path).header(HOST, host);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if ask.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(ask.body.unwrap_or_default()));
        let response = sender.send_request(request.body(body)?).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        driver.abort();
        let body = body.map_err(|e| NoAnswer::Body(e.to_string()))?.to_bytes();
        Ok(Answer { status, body })
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap_or(Err(NoAnswer::Timeout))
}

impl Answer {
    /// The body of a success; the other side's own words otherwise.
    pub(super) fn success(self, who: &str) -> Result<Bytes, Failure> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let exit = match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::NoPermission,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT => Exit::Temporary,
            status if status.is_client_error() => Exit::Data,
            StatusCode::SERVICE_UNAVAILABLE => Exit::Temporary,
            _ => Exit::Unavailable,
        };
        match serde_json::from_slice::<ErrorView>(&self.body) {
            Ok(view) => Err(Failure::new(exit, view.error, view.hint)),
            Err(_) => Err(Failure::new(
                exit,
                format!("{who} answered {}", self.status),
                "is it of another version, or another program?",
            )),
        }
    }
}

/// Reads an answer's body.
pub(super) fn read<T: DeserializeOwned>(who: &str, body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|e| {
        Failure::new(
            Exit::Unavailable,
            format!("{who} answered what this hearth does not understand: {e}"),
            "compare versions: hearth --version; -o json prints the answer as it is",
        )
    })
}
