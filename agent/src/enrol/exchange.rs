//! One request to the control API: connect, TLS, POST, JSON back. Everything bounded in time and size.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hearth_proto::view::ErrorView;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::{EnrolError, OUR_CERTIFICATE};
use super::pinned::NO_SUCH_ROOT;
use crate::config::HostPort;

/// The control API speaks HTTP/1.1.
pub(super) const ALPN: &[u8] = b"http/1.1";
/// For one address. A control plane farther away than this is not reachable in any useful sense.
const CONNECT: Duration = Duration::from_secs(5);
/// For TLS, request and answer: signing takes milliseconds, a busy disk seconds.
const ANSWER: Duration = Duration::from_secs(15);
/// Largest answer: three documents of at most 512 KiB, their bytes as JSON numbers.
const LARGEST: usize = 16 * 1024 * 1024;

/// POSTs `request` as JSON to `path` and reads the answer. `attempt` says what for: "… does not let this
/// node {attempt}".
pub(super) async fn post<T: DeserializeOwned>(
    control: &HostPort,
    tls: Arc<ClientConfig>,
    path: &str,
    request: &impl Serialize,
    attempt: &'static str,
) -> Result<T, EnrolError> {
    let unreachable = |why: String| EnrolError::Unreachable { control: control.clone(), why };
    let unusable = |why: String| EnrolError::Answer { control: control.clone(), why };
    let body = serde_json::to_vec(request).map_err(|e| unusable(e.to_string()))?;
    let tcp = connect(control).await?;
    let talk = async {
        let stream = handshake(control, tls, tcp).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(e.to_string()))?;
        let request = http::Request::post(path)
            .header(http::header::HOST, control.to_string())
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| unusable(e.to_string()))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|e| closed(control, &e))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            Ok((status, body.map_err(|e| unusable(e.to_string()))?.to_bytes()))
        };
        // The connection must be driven for the answer to come; it ends with this future.
        tokio::pin!(connection);
        tokio::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                // What was read before the end is still in the channel.
                Ok(()) => answer.await,
                Err(e) => Err(closed(control, &e)),
            },
        }
    };
    let (status, body) = tokio::time::timeout(ANSWER, talk)
        .await
        .map_err(|_| unreachable(format!("no answer within {} s", ANSWER.as_secs())))??;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|e| unusable(e.to_string()));
    }
    Err(refusal(control, attempt, status.as_u16(), &body))
}

async fn connect(control: &HostPort) -> Result<TcpStream, EnrolError> {
    let addresses = control
        .resolve()
        .await
        .map_err(|source| EnrolError::Lookup { control: control.clone(), source })?;
    let mut whys = Vec::new();
    for address in addresses {
        match connect_to(address).await {
            Ok(tcp) => return Ok(tcp),
            // An address that is what was asked for is told already.
            Err(why) if control.to_string() == address.to_string() => whys.push(why),
            Err(why) => whys.push(format!("{address}: {why}")),
        }
    }
    Err(EnrolError::Unreachable { control: control.clone(), why: whys.join("; ") })
}

async fn connect_to(address: SocketAddr) -> Result<TcpStream, String> {
    match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => Ok(tcp),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("no answer within {} s", CONNECT.as_secs())),
    }
}

async fn handshake(
    control: &HostPort,
    tls: Arc<ClientConfig>,
    tcp: TcpStream,
) -> Result<TlsStream<TcpStream>, EnrolError> {
    // Names are not what is verified, identities are; the wire format wants one all the same.
    let name = ServerName::try_from("hearth-control")
        .map_err(|e| EnrolError::Tls { control: control.clone(), why: e.to_string() })?;
    TlsConnector::from(tls).connect(name, tcp).await.map_err(|e| {
        let why = readable(&e.to_string());
        match why.strip_prefix(NO_SUCH_ROOT) {
            Some(expected) => {
                EnrolError::WrongRoot { control: control.clone(), expected: expected.into() }
            }
            None => EnrolError::Tls { control: control.clone(), why },
        }
    })
}

/// Our refusals without the wrapping rustls prints around them.
fn readable(text: &str) -> String {
    let unwrapped =
        text.split_once("Other(OtherError(").and_then(|(_, inner)| inner.strip_suffix("))"));
    unwrapped.unwrap_or(text).to_owned()
}

/// With TLS 1.3 a server that refuses our certificate says so only after the handshake.
fn closed(control: &HostPort, error: &hyper::Error) -> EnrolError {
    let mut why = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        why = inner.to_string();
        source = inner.source();
    }
    if why.contains("alert") {
        let why = format!("{OUR_CERTIFICATE} ({why})");
        return EnrolError::Tls { control: control.clone(), why };
    }
    EnrolError::Unreachable { control: control.clone(), why: format!("connection lost: {why}") }
}

fn refusal(control: &HostPort, attempt: &'static str, status: u16, body: &[u8]) -> EnrolError {
    let said: Option<ErrorView> = serde_json::from_slice(body).ok();
    let (error, hint) = match said {
        Some(ErrorView { error, hint }) => (error, hint),
        None => (format!("HTTP status {status}"), String::new()),
    };
    let hint = if hint.is_empty() { default_hint(status).to_owned() } else { hint };
    EnrolError::Refused { control: control.clone(), attempt, status, error, hint }
}

fn default_hint(status: u16) -> &'static str {
    match status {
        401 => {
            "a token works once and for a limited time; make a new one on the control host: hearth \
             token create NODE"
        }
        403 => {
            "a token is bound to one node's name; make one for this node: hearth token create NODE"
        }
        404 => "is this the control API's port (7945 by default)?",
        429 => "too many attempts; wait a minute",
        500.. => "look at the control plane's log",
        _ => "look at the control plane's log; are agent and control plane of versions that fit?",
    }
}
