//! Applications that speak HTTP/2 by prior knowledge, called by clients of both versions.

use std::time::{Duration, Instant};

use hearth_tests::conformance::client::Connection;
use hearth_tests::conformance::h2::{
    END_HEADERS, END_STREAM, Frame, Session, WHOLE, code, frame, headers, kind, request,
};
use hearth_tests::conformance::noise::Noise;
use hearth_tests::conformance::transfer::Client;
use hearth_tests::conformance::wire::{Whole, answers, shown};
use libtest_mimic::Trial;

use crate::world::{self, World};

const SOON: Duration = Duration::from_secs(10);
/// In ordinary conditions it takes milliseconds; this machine may be busy.
const AT_ONCE: Duration = Duration::from_secs(1);

type Told = fn(&World) -> Result<(), String>;

pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, Told); 14] = [
        ("sees_a_request_of_http1", sees_a_request_of_http1),
        ("sees_a_request_of_http2", sees_a_request_of_http2),
        ("sees_nothing_of_one_hop", sees_nothing_of_one_hop),
        ("echoes_a_megabyte_to_http1", echoes_a_megabyte_to_http1),
        ("echoes_piece_by_piece_to_http2", echoes_piece_by_piece_to_http2),
        ("its_trailers_reach_http1", its_trailers_reach_http1),
        ("its_trailers_reach_http2", its_trailers_reach_http2),
        ("trailers_go_there_and_back", trailers_go_there_and_back),
        ("its_reset_is_seen_by_http1", its_reset_is_seen_by_http1),
        ("its_reset_is_seen_by_http2", its_reset_is_seen_by_http2),
        ("learns_that_an_http1_client_is_gone", learns_that_an_http1_client_is_gone),
        ("learns_that_an_http2_client_is_gone", learns_that_an_http2_client_is_gone),
        ("is_called_over_few_connections", is_called_over_few_connections),
        ("that_speaks_http1_after_all_is_502", that_speaks_http1_after_all),
    ];
    let trial = |(name, test): (&'static str, Told)| {
        Trial::test(format!("modern::{name}"), move || {
            let _turn = world::lane()?;
            test(world::world()?).map_err(Into::into)
        })
    };
    tests.into_iter().map(trial).collect()
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(error: std::io::Error) -> String {
    error.to_string()
}

fn wanted(holds: bool, what: &str, seen: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("not so: {what}; seen: {seen}")) }
}

fn sees_a_request_of_http1(world: &World) -> Result<(), String> {
    let mut client = Client::open(world.modern_entry).map_err(said)?;
    client.write(b"GET /seen?x=y HTTP/1.1\r\nHost: svc.example\r\nX-A: b\r\n\r\n").map_err(said)?;
    let (status, text) = client.text()?;
    let fits = status == 200
        && text.starts_with("HTTP/2.0 GET http://svc.example/seen?x=y\n")
        && text.contains("x-a: b\n")
        && text.contains("via: 1.1 caller");
    wanted(fits, "GET /seen?x=y of svc.example with x-a and via", &text)
}

fn sees_a_request_of_http2(world: &World) -> Result<(), String> {
    let mut session = Session::open(world.modern_entry, &[])?;
    let fields = request("GET", "/seen", &[("x-a", "b"), ("te", "trailers")]);
    let _ = session.send(&headers(1, WHOLE, &fields));
    let (status, body) = session.answer(1)?;
    let text = String::from_utf8_lossy(&body).into_owned();
    let fits = status == 200
        && text.starts_with("HTTP/2.0 GET http://svc/seen\n")
        && text.contains("x-a: b\n");
    wanted(fits, "GET /seen of svc with x-a", &text)
}

fn sees_nothing_of_one_hop(world: &World) -> Result<(), String> {
    let mut client = Client::open(world.modern_entry).map_err(said)?;
    let request = "GET /seen HTTP/1.1\r\nHost: svc\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n\
                   Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nUpgrade: h2c\r\n\r\n";
    client.write(request.as_bytes()).map_err(said)?;
    let (status, text) = client.text()?;
    let gone = ["connection:", "x-hop:", "keep-alive:", "proxy-connection:", "upgrade:", "host:"];
    let none = gone.iter().all(|name| !text.lines().any(|l| l.starts_with(name)));
    wanted(status == 200 && none, "no field of one hop", &text)
}

fn echoes_a_megabyte_to_http1(world: &World) -> Result<(), String> {
    const SIZE: usize = 1 << 20;
    let mut body = vec![0; SIZE];
    Noise::new(3).fill(&mut body);
    let mut client = Client::open(world.modern_entry).map_err(said)?;
    let mut writing = client.stream().try_clone().map_err(said)?;
    let head = format!("POST /echo HTTP/1.1\r\nHost: svc\r\nContent-Length: {SIZE}\r\n\r\n");
    let writer = std::thread::spawn(move || {
        std::io::Write::write_all(&mut writing, &[head.as_bytes(), &body].concat())
    });
    client.noise(3, SIZE as u64)?;
    writer.join().map_err(|_| "the writer panicked")?.map_err(said)
}

fn content(frames: &[Frame]) -> Vec<u8> {
    frames.iter().filter(|f| f.kind == kind::DATA).flat_map(|f| f.payload.clone()).collect()
}

fn echoes_piece_by_piece_to_http2(world: &World) -> Result<(), String> {
    let mut session = Session::open(world.modern_entry, &[])?;
    let _ = session.send(&headers(1, END_HEADERS, &request("POST", "/echo", &[])));
    for n in 0..25 {
        let piece = format!("<{n:08}>");
        let _ = session.send(&frame(kind::DATA, 0, 1, piece.as_bytes()));
        session.wait(&format!("{piece} come back"), |frames, _| {
            content(frames).ends_with(piece.as_bytes()).then_some(())
        })?;
    }
    let _ = session.send(&frame(kind::DATA, END_STREAM, 1, b""));
    session.answer(1).map(drop)
}

fn its_trailers_reach_http1(world: &World) -> Result<(), String> {
    let mut connection = Connection::open(world.modern_entry).map_err(said)?;
    let request = b"GET /trailers HTTP/1.1\r\nHost: svc\r\nTE: trailers\r\nConnection: TE\r\n\r\n";
    connection.send(request).map_err(said)?;
    let answer = connection.wait(SOON, |bytes, _| {
        let (found, ..) = answers(bytes, &["GET"]);
        found.into_iter().find(|a| a.whole == Whole::Yes)
    });
    let answer = answer.map_err(|(bytes, _)| shown(&bytes))?;
    let fits = answer.body == b"abc" && answer.trailers == [("x-sum".into(), b"7".to_vec())];
    wanted(fits, "abc and x-sum: 7", &format!("{answer:?}"))
}

/// HEADERS behind DATA that end the stream.
fn trailed(frames: &[Frame]) -> Option<()> {
    let own: Vec<&Frame> =
        frames.iter().filter(|f| f.stream == 1 && f.kind <= kind::HEADERS).collect();
    let last = own.last()?;
    (own.len() >= 3 && last.kind == kind::HEADERS && last.flags & END_STREAM != 0).then_some(())
}

fn its_trailers_reach_http2(world: &World) -> Result<(), String> {
    let mut session = Session::open(world.modern_entry, &[])?;
    let _ = session.send(&headers(1, WHOLE, &request("GET", "/trailers", &[("te", "trailers")])));
    session.wait("trailers", |frames, _| trailed(frames))
}

fn trailers_go_there_and_back(world: &World) -> Result<(), String> {
    let mut session = Session::open(world.modern_entry, &[])?;
    let fields = request("POST", "/echo", &[("te", "trailers")]);
    let _ = session.send(&headers(1, END_HEADERS, &fields));
    let _ = session.send(&frame(kind::DATA, 0, 1, b"abc"));
    let _ = session.send(&headers(1, WHOLE, &[("x-sum", "7")]));
    session.wait("its own trailers", |frames, _| trailed(frames))
}

fn its_reset_is_seen_by_http1(world: &World) -> Result<(), String> {
    let mut client = Client::open(world.modern_entry).map_err(said)?;
    client.ask("/broken").map_err(said)?;
    match client.text() {
        Err(_) | Ok((502, _)) => Ok(()),
        Ok(whole) => Err(format!("a reset answer came as whole: {whole:?}")),
    }
}

fn its_reset_is_seen_by_http2(world: &World) -> Result<(), String> {
    let mut session = Session::open(world.modern_entry, &[])?;
    let _ = session.send(&headers(1, WHOLE, &request("GET", "/broken", &[])));
    session.wait("a reset, or 502", |frames, end| {
        let own = || frames.iter().filter(|f| f.stream == 1);
        let refused = own().filter_map(Frame::status).any(|s| s == 502);
        (own().any(|f| f.kind == kind::RST_STREAM) || refused || end.is_some()).then_some(())
    })
}

/// Has a request wait at the application, gives it up by `leave`, and measures.
fn given_up(
    world: &World,
    what: &str,
    ask: impl FnOnce() -> Result<(), String>,
    leave: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let (waiting, before) = (world.modern.waiting(), world.modern.given_up().len());
    ask()?;
    let until = Instant::now() + SOON;
    while world.modern.waiting() == waiting {
        if Instant::now() > until {
            return Err("the request did not arrive".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let since = Instant::now();
    leave()?;
    while world.modern.given_up().len() == before {
        if since.elapsed() > SOON {
            return Err(format!("{what}: never seen at the application"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = world.modern.given_up()[before].saturating_duration_since(since);
    println!("{what}: seen at an HTTP/2 application after {took:.1?}");
    wanted(took < AT_ONCE, "at once", &format!("{took:?}"))
}

fn learns_that_an_http1_client_is_gone(world: &World) -> Result<(), String> {
    let mut connection = Connection::open(world.modern_entry).map_err(said)?;
    connection.send(b"GET /wait HTTP/1.1\r\nHost: svc\r\n\r\n").map_err(said)?;
    given_up(world, "an HTTP/1.1 client gone", || Ok(()), || connection.reset().map_err(said))
}

fn learns_that_an_http2_client_is_gone(world: &World) -> Result<(), String> {
    let session = std::cell::RefCell::new(Session::open(world.modern_entry, &[])?);
    let send = |bytes: Vec<u8>| session.borrow_mut().send(&bytes).map_err(said);
    given_up(
        world,
        "a stream reset",
        || send(headers(1, WHOLE, &request("GET", "/wait", &[]))),
        || send(frame(kind::RST_STREAM, 0, 1, &code::CANCEL.to_be_bytes())),
    )
}

fn is_called_over_few_connections(world: &World) -> Result<(), String> {
    let before = world.modern.connections();
    std::thread::scope(|scope| {
        let client = || -> Result<(), String> {
            let mut client = Client::open(world.modern_entry).map_err(said)?;
            for _ in 0..50 {
                client.ask("/seen").map_err(said)?;
                let (status, text) = client.text()?;
                wanted(status == 200, "200", &text)?;
            }
            Ok(())
        };
        let running: Vec<_> = (0..20).map(|_| scope.spawn(client)).collect();
        running
            .into_iter()
            .try_for_each(|r| r.join().map_err(|_| "a client panicked".to_owned())?)
    })?;
    let opened = world.modern.connections() - before;
    wanted(opened <= 8, "at most 8 connections for 20 clients", &format!("{opened}"))
}

fn that_speaks_http1_after_all(world: &World) -> Result<(), String> {
    let mut client = Client::open(world.liar_entry).map_err(said)?;
    client.ask("/x").map_err(said)?;
    let (status, head) = client.head()?;
    let told = head.get("proxy-status").unwrap_or_default();
    wanted(status == 502 && told.contains("error="), "502 with Proxy-Status", &format!("{head:?}"))
}
