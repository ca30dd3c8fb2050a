//! Streams: what one side says now, the other gets now. Server-sent events, uploads piece by piece, both at
//! once. No clock decides: each side says the next only when the last has arrived.

use std::time::{Duration, Instant};

use hearth_tests::conformance::application::{Gate, Script, Step};
use hearth_tests::conformance::case::Lane;
use hearth_tests::conformance::client::Connection;
use hearth_tests::conformance::h2::{END_HEADERS, Session, WHOLE, frame, headers, kind, request};
use libtest_mimic::Trial;

use crate::world;

/// Longest an event may take: it is not coming then.
const SOON: Duration = Duration::from_secs(10);
const EVENTS: usize = 25;

type Told = fn(&Lane) -> Result<(), String>;

pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, Told); 10] = [
        ("events_in_chunks_arrive_one_by_one", |l| events(l, "HTTP/1.1", Sent::Chunks)),
        ("events_until_close_arrive_one_by_one", |l| events(l, "HTTP/1.1", Sent::Plain)),
        ("events_arrive_one_by_one_over_http10", |l| events(l, "HTTP/1.0", Sent::Chunks)),
        ("events_arrive_one_by_one_over_http2", events_http2),
        ("a_head_arrives_before_its_first_byte_of_content", head_first),
        ("an_upload_in_chunks_arrives_piece_by_piece", |l| {
            upload(l, "Transfer-Encoding: chunked", true)
        }),
        ("a_long_upload_with_length_arrives_piece_by_piece", |l| {
            upload(l, "Content-Length: 100000000", false)
        }),
        ("an_upload_arrives_piece_by_piece_over_http2", upload_http2),
        ("both_ways_at_once", both_ways),
        ("both_ways_at_once_over_http2", both_ways_http2),
    ];
    let trial = |(name, test): (&'static str, Told)| {
        Trial::test(format!("streams::{name}"), move || {
            let turn = world::lane()?;
            turn.lane().app.load(Vec::new());
            test(turn.lane())?;
            turn.lane().serves().map_err(Into::into)
        })
    };
    tests.into_iter().map(trial).collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Sent {
    Chunks,
    Plain,
}

fn event(n: usize) -> String {
    format!("id: {n}\ndata: event {n}\n\n")
}

/// Sends an event each time the gate is opened, the first at once.
fn script(sent: Sent, gate: &Gate) -> Script {
    let coding = if sent == Sent::Chunks { "Transfer-Encoding: chunked\r\n" } else { "" };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{coding}\r\n");
    let mut steps = vec![Step::Body, Step::Send(head.into())];
    for n in 0..EVENTS {
        let event = event(n);
        let bytes = match sent {
            Sent::Chunks => format!("{:x}\r\n{event}\r\n", event.len()),
            Sent::Plain => event,
        };
        steps.extend([Step::Send(bytes.into()), Step::Gate(gate.clone())]);
    }
    steps.extend([
        Step::Send(if sent == Sent::Chunks { "0\r\n\r\n".into() } else { Vec::new() }),
        Step::Close,
    ]);
    Script::steps(steps).at("/x")
}

fn has(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|w| w == part.as_bytes())
}

fn events(lane: &Lane, version: &str, sent: Sent) -> Result<(), String> {
    let gate = Gate::default();
    lane.app.load(vec![script(sent, &gate)]);
    let mut connection = Connection::open(lane.entry).map_err(|e| e.to_string())?;
    let _ = connection.send(format!("GET /x {version}\r\nHost: svc\r\n\r\n").as_bytes());
    let mut longest = Duration::ZERO;
    for n in 0..EVENTS {
        let asked = Instant::now();
        let arrived = connection.wait(SOON, |bytes, _| has(bytes, &event(n)).then_some(()));
        arrived.map_err(|(bytes, end)| {
            let came = hearth_tests::conformance::wire::shown(&bytes);
            format!("event {n} did not arrive before the next was sent; came: {came}, {end:?}")
        })?;
        longest = longest.max(asked.elapsed());
        gate.open();
    }
    println!("events: each within {:.1} ms", longest.as_secs_f64() * 1e3);
    Ok(())
}

fn events_http2(lane: &Lane) -> Result<(), String> {
    let gate = Gate::default();
    lane.app.load(vec![script(Sent::Chunks, &gate)]);
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, WHOLE, &request("GET", "/x", &[])));
    for n in 0..EVENTS {
        session.wait(&format!("event {n}"), |frames, _| {
            let data = frames.iter().filter(|f| f.kind == kind::DATA);
            let all: Vec<u8> = data.flat_map(|f| f.payload.clone()).collect();
            has(&all, &event(n)).then_some(())
        })?;
        gate.open();
    }
    session.answer(1).map(drop)
}

fn head_first(lane: &Lane) -> Result<(), String> {
    let gate = Gate::default();
    let head = "HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 2\r\n\r\n";
    let steps =
        [Step::Body, Step::Send(head.into()), Step::Gate(gate.clone()), Step::Send("ok".into())];
    lane.app.load(vec![Script::steps(steps).at("/x")]);
    let mut connection = Connection::open(lane.entry).map_err(|e| e.to_string())?;
    let _ = connection.send(b"GET /x HTTP/1.1\r\nHost: svc\r\n\r\n");
    let came = connection.wait(SOON, |bytes, _| has(bytes, "\r\n\r\n").then_some(()));
    came.map_err(|_| "the head did not come before the content".to_owned())?;
    gate.open();
    let came = connection.wait(SOON, |bytes, _| has(bytes, "\r\n\r\nok").then_some(()));
    came.map_err(|_| "the content did not come".to_owned())
}

/// Waits until the application has this much of the request's content.
fn arrived(lane: &Lane, length: usize) -> Result<(), String> {
    let until = Instant::now() + SOON;
    loop {
        let (requests, faults) = lane.app.take();
        let got = requests.first().map_or(0, |r| r.body.len());
        if got >= length {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("{got} bytes of {length} arrived; {faults:?}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn upload(lane: &Lane, framing: &str, chunks: bool) -> Result<(), String> {
    lane.app.load(vec![Script::steps([Step::Body]).at("/x")]);
    let mut connection = Connection::open(lane.entry).map_err(|e| e.to_string())?;
    let _ =
        connection.send(format!("POST /x HTTP/1.1\r\nHost: svc\r\n{framing}\r\n\r\n").as_bytes());
    for n in 1..=EVENTS {
        let piece = if chunks { "a\r\n0123456789\r\n" } else { "0123456789" };
        let _ = connection.send(piece.as_bytes());
        arrived(lane, n * 10)?;
    }
    Ok(())
}

fn upload_http2(lane: &Lane) -> Result<(), String> {
    lane.app.load(vec![Script::steps([Step::Body]).at("/x")]);
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, END_HEADERS, &request("POST", "/x", &[])));
    for n in 1..=EVENTS {
        let _ = session.send(&frame(kind::DATA, 0, 1, b"0123456789"));
        arrived(lane, n * 10)?;
    }
    Ok(())
}

fn both_ways(lane: &Lane) -> Result<(), String> {
    lane.app.load(vec![Script::steps([Step::EchoChunks]).at("/x")]);
    let mut connection = Connection::open(lane.entry).map_err(|e| e.to_string())?;
    let head = "POST /x HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n";
    let _ = connection.send(head.as_bytes());
    for n in 0..EVENTS {
        let said = format!("<{n:08}>");
        let _ = connection.send(format!("a\r\n{said}\r\n").as_bytes());
        let came = connection.wait(SOON, |bytes, _| has(bytes, &said).then_some(()));
        came.map_err(|_| format!("{said} did not come back before the next was said"))?;
    }
    let _ = connection.send(b"0\r\n\r\n");
    let came = connection.wait(SOON, |bytes, _| has(bytes, "0\r\n\r\n").then_some(()));
    came.map_err(|_| "the end did not come back".to_owned())
}

fn both_ways_http2(lane: &Lane) -> Result<(), String> {
    lane.app.load(vec![Script::steps([Step::EchoChunks]).at("/x")]);
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, END_HEADERS, &request("POST", "/x", &[])));
    for n in 0..EVENTS {
        let said = format!("<{n:08}>");
        let _ = session.send(&frame(kind::DATA, 0, 1, said.as_bytes()));
        session.wait(&format!("{said} come back"), |frames, _| {
            let data = frames.iter().filter(|f| f.kind == kind::DATA);
            let all: Vec<u8> = data.flat_map(|f| f.payload.clone()).collect();
            has(&all, &said).then_some(())
        })?;
    }
    let _ = session.send(&frame(kind::DATA, 1, 1, b""));
    session.answer(1).map(drop)
}
