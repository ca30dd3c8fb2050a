//! One side is gone: the other learns of it at once.
//!
//! How long that takes is printed. In ordinary conditions it is far below 50 ms; what is demanded here is
//! [`AT_ONCE`], since the machine may be busy with other things.

use std::time::{Duration, Instant};

use hearth_tests::conformance::application::{Script, Step, ok};
use hearth_tests::conformance::case::Lane;
use hearth_tests::conformance::client::Connection;
use hearth_tests::conformance::transfer::Client;
use hearth_tests::conformance::wire::{Whole, answers};

use super::{MIB, Told, said};
use crate::world::{self, World};

const AT_ONCE: Duration = Duration::from_secs(1);
/// How often each is measured.
const TIMES: usize = 10;
const SOON: Duration = Duration::from_secs(10);

pub(super) fn told() -> Vec<(&'static str, Told)> {
    vec![
        ("a_client_that_resets_while_it_waits", |l, _| {
            measured(l, "a client that resets while it waits", &waiting(), WAITING, Gone::Reset)
        }),
        ("a_client_that_closes_while_it_waits", |l, _| {
            measured(l, "a client that closes while it waits", &waiting(), WAITING, Gone::Close)
        }),
        ("a_client_that_resets_within_a_download", |l, _| {
            measured(l, "a client that resets within a download", &pouring(), WAITING, Gone::Reset)
        }),
        ("a_client_that_closes_within_a_download", |l, _| {
            measured(l, "a client that closes within a download", &pouring(), WAITING, Gone::Close)
        }),
        ("a_client_that_resets_within_an_upload", |l, _| {
            measured(
                l,
                "a client that resets within an upload",
                &[Step::Body],
                UPLOADING,
                Gone::Reset,
            )
        }),
        ("a_client_that_closes_within_an_upload", |l, _| {
            measured(
                l,
                "a client that closes within an upload",
                &[Step::Body],
                UPLOADING,
                Gone::Close,
            )
        }),
        ("a_client_that_leaves_a_silent_event_stream", |l, _| {
            measured(
                l,
                "a client that leaves a silent event stream",
                &silent(),
                WAITING,
                Gone::Reset,
            )
        }),
        ("a_client_that_half_closes_is_answered_or_given_up", half_closed),
        ("an_application_that_resets_within_a_download", an_application_that_resets),
        ("an_application_that_resets_within_an_upload", an_application_that_leaves_an_upload),
        ("a_pipelined_client_that_resets_is_forgotten", a_pipelined_client_that_resets),
        ("nothing_of_all_that_stays", nothing_stays),
    ]
}

const WAITING: &[u8] = b"GET /x HTTP/1.1\r\nHost: svc\r\n\r\n";
const UPLOADING: &[u8] =
    b"POST /x HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";

/// Answers nothing.
fn waiting() -> Vec<Step> {
    vec![Step::Body, Step::UntilGone]
}

/// Answers without end.
fn pouring() -> Vec<Step> {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
    vec![Step::Body, Step::Send(head.into()), Step::Repeat(vec![b'x'; 64 * 1024], 1_000_000)]
}

/// Begins an answer and says no more.
fn silent() -> Vec<Step> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n";
    vec![Step::Body, Step::Send(head.into()), Step::UntilGone]
}

#[derive(Clone, Copy, PartialEq)]
enum Gone {
    Reset,
    Close,
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T, String> {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("not within {SOON:?}: {what}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The client goes once its request is with the application and what is to come back has begun to.
fn measured(
    lane: &Lane,
    what: &str,
    steps: &[Step],
    request: &[u8],
    how: Gone,
) -> Result<(), String> {
    let mut took = Vec::new();
    for _ in 0..TIMES {
        lane.app.load(vec![Script::steps(steps).at("/x")]);
        let mut connection = Connection::open(lane.entry).map_err(said)?;
        connection.send(request).map_err(said)?;
        until("the request at the application", || {
            let (requests, _) = lane.app.take();
            let wanted = usize::from(request == UPLOADING) * 3;
            requests.first().is_some_and(|r| r.body.len() >= wanted).then_some(())
        })?;
        if steps.iter().any(|s| matches!(s, Step::Send(_))) {
            let begun = connection.wait(SOON, |bytes, _| (!bytes.is_empty()).then_some(()));
            begun.map_err(|_| "no answer began".to_owned())?;
        }
        let since = Instant::now();
        match how {
            Gone::Reset => connection.reset().map_err(said)?,
            Gone::Close => drop(connection),
        }
        let gone = until(&format!("{what}: seen at the application"), || {
            lane.app.take().0.iter().find_map(|r| r.gone)
        })?;
        took.push(gone.saturating_duration_since(since));
    }
    took.sort();
    let (median, longest) = (took[TIMES / 2], took[TIMES - 1]);
    println!(
        "{what}: seen at the application after {median:.1?} (longest {longest:.1?} of {TIMES})"
    );
    match median < AT_ONCE {
        true => Ok(()),
        false => Err(format!("{what}: seen at the application only after {median:?}")),
    }
}

/// RFC 9112 lets a server take that for the end of the client. Either is good; nothing may hang.
fn half_closed(lane: &Lane, _: &World) -> Result<(), String> {
    let late = [Step::Body, Step::Pause(Duration::from_millis(100)), Step::Send(ok("late").into())];
    lane.app.load(vec![Script::steps(late).at("/x")]);
    let mut connection = Connection::open(lane.entry).map_err(said)?;
    connection.send(WAITING).map_err(said)?;
    connection.half_close();
    let end = connection.wait(SOON, |_, end| end);
    end.map_err(|(bytes, _)| format!("left open after {}", String::from_utf8_lossy(&bytes)))?;
    let (bytes, _) = connection.got();
    let (found, ..) = answers(&bytes, &["GET"]);
    println!("a client that half-closes: {} answer", found.len());
    match found.iter().all(|a| a.status == 200 && a.body == b"late") {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

fn an_application_that_resets(lane: &Lane, _: &World) -> Result<(), String> {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
    let some = Step::Repeat(vec![b'x'; 64 * 1024], 160);
    let steps = [Step::Body, Step::Send(head.into()), some, Step::Reset];
    lane.app.load(vec![Script::steps(steps).at("/x")]);
    let mut client = Client::open(lane.entry).map_err(said)?;
    client.ask("/x").map_err(said)?;
    let (status, head) = client.head()?;
    let (mut came, begun) = (0, Instant::now());
    let end = client.content(&head, |bytes| {
        came += bytes.len() as u64;
        Ok(())
    });
    println!(
        "an application that resets: {status}, {came} bytes, {end:?} after {:?}",
        begun.elapsed()
    );
    match (end, came < 11 * MIB) {
        (Err(_), true) => Ok(()),
        other => Err(format!("a download that broke off ended as {other:?}")),
    }
}

fn an_application_that_leaves_an_upload(lane: &Lane, _: &World) -> Result<(), String> {
    lane.app
        .load(vec![Script::steps([Step::Pause(Duration::from_millis(100)), Step::Reset]).at("/x")]);
    let mut connection = Connection::open(lane.entry).map_err(said)?;
    connection
        .send(b"POST /x HTTP/1.1\r\nHost: svc\r\nContent-Length: 100000000\r\n\r\n")
        .map_err(said)?;
    let piece = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    // Until it is cut off, or all the rest is swallowed.
    while sent < 99_000_000 && connection.send(&piece).is_ok() {
        sent += piece.len();
    }
    let status = connection.wait(SOON, |bytes, end| {
        let (found, ..) = answers(bytes, &["POST"]);
        let whole = found.first().filter(|a| a.whole == Whole::Yes).map(|a| Some(a.status));
        whole.or(end.map(|_| None))
    });
    println!("an application that leaves an upload: {status:?} after {} MiB", sent as u64 / MIB);
    match status {
        Ok(Some(502) | None) => Ok(()),
        other => Err(format!("{other:?}, expected 502 or a close")),
    }
}

fn a_pipelined_client_that_resets(lane: &Lane, _: &World) -> Result<(), String> {
    lane.app.load(vec![Script::steps(waiting()).at("/x")]);
    let mut connection = Connection::open(lane.entry).map_err(said)?;
    connection.send(&WAITING.repeat(50)).map_err(said)?;
    until("the first at the application", || (!lane.app.take().0.is_empty()).then_some(()))?;
    connection.reset().map_err(said)?;
    until("all of them gone", || lane.app.take().0.iter().all(|r| r.gone.is_some()).then_some(()))?;
    println!(
        "a pipelined client that resets: {} of 50 reached the application",
        lane.app.take().0.len()
    );
    Ok(())
}

/// After everything above: no descriptor is left of it. The pool to the applications may hold some.
fn nothing_stays(lane: &Lane, _: &World) -> Result<(), String> {
    let before = world::descriptors()?;
    for _ in 0..200 {
        lane.app.load(vec![Script::steps(waiting()).at("/x")]);
        let mut connection = Connection::open(lane.entry).map_err(said)?;
        connection.send(WAITING).map_err(said)?;
        until("the request at the application", || (!lane.app.take().0.is_empty()).then_some(()))?;
        connection.reset().map_err(said)?;
    }
    let few = |now: [usize; 2]| (0..2).all(|n| now[n] <= before[n] + 20);
    let now =
        until("descriptors to be few again", || world::descriptors().ok().filter(|n| few(*n)));
    println!("200 clients gone: descriptors {before:?} → {now:?}");
    now.map(drop)
}
