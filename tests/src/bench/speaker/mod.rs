//! The application that speaks what nginx does not: gRPC (by prior knowledge) and WebSocket, told apart by
//! the first byte of a connection.
//!
//! A process of its own (`bench-speed speaker ADDRESS`), one thread. It does as little as can be done, so
//! that what is seen is the pair.

mod grpc;
mod websocket;

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

/// Answers until it is killed.
///
/// # Errors
/// When the address cannot be listened on.
pub fn main(listen: SocketAddr) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            // Out of descriptors or an aborted handshake: this connection is lost, the next may not be.
            if let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        }
    })
}

async fn serve(stream: TcpStream) {
    // An answer may be small, and the next waits for it.
    let _ = stream.set_nodelay(true);
    let mut first = [0];
    // A connection that ends badly is the other side's affair: the client counts it.
    let _ = match stream.peek(&mut first).await {
        // HTTP/2's preface begins with PRI, a WebSocket with GET.
        Ok(1) if first == *b"P" => grpc::serve(stream).await.map_err(io::Error::other),
        Ok(1) => websocket::serve(stream).await,
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
}
