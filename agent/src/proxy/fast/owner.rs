//! The owner's edge: a peer's plain request on to our own application over HTTP/1.1, and its answer back.
//!
//! Plain is a request without a body, or with a small one that is at hand, that does not ask for another
//! protocol. Whoever sent it is a peer, not a friend: what it calls method, target and fields is written to
//! the application only after it was read as strictly as a client's.
//!
//! An answer that is here whole goes back in one piece; a longer one is passed on as it is read, no faster
//! than the stream takes it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, BytesMut};
use hearth_proto::advert::Protocol;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::super::frame::{Cause, HEADER};
use super::super::frame::{
    DATA, END, Frame, Frames, HEAD, INFO, Refused, TRAILERS, put_header, with_header,
};
use super::super::head::{BodyKind, Fields, HeadRef, ResponseHead, parse_lines, put_field};
use super::super::interim::Count;
use super::super::limit::Place;
use super::super::safety::{MAX_REPLAY, is_idempotent};
use super::super::{Inner, LocalEndpoint};
use super::chunked::{Chunks, Piece};
use super::pool::AppConnection;
use super::response::{self, AnswerHead, Framing, Read};
use crate::config::HttpVersion;
use crate::driver::PathReport;
use crate::link::Sender;

/// Read of an application at once: first little, more where there is more.
const FIRST_READ: usize = 4 * 1024;
const READ: usize = 64 * 1024;

/// Whether the fast path carries this.
pub(in super::super) fn takes(endpoint: &LocalEndpoint, head: &HeadRef<'_>) -> bool {
    endpoint.protocol == Protocol::Http
        && endpoint.http == HttpVersion::One
        && head.upgrade.is_empty()
        && match head.body {
            BodyKind::None => true,
            BodyKind::Inline => head.length.is_some_and(|l| l <= MAX_REPLAY),
            BodyKind::AfterGo => false,
        }
}

/// Why there is no answer, or no more of it.
enum Fail {
    /// The application cannot be connected to.
    NotReached(String),
    /// It ended the connection before a byte of an answer came.
    Early(String),
    /// It broke off, or sent what is no answer.
    Broke(String),
    /// The request cannot be written to it.
    Malformed(&'static str),
    /// It did not answer in time.
    Late,
    /// The stream to the caller ended: nobody is to be told.
    Gone,
}

/// Carries one request to its end.
pub(in super::super) async fn serve(
    inner: &Inner,
    endpoint: &LocalEndpoint,
    head: &HeadRef<'_>,
    left: Duration,
    send: &mut Sender,
    frames: Frames,
    place: &mut Place,
) -> Result<(), Refused> {
    let arrived = Instant::now();
    let request = Request::gather(head, frames, left).await?;
    let refused = |executed, cause, detail: String| Err(Refused { executed, cause, detail });
    let at = |what: &str| format!("the application at {} {what}", endpoint.address);
    let mut exchange =
        Exchange { inner, endpoint, request, out: BytesMut::new(), to_head: head.method == "HEAD" };
    let repeatable = Method::from_bytes(head.method.as_bytes()).is_ok_and(|m| is_idempotent(&m));
    let answered = exchange.answered(repeatable, arrived + left, send).await;
    match &answered {
        Ok((_, answer)) => place.headed(answer.status),
        Err(Fail::Late) => place.failed(Cause::AppSilent),
        Err(_) => place.failed(Cause::AppBroke),
    }
    let answered = match answered {
        Ok(answered) => answered,
        Err(Fail::NotReached(why)) => {
            inner.tell(PathReport::LocalRefused { endpoint: endpoint.id.clone() });
            return refused(false, Cause::AppRefused, at(&format!("refused: {why}")));
        }
        Err(Fail::Early(why) | Fail::Broke(why)) => {
            inner.tell(PathReport::LocalBroke { endpoint: endpoint.id.clone() });
            return refused(true, Cause::AppBroke, at(&format!("broke off: {why}")));
        }
        Err(Fail::Malformed(why)) => return Err(malformed(why)),
        Err(Fail::Gone) => return Ok(()),
        Err(Fail::Late) => return refused(true, Cause::AppSilent, at("gave no answer")),
    };
    let (mut connection, answer) = answered;
    match exchange.pass_on(&mut connection, answer, send).await {
        Ok(()) if answer.keep => inner.pools.put(&endpoint.address, connection),
        Ok(()) => {}
        // The head is out: all that is left is to reset the stream, which dropping it does.
        Err(Fail::NotReached(why) | Fail::Early(why) | Fail::Broke(why)) => {
            inner.tell(PathReport::LocalBroke { endpoint: endpoint.id.clone() });
            tracing::debug!(endpoint = %endpoint.id, why, "answer cut short");
            send.abandon();
        }
        Err(Fail::Gone | Fail::Late | Fail::Malformed(_)) => {}
    }
    Ok(())
}

/// A request as a peer sent it, whole.
struct Request<'a> {
    head: &'a HeadRef<'a>,
    body: BytesMut,
    trailers: Option<Fields>,
}

impl<'a> Request<'a> {
    async fn gather(
        head: &'a HeadRef<'a>,
        mut frames: Frames,
        left: Duration,
    ) -> Result<Self, Refused> {
        let mut request = Self { head, body: BytesMut::new(), trailers: None };
        if head.body == BodyKind::None {
            return Ok(request);
        }
        loop {
            match timeout(left, frames.next()).await {
                Ok(Ok(Frame::Data(piece)))
                    if request.body.len() + piece.len() <= MAX_REPLAY as usize =>
                {
                    request.body.put_slice(&piece);
                }
                Ok(Ok(Frame::Trailers(fields))) => request.trailers = Some(fields),
                Ok(Ok(Frame::End)) => break,
                Ok(Ok(_)) => return Err(malformed("its body is not as its head announced")),
                Ok(Err(error)) => return Err(malformed(&error.to_string())),
                Err(_) => return Err(malformed("its body did not come in time")),
            }
        }
        if head.length.is_some_and(|l| l != request.body.len() as u64) {
            return Err(malformed("its body is not as long as its head announced"));
        }
        Ok(request)
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), &'static str> {
        write_request(self.head, &self.body, self.trailers.as_ref(), out)
    }
}

fn malformed(detail: &str) -> Refused {
    Refused { executed: false, cause: Cause::Malformed, detail: detail.to_owned() }
}

/// Appends a request as it is written to the application, if all of it is as HTTP allows.
pub(super) fn write_request(
    head: &HeadRef<'_>,
    body: &[u8],
    trailers: Option<&Fields>,
    out: &mut BytesMut,
) -> Result<(), &'static str> {
    check_line(head)?;
    let room = head.target.len() + head.authority.len() + head.lines.len() + body.len();
    out.reserve(room + 128);
    for part in [head.method, " ", head.target, " HTTP/1.1\r\nhost: ", head.authority, "\r\n"] {
        out.put_slice(part.as_bytes());
    }
    let read = parse_lines(head.lines, |name, value| {
        let ours = response::is_of_the_hop(name)
            || name.eq_ignore_ascii_case("host")
            || name.eq_ignore_ascii_case("expect");
        if !ours {
            put_field(out, name, value);
        }
    });
    read.map_err(|_| "its header fields cannot be passed on")?;
    match trailers {
        Some(trailers) => {
            trailers.parse(|_, _| ()).map_err(|_| "its trailers cannot be passed on")?;
            out.put_slice(b"transfer-encoding: chunked\r\n\r\n");
            if !body.is_empty() {
                put_chunk_size(out, body.len());
                out.put_slice(body);
                out.put_slice(b"\r\n");
            }
            out.put_slice(b"0\r\n");
            out.put_slice(trailers.lines());
            if trailers.lines().is_empty() {
                out.put_slice(b"\r\n");
            }
        }
        None => {
            // RFC 9110 section 8.6: a method that may well have a body says so when it has none.
            if !body.is_empty() || matches!(head.method, "POST" | "PUT" | "PATCH") {
                out.put_slice(b"content-length: ");
                out.put_slice(itoa::Buffer::new().format(body.len()).as_bytes());
                out.put_slice(b"\r\n");
            }
            out.put_slice(b"\r\n");
            out.put_slice(body);
        }
    }
    Ok(())
}

/// Whether a line can be made of method, target and authority that nobody reads as two.
fn check_line(head: &HeadRef<'_>) -> Result<(), &'static str> {
    let is_tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let is_visible = |t: &str| t.bytes().all(|b| matches!(b, b'!'..=b'~'));
    if head.method.is_empty() || !head.method.bytes().all(is_tchar) || head.method == "CONNECT" {
        return Err("its method cannot be passed on");
    }
    if !is_target(head.target) {
        return Err("its target cannot be passed on");
    }
    if !is_visible(head.authority) {
        return Err("its authority cannot be passed on");
    }
    Ok(())
}

/// A target in origin or asterisk form, without the bytes that hyper takes for no part of a target: an
/// application that uses it would refuse the request, or see another target (before a `#`).
fn is_target(target: &str) -> bool {
    let visible = |b: u8| matches!(b, b'!'..=b'~') && !matches!(b, b'#' | b'<' | b'>');
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (path.starts_with('/') || target == "*")
        && path.bytes().all(|b| visible(b) && b != b'`')
        && query.bytes().all(|b| visible(b) && b != b'"')
}

/// The line in front of a chunk.
pub(super) fn put_chunk_size(out: &mut BytesMut, size: usize) {
    let mut digits = [0; 16];
    let (mut at, mut rest) = (digits.len(), size);
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

/// One request and its answer at the application.
struct Exchange<'a> {
    inner: &'a Inner,
    endpoint: &'a LocalEndpoint,
    request: Request<'a>,
    /// What goes to the caller next; the connection keeps its room.
    out: BytesMut,
    to_head: bool,
}

impl Exchange<'_> {
    /// Sends the request and reads the head of the answer. A kept connection that turns out to be closed is
    /// replaced once, where the request may be repeated.
    async fn answered(
        &mut self,
        repeatable: bool,
        deadline: Instant,
        send: &mut Sender,
    ) -> Result<(AppConnection, AnswerHead), Fail> {
        let mut fresh = false;
        loop {
            let taken = self.inner.pools.take(&self.endpoint.address, repeatable, fresh).await;
            let mut connection = taken.map_err(|e| Fail::NotReached(e.to_string()))?;
            match self.head(&mut connection, deadline, send).await {
                Ok(answer) => return Ok((connection, answer)),
                Err(Fail::Early(_)) if connection.may_be_stale() && repeatable => fresh = true,
                Err(fail) => return Err(fail),
            }
        }
    }

    async fn head(
        &mut self,
        connection: &mut AppConnection,
        deadline: Instant,
        send: &mut Sender,
    ) -> Result<AnswerHead, Fail> {
        let early = |e: std::io::Error| Fail::Early(e.to_string());
        self.out = std::mem::take(&mut connection.out);
        self.out.reserve(FIRST_READ);
        self.request.write(&mut self.out).map_err(Fail::Malformed)?;
        connection.stream.write_all(&self.out).await.map_err(early)?;
        self.out.clear();
        let mut interim = Count::default();
        let mut any = false;
        loop {
            let buffer = &mut connection.buffer;
            if !buffer.is_empty() {
                any = true;
                let start = self.out.len();
                put_header(&mut self.out, HEAD, 0);
                ResponseHead::put_start(&mut self.out, 0, None);
                let read = response::read(buffer, self.to_head, &self.inner.via, &mut self.out);
                match read.map_err(|why| Fail::Broke(why.into()))? {
                    Read::Head(answer) => {
                        let length = self.out.len() - start - HEADER;
                        let mut prefix = BytesMut::with_capacity(HEADER + ResponseHead::FIXED);
                        put_header(&mut prefix, HEAD, length);
                        ResponseHead::put_start(&mut prefix, answer.status, answer.length);
                        self.out[start..start + prefix.len()].copy_from_slice(&prefix);
                        buffer.advance(answer.head);
                        return Ok(answer);
                    }
                    Read::Interim(status, length) => {
                        self.out.truncate(start);
                        let head = buffer.split_to(length);
                        interim.one_more().map_err(|e| Fail::Broke(e.to_string()))?;
                        self.interim(status, &head);
                        continue;
                    }
                    Read::Partial => self.out.truncate(start),
                }
            }
            // Informational answers are not for later.
            self.flush(send).await?;
            let buffer = &mut connection.buffer;
            buffer.reserve(if buffer.is_empty() { FIRST_READ } else { READ });
            let AppConnection { stream, timer, .. } = connection;
            let mut read = pin!(stream.read_buf(buffer));
            let read = poll_fn(|cx| match read.as_mut().poll(cx) {
                Poll::Ready(read) => Poll::Ready(Some(read)),
                Poll::Pending => timer.poll_at(cx, deadline).map(|()| None),
            });
            match read.await.ok_or(Fail::Late)? {
                Ok(0) if any => return Err(Fail::Broke("it closed the connection".into())),
                Ok(0) => return Err(Fail::Early("it closed the connection".into())),
                Ok(_) => {}
                Err(e) if any => return Err(Fail::Broke(e.to_string())),
                Err(e) => return Err(early(e)),
            }
        }
    }

    /// An informational answer is passed on, but for `100 Continue`, which nobody who asks for it sees here.
    fn interim(&mut self, status: u16, head: &[u8]) {
        if status == 100 {
            return;
        }
        let start = self.out.len();
        let mut known = true;
        with_header(&mut self.out, INFO, |out| {
            ResponseHead::put_start(out, status, None);
            known = response::put_interim(head, out).is_ok();
        });
        if !known {
            self.out.truncate(start);
        }
    }

    /// Passes the answer on. `self.out` holds its head.
    async fn pass_on(
        &mut self,
        connection: &mut AppConnection,
        answer: AnswerHead,
        send: &mut Sender,
    ) -> Result<(), Fail> {
        match answer.framing {
            Framing::None => {}
            Framing::Sized(length) => self.sized(connection, length, send).await?,
            Framing::Chunked => self.chunked(connection, send).await?,
            Framing::Close => self.until_close(connection, send).await?,
        }
        put_header(&mut self.out, END, 0);
        let sent = send.write_last(&self.out).await;
        connection.out = std::mem::take(&mut self.out);
        sent.map_err(|_| Fail::Gone)
    }

    async fn flush(&mut self, send: &mut Sender) -> Result<(), Fail> {
        if self.out.is_empty() {
            return Ok(());
        }
        send.write_chunk(self.out.split().freeze()).await.map_err(|_| Fail::Gone)
    }

    /// A body of known length travels in as few frames as it fits in.
    async fn sized(
        &mut self,
        connection: &mut AppConnection,
        length: u64,
        send: &mut Sender,
    ) -> Result<(), Fail> {
        let mut left = length;
        while left > 0 {
            let mut here = left.min(u64::from(u32::MAX));
            left -= here;
            // Proof: `here` fits 32 bits.
            put_header(&mut self.out, DATA, here as usize);
            while here > 0 {
                if connection.buffer.is_empty() {
                    self.flush(send).await?;
                    more(connection).await?;
                }
                let take = usize::try_from(here).unwrap_or(usize::MAX).min(connection.buffer.len());
                here -= take as u64;
                if take <= FIRST_READ {
                    self.out.put_slice(&connection.buffer[..take]);
                    connection.buffer.advance(take);
                } else {
                    self.flush(send).await?;
                    let piece = connection.buffer.split_to(take).freeze();
                    send.write_chunk(piece).await.map_err(|_| Fail::Gone)?;
                }
            }
        }
        Ok(())
    }

    async fn chunked(
        &mut self,
        connection: &mut AppConnection,
        send: &mut Sender,
    ) -> Result<(), Fail> {
        let mut chunks = Chunks::default();
        loop {
            let piece = chunks.next(&mut connection.buffer);
            match piece.map_err(|why| Fail::Broke(why.into()))? {
                Piece::More => {
                    self.flush(send).await?;
                    more(connection).await?;
                }
                Piece::Data(data) => self.data(data, send).await?,
                Piece::End(lines) => {
                    let fields = Fields::unread(lines);
                    fields.parse(|_, _| ()).map_err(|e| Fail::Broke(e.to_string()))?;
                    if !fields.lines().is_empty() {
                        with_header(&mut self.out, TRAILERS, |out| out.put_slice(fields.lines()));
                    }
                    return Ok(());
                }
            }
        }
    }

    async fn data(&mut self, data: bytes::Bytes, send: &mut Sender) -> Result<(), Fail> {
        put_header(&mut self.out, DATA, data.len());
        if data.len() <= FIRST_READ {
            self.out.put_slice(&data);
            if self.out.len() < READ {
                return Ok(());
            }
            return self.flush(send).await;
        }
        self.flush(send).await?;
        send.write_chunk(data).await.map_err(|_| Fail::Gone)
    }

    async fn until_close(
        &mut self,
        connection: &mut AppConnection,
        send: &mut Sender,
    ) -> Result<(), Fail> {
        loop {
            if !connection.buffer.is_empty() {
                let piece = connection.buffer.split().freeze();
                self.data(piece, send).await?;
            }
            self.flush(send).await?;
            connection.buffer.reserve(READ);
            match connection.stream.read_buf(&mut connection.buffer).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) => return Err(Fail::Broke(e.to_string())),
            }
        }
    }
}

/// Reads more of a body that is not at its end.
async fn more(connection: &mut AppConnection) -> Result<(), Fail> {
    connection.buffer.reserve(READ);
    match connection.stream.read_buf(&mut connection.buffer).await {
        Ok(0) => Err(Fail::Broke("it closed the connection within its answer".into())),
        Ok(_) => Ok(()),
        Err(e) => Err(Fail::Broke(e.to_string())),
    }
}
