//! The gRPC service: see [`calls`] for its methods.

use bytes::{Buf, Bytes};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::net::TcpStream;

use crate::bench::calls::{self, ECHO, GRPC, MESSAGE, Messages, STREAM, UNARY};

/// Serves a connection to its end.
pub(super) async fn serve(stream: TcpStream) -> Result<(), h2::Error> {
    let mut connection = calls::server().handshake::<_, Bytes>(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        tokio::spawn(async move {
            // A call that broke off: the client knows.
            let _ = answer(request, respond).await;
        });
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), String> {
    let mut head = Response::new(());
    head.headers_mut().insert(http::header::CONTENT_TYPE, GRPC);
    let (parts, body) = request.into_parts();
    let mut messages = Messages::new(body);
    let mut out = respond.send_response(head, false).map_err(|e| e.to_string())?;
    let status = match parts.uri.path() {
        UNARY => {
            while messages.next().await?.is_some() {}
            calls::send(&mut out, calls::framed(&[b'x'; MESSAGE])).await?;
            "0"
        }
        STREAM => {
            let mut left = messages.next().await?.map_or(0, |mut m| m.try_get_u32().unwrap_or(0));
            let message = calls::framed(&[b'x'; MESSAGE]);
            while left > 0 {
                calls::send(&mut out, message.clone()).await?;
                left -= 1;
            }
            "0"
        }
        ECHO => {
            while let Some(message) = messages.next().await? {
                calls::send(&mut out, calls::framed(&message)).await?;
            }
            "0"
        }
        _ => "12",
    };
    out.send_trailers(calls::trailers(status)).map_err(|e| e.to_string())
}
