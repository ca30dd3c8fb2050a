//! What never ends: heads, lines, trailers, interim answers. The sender is cut off early, with the status
//! that fits.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use hearth_tests::conformance::application::{Script, Step};
use hearth_tests::conformance::case::Lane;
use hearth_tests::conformance::transfer::Client;

use super::{MIB, Memory, Told, said};
use crate::world::World;

/// What is sent if nobody stops it.
const ALL: u64 = 100 * MIB;
/// What an agent may hold of it: it gives up at a head's bound (64 KiB, or a few of them in pieces).
const ROOM: u64 = 8 * MIB;

pub(super) fn told() -> Vec<(&'static str, Told)> {
    vec![
        ("a_field_line_of_100_mb", |l, _| {
            cut_off(
                l,
                "a field line of 100 MB",
                "GET /x HTTP/1.1\r\nHost: svc\r\nX-A: ",
                "aaaaaaaa",
            )
        }),
        ("fields_without_end", |l, _| {
            cut_off(l, "fields without end", "GET /x HTTP/1.1\r\nHost: svc\r\n", "X-A: b\r\n")
        }),
        ("a_field_name_without_end", |l, _| {
            cut_off(l, "a field name without end", "GET /x HTTP/1.1\r\nHost: svc\r\n", "X-A-X-A-")
        }),
        ("a_target_without_end", |l, _| cut_off(l, "a target without end", "GET /", "aaaaaaaa")),
        ("a_method_without_end", |l, _| cut_off(l, "a method without end", "", "AAAAAAAA")),
        ("empty_lines_without_end", |l, _| {
            cut_off(l, "empty lines without end", "", "\r\n\r\n\r\n\r\n")
        }),
        ("trailers_without_end", |l, _| {
            cut_off(
                l,
                "trailers without end",
                "POST /x HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\
                     abc\r\n0\r\n",
                "X-A: b\r\n",
            )
        }),
        ("a_chunk_extension_without_end", |l, _| {
            cut_off(
                l,
                "a chunk extension without end",
                "POST /x HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n3;",
                "aaaaaaaa",
            )
        }),
        ("a_chunk_size_without_end", |l, _| {
            cut_off(
                l,
                "a chunk size without end",
                "POST /x HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n",
                "00000000",
            )
        }),
        ("an_answers_head_without_end", |l, _| {
            answered_502(l, "an answer's head without end", "HTTP/1.1 200 OK\r\n", "X-A: b\r\n")
        }),
        ("an_answers_field_line_of_100_mb", |l, _| {
            answered_502(
                l,
                "an answer's field line of 100 MB",
                "HTTP/1.1 200 OK\r\nX-A: ",
                "aaaaaaaa",
            )
        }),
        ("an_answers_status_line_without_end", |l, _| {
            answered_502(l, "an answer's status line without end", "HTTP/1.1 200 ", "aaaaaaaa")
        }),
        ("interim_answers_without_end", |l, _| {
            answered_502(l, "interim answers without end", "", "HTTP/1.1 102 Processing\r\n\r\n")
        }),
        // An upload that does not fit into one piece goes another way, at both agents.
        ("interim_answers_without_end_to_an_upload", |l, _| {
            let what = "interim answers without end to an upload";
            let hint =
                format!("HTTP/1.1 103 Early Hints\r\nLink: <{}>\r\n\r\n", "a".repeat(60_000));
            endless(l, "", &hint);
            let memory = Memory::now()?;
            let mut client = Client::open(l.entry).map_err(said)?;
            let head = "POST /x HTTP/1.1\r\nHost: svc\r\nContent-Length: 100000\r\n\r\n";
            client.write(head.as_bytes()).map_err(said)?;
            client.write(&[b'x'; 100_000]).map_err(said)?;
            let answer = client.text();
            memory.within(ROOM, what)?;
            match answer {
                Ok((502, _)) => Ok(()),
                other => Err(format!("{what}: {other:?}, expected 502")),
            }
        }),
        ("an_answers_trailers_without_end", an_answers_trailers_without_end),
    ]
}

/// Sends `begin`, then `piece` again and again; must be cut off with 4xx or without an answer.
fn cut_off(lane: &Lane, what: &str, begin: &str, piece: &str) -> Result<(), String> {
    let memory = Memory::now()?;
    let mut stream = TcpStream::connect(lane.entry).map_err(said)?;
    stream.set_write_timeout(Some(Duration::from_secs(20))).map_err(said)?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(said)?;
    stream.write_all(begin.as_bytes()).map_err(said)?;
    let many = piece.repeat(128 * 1024 / piece.len());
    let mut sent = 0;
    let refused = loop {
        if sent >= ALL {
            break None;
        }
        match stream.write_all(many.as_bytes()) {
            Ok(()) => sent += many.len() as u64,
            Err(error) => break Some(error.kind()),
        }
    };
    let mut answer = Vec::new();
    // A reset may come before or after the answer.
    let read = stream.read_to_end(&mut answer);
    memory.within(ROOM, what)?;
    println!("{what}: cut off after {:.1} MiB", sent as f64 / MIB as f64);
    if let Err(error) = &read
        && matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
    {
        return Err(format!("{what}: neither answered nor cut off ({refused:?})"));
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).unwrap_or("none");
    println!("{what}: status {status}");
    if !matches!(status, "400" | "413" | "414" | "431" | "none") {
        return Err(format!("{what}: {answer:.300}"));
    }
    match lane.app.take().0.iter().any(|r| r.whole) {
        true => Err(format!("{what}: the application got a whole request")),
        false => Ok(()),
    }
}

/// The application answers with `begin`, then `piece` again and again.
fn endless(lane: &Lane, begin: &str, piece: &str) {
    let many = piece.repeat(128 * 1024 / piece.len());
    let times = usize::try_from(ALL).unwrap_or(usize::MAX) / many.len();
    let steps =
        [Step::Body, Step::Send(begin.into()), Step::Repeat(many.into(), times), Step::Close];
    lane.app.load(vec![Script::steps(steps).at("/x")]);
}

fn answered_502(lane: &Lane, what: &str, begin: &str, piece: &str) -> Result<(), String> {
    endless(lane, begin, piece);
    let memory = Memory::now()?;
    let mut client = Client::open(lane.entry).map_err(said)?;
    client.ask("/x").map_err(said)?;
    let answer = client.text();
    memory.within(ROOM, what)?;
    match answer {
        Ok((502, _)) => Ok(()),
        other => Err(format!("{what}: {other:?}, expected 502")),
    }
}

fn an_answers_trailers_without_end(lane: &Lane, _: &World) -> Result<(), String> {
    let what = "an answer's trailers without end";
    let begin = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n";
    endless(lane, begin, "X-A: b\r\n");
    let memory = Memory::now()?;
    let mut client = Client::open(lane.entry).map_err(said)?;
    client.ask("/x").map_err(said)?;
    let answer = client.text();
    memory.within(ROOM, what)?;
    match answer {
        Ok((200, text)) => Err(format!("{what}: {text:?} came as whole")),
        Ok((502, _)) | Err(_) => Ok(()),
        other => Err(format!("{what}: {other:?}")),
    }
}
