//! The requests that warm an application up between its activation hook and its first real request.
//!
//! `GET` of one path, one after the other: they fill pools and caches and change nothing. What they are
//! answered matters to nobody; whether the endpoint may serve, its health check says. The caller bounds the
//! time. Dropping the future ends the requests.

use crate::config::{HttpVersion, WarmUp};
use crate::loopback;
use crate::pipe::AppAddress;

/// Bytes read of each answer's body: an application works for what is read.
const READ: usize = 1024 * 1024;

/// Makes the requests. Returns how many were answered.
pub(crate) async fn up(address: &AppAddress, version: HttpVersion, warm_up: &WarmUp) -> u32 {
    let mut answered = 0;
    for _ in 0..warm_up.requests {
        match loopback::get(address, version, &warm_up.path, "hearth-warm-up", READ).await {
            Ok(_) => answered += 1,
            Err(error) => tracing::debug!(%address, %error, "a request to warm up failed"),
        }
    }
    tracing::info!(%address, answered, requests = warm_up.requests, "warmed up");
    answered
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn an_application_is_asked_by_get_as_often_as_configured_whatever_it_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: AppAddress = listener.local_addr().unwrap().into();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        tokio::spawn(async move {
            for status in [200, 500, 404].into_iter().cycle() {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(tcp.read_u8().await.unwrap());
                }
                log.lock().unwrap().push(String::from_utf8(head).unwrap());
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok");
                tcp.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let warm_up = WarmUp { path: "/warm?x=1".into(), requests: 5 };
        assert_eq!(up(&address, HttpVersion::One, &warm_up).await, 5);
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 5);
        assert!(seen.iter().all(|head| head.starts_with("GET /warm?x=1 HTTP/1.1\r\n")), "{seen:?}");
    }

    #[tokio::test]
    async fn an_application_that_refuses_warms_up_to_nothing_and_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: AppAddress = listener.local_addr().unwrap().into();
        drop(listener);
        let warm_up = WarmUp { path: "/".into(), requests: 3 };
        assert_eq!(up(&address, HttpVersion::One, &warm_up).await, 0);
    }
}
