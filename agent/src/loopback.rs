//! One plain HTTP request to an application of this host, for checks and hooks.
//!
//! A connection of its own each time: a check must also find out whether new connections are accepted.
//! The caller bounds the time, this module the size. Dropping the future closes the connection.

use std::io;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::HttpVersion;
use crate::pipe::AppAddress;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// Nothing that can be asked.
    #[error("{0:?} cannot be asked for: {1}")]
    NoRequest(String, http::Error),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The connection broke or spoke something else.
    #[error("no HTTP answer: {0}")]
    Broken(hyper::Error),
}

/// Asks for one path by `GET`, in the given version of HTTP and under an agent's name; the status, and the first
/// `keep` bytes of the body.
pub(crate) async fn get(
    address: &AppAddress,
    version: HttpVersion,
    path: &str,
    user_agent: &'static str,
    keep: usize,
) -> Result<(StatusCode, Vec<u8>), NoAnswer> {
    let request = match version {
        HttpVersion::One => {
            Request::get(path).header(HOST, address.host()).header(CONNECTION, "close")
        }
        HttpVersion::Two => {
            Request::get(format!("http://{}{path}", address.host())).version(Version::HTTP_2)
        }
    };
    let request = request.header(USER_AGENT, user_agent).body(Full::new(Bytes::new()));
    let request = request.map_err(|e| NoAnswer::NoRequest(path.to_owned(), e))?;
    ask(address.connect(), request, keep).await
}

/// Sends `request`, in its own version of HTTP, on the connection that `connecting` brings; the status, and
/// the first `keep` bytes of the body.
pub(crate) async fn ask<S>(
    connecting: impl Future<Output = io::Result<S>>,
    request: Request<Full<Bytes>>,
    keep: usize,
) -> Result<(StatusCode, Vec<u8>), NoAnswer>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let io = TokioIo::new(connecting.await.map_err(NoAnswer::Connect)?);
    if request.version() == Version::HTTP_2 {
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), io).await.map_err(NoAnswer::Broken)?;
        let answer = async move { first(sender.send_request(request), keep).await };
        driven(connection, answer).await
    } else {
        let (mut sender, connection) = http1::handshake(io).await.map_err(NoAnswer::Broken)?;
        let answer = async move { first(sender.send_request(request), keep).await };
        driven(connection, answer).await
    }
}

async fn first(
    asked: impl Future<Output = hyper::Result<Response<Incoming>>>,
    keep: usize,
) -> Result<(StatusCode, Vec<u8>), NoAnswer> {
    let response = asked.await.map_err(NoAnswer::Broken)?;
    let status = response.status();
    let mut body = response.into_body();
    let mut kept = Vec::new();
    while kept.len() < keep
        && let Some(Ok(frame)) = body.frame().await
    {
        let data = frame.data_ref().map_or(&[][..], |data| data);
        kept.extend_from_slice(&data[..data.len().min(keep - kept.len())]);
    }
    Ok((status, kept))
}

/// The connection must be driven for the answer to come.
async fn driven<T>(
    connection: impl Future<Output = hyper::Result<()>>,
    answer: impl Future<Output = Result<T, NoAnswer>>,
) -> Result<T, NoAnswer> {
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            // What was read before the end is still in the channel.
            Ok(()) => answer.await,
            Err(e) => Err(NoAnswer::Broken(e)),
        },
    }
}
