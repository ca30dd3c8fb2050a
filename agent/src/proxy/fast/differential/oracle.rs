//! hyper's reading: its HTTP/1.1 server and client over bytes in memory, polled by hand. No runtime, no
//! clock; a connection that gets no further is left as it stands.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper::{client, server};

use super::super::super::head::MAX_FIELDS;

/// Polls in which nothing happens before a connection counts as at rest: one to wake its parts, one for what
/// they wanted, one to be sure.
const QUIET: usize = 3;
/// As at our edges, so that the limits that are compared are those that hold there.
const MAX_BUFFER: usize = super::super::super::frame::MAX_HEAD;

/// A connection whose other end sends `input`, and then nothing more or its end.
struct Wire<'b> {
    input: &'b [u8],
    ends: bool,
    /// The other end speaks when it was spoken to.
    spoken: bool,
    events: &'b Cell<usize>,
    left: &'b Cell<usize>,
}

impl Read for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.spoken || (self.input.is_empty() && !self.ends) {
            return Poll::Pending;
        }
        let (now, later) = self.input.split_at(self.input.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.input = later;
        self.left.set(later.len());
        self.events.set(self.events.get() + usize::from(!now.is_empty()));
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.spoken = true;
        self.events.set(self.events.get() + 1);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A body as far as it was read.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) data: Vec<u8>,
    pub(super) trailers: HeaderMap,
    /// Its end was read.
    pub(super) whole: bool,
}

impl Content {
    /// Reads on. `Ready` at its end, or where it breaks off.
    fn poll(
        &mut self,
        body: &mut Incoming,
        events: &Cell<usize>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), hyper::Error>> {
        loop {
            let frame = match pin!(body.frame()).as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    self.whole = true;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            events.set(events.get() + 1);
            match frame.into_data() {
                Ok(data) => self.data.extend_from_slice(&data),
                Err(frame) => self.trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
    }
}

/// A request as hyper's server sees it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) fields: HeaderMap,
    pub(super) content: Content,
}

/// What became of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It waits for more.
    Open,
    /// It was closed as the messages asked for.
    Closed,
    /// What came is no message.
    Refused(String),
}

/// What hyper's server made of some bytes.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) seen: Vec<Seen>,
    pub(super) end: End,
    /// Bytes that belong to none of the messages.
    pub(super) left: usize,
}

/// Has hyper's server read `bytes`.
pub(super) fn serve(bytes: &[u8]) -> Served {
    let seen = RefCell::new(Vec::<Seen>::new());
    let (events, left) = (Cell::new(0), Cell::new(bytes.len()));
    let wire = Wire { input: bytes, ends: false, spoken: true, events: &events, left: &left };
    let service = service_fn(|request: Request<Incoming>| {
        let (parts, mut body) = request.into_parts();
        let at = seen.borrow().len();
        seen.borrow_mut().push(Seen {
            method: parts.method.as_str().to_owned(),
            target: parts.uri.to_string(),
            fields: parts.headers,
            content: Content::default(),
        });
        let (seen, events) = (&seen, &events);
        async move {
            std::future::poll_fn(|cx| seen.borrow_mut()[at].content.poll(&mut body, events, cx))
                .await?;
            Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut builder = server::conn::http1::Builder::new();
    builder.auto_date_header(false).header_read_timeout(None).max_buf_size(MAX_BUFFER);
    // Room for many is costly to clear, and most messages have few.
    if has_many_lines(bytes) {
        builder.max_headers(MAX_FIELDS);
    }
    let mut connection = builder.serve_connection(wire, service);
    let mut cx = Context::from_waker(Waker::noop());
    let end = at_rest(&events, || match Pin::new(&mut connection).poll(&mut cx) {
        Poll::Pending => None,
        Poll::Ready(Ok(())) => Some(End::Closed),
        Poll::Ready(Err(error)) => Some(End::Refused(said(&error))),
    });
    let read = connection.into_parts().read_buf.len();
    Served { seen: seen.take(), end: end.unwrap_or(End::Open), left: left.get() + read }
}

/// hyper's own default is 100.
fn has_many_lines(bytes: &[u8]) -> bool {
    bytes.iter().filter(|b| **b == b'\n').count() >= 90
}

/// Polls until something is `Some` or nothing happens any more.
fn at_rest<T>(events: &Cell<usize>, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let mut quiet = 0;
    while quiet < QUIET {
        let before = events.get();
        if let Some(end) = poll() {
            return Some(end);
        }
        quiet = if events.get() == before { quiet + 1 } else { 0 };
    }
    None
}

fn said(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// An answer as hyper's client sees it.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) status: u16,
    pub(super) fields: HeaderMap,
    pub(super) content: Content,
    /// The connection takes another request.
    pub(super) kept: bool,
    /// Bytes that do not belong to it.
    pub(super) left: usize,
}

/// Has hyper's client read `bytes` as the answer to a request of `method`; then the connection ends or
/// stays open. `Err`: there is no final answer's head in them.
pub(super) fn ask(bytes: &[u8], method: &str, ends: bool) -> Result<Heard, String> {
    let (events, left) = (Cell::new(0), Cell::new(bytes.len()));
    let wire = Wire { input: bytes, ends, spoken: false, events: &events, left: &left };
    let mut builder = client::conn::http1::Builder::new();
    builder.max_buf_size(MAX_BUFFER);
    if has_many_lines(bytes) {
        builder.max_headers(MAX_FIELDS);
    }
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(shaken) = pin!(builder.handshake(wire)).poll(&mut cx) else {
        panic!("hyper's handshake waits")
    };
    let (mut sender, mut connection) = shaken.expect("there is nothing to shake hands about");
    let request = Request::builder().method(method).uri("/").header("host", "x");
    let request = request.body(Empty::<Bytes>::new()).expect("a request of constants");
    let mut response = pin!(sender.send_request(request));
    let mut over = None;
    let mut run = |cx: &mut Context<'_>| {
        if over.is_none()
            && let Poll::Ready(end) = Pin::new(&mut connection).poll(cx)
        {
            over = Some(end);
        }
    };
    let heard = at_rest(&events, || {
        run(&mut cx);
        match response.as_mut().poll(&mut cx) {
            Poll::Pending => None,
            Poll::Ready(response) => Some(response),
        }
    });
    let (parts, mut body) = match heard {
        None => return Err("it waits for more".to_owned()),
        Some(Err(error)) => return Err(said(&error)),
        Some(Ok(response)) => response.into_parts(),
    };
    let mut content = Content::default();
    // An error is an end too: the content stays as it is, not whole.
    let _ = at_rest(&events, || {
        run(&mut cx);
        match content.poll(&mut body, &events, &mut cx) {
            Poll::Pending => None,
            Poll::Ready(end) => Some(end),
        }
    });
    run(&mut cx);
    run(&mut cx);
    let kept = over.is_none() && matches!(sender.poll_ready(&mut cx), Poll::Ready(Ok(())));
    let read = connection.into_parts().read_buf.len();
    Ok(Heard {
        status: parts.status.as_u16(),
        fields: parts.headers,
        content,
        kept,
        left: left.get() + read,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the tests beside this one rest on: the oracle tells messages apart, and sees what is wrong.
    #[test]
    fn the_oracle_sees_messages_their_ends_and_what_is_none() {
        let two = serve(
            b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhiGET /b HTTP/1.1\r\n\r\nGE",
        );
        let seen: Vec<_> = two.seen.iter().map(|s| (&*s.target, &s.content.data[..])).collect();
        assert_eq!(seen, [("/a", &b"hi"[..]), ("/b", b"")]);
        assert_eq!((two.end, two.left), (End::Open, 2));
        let close = serve(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\nGET");
        assert_eq!((close.seen.len(), close.end, close.left), (1, End::Closed, 3));
        let cut = serve(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhi");
        assert_eq!((cut.seen[0].content.whole, cut.end), (false, End::Open));
        for target in ["/a?<b>", "/a?\"b", "/`"] {
            let refused = serve(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes());
            assert!(matches!(refused.end, End::Refused(_)), "{refused:?}");
        }
        let other = serve(b"GET /a#b HTTP/1.1\r\n\r\n");
        assert_eq!(other.seen[0].target, "/a");
        let waits = serve(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n");
        assert!(!waits.seen[0].content.whole);
    }

    #[test]
    fn the_oracle_hears_answers_their_ends_and_what_is_none() {
        let sized = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "GET", false).unwrap();
        assert_eq!((&sized.content.data[..], sized.content.whole), (&b"hi"[..], true));
        assert_eq!((sized.status, sized.kept, sized.left), (200, true, 0));
        let open = b"HTTP/1.1 200 OK\r\n\r\nhi";
        assert!(!ask(open, "GET", false).unwrap().content.whole);
        let ended = ask(open, "GET", true).unwrap();
        assert!(ended.content.whole && !ended.kept);
        let close = b"HTTP/1.1 204 X\r\nConnection: close\r\n\r\n";
        assert!(!ask(close, "GET", false).unwrap().kept);
        let more = ask(b"HTTP/1.1 204 X\r\n\r\nhi", "GET", false).unwrap();
        assert!(more.left > 0 || !more.kept, "{more:?}");
        let trailers = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx-t: 1\r\n\r\n";
        assert_eq!(ask(trailers, "GET", false).unwrap().content.trailers["x-t"], "1");
        assert!(ask(b"HTTP/1.1 2000 X\r\n\r\n", "GET", true).is_err());
        assert!(ask(b"HTTP/1.1 200 X\r\nContent-Length: a\r\n\r\n", "GET", true).is_err());
    }
}
