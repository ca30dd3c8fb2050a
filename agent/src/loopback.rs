//! One plain HTTP/1.1 request to an application of this host, for checks and hooks.
//!
//! A connection of its own each time: a check must also find out whether new connections are accepted.
//! The caller bounds the time, this module the size. Dropping the future closes the connection.

use std::io;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, ToSocketAddrs};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The connection broke or spoke something else.
    #[error("no HTTP answer: {0}")]
    Broken(hyper::Error),
}

/// Sends `request` to `address`; the status, and the first `keep` bytes of the body.
pub(crate) async fn ask(
    address: impl ToSocketAddrs,
    request: Request<Full<Bytes>>,
    keep: usize,
) -> Result<(StatusCode, Vec<u8>), NoAnswer> {
    let tcp = TcpStream::connect(address).await.map_err(NoAnswer::Connect)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(tcp)).await.map_err(NoAnswer::Broken)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(NoAnswer::Broken)?;
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
    };
    // The connection must be driven for the answer to come.
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
