//! Windows, many streams at once, and the ends of streams and connections (RFC 9113 sections 5.2, 5.4, 6.8).

use std::time::{Duration, Instant};

use hearth_tests::conformance::application::{Script, Step, ok};
use hearth_tests::conformance::case::Lane;
use hearth_tests::conformance::h2::{
    ACK, END_HEADERS, END_STREAM, Frame, PREFACE, Session, WHOLE, code, frame, headers, kind,
    request, settings, window,
};

use super::Told;

/// In ordinary conditions it takes milliseconds; this machine may be busy.
const CANCELLED: Duration = Duration::from_secs(1);

pub(super) fn told() -> Vec<(&'static str, Told)> {
    vec![
        ("a_preface_byte_by_byte_is_read", a_preface_byte_by_byte_is_read),
        ("a_broken_preface_is_refused", a_broken_preface_is_refused),
        (
            "a_first_frame_that_is_no_settings_is_refused",
            a_first_frame_that_is_no_settings_is_refused,
        ),
        ("settings_are_acknowledged", settings_are_acknowledged),
        ("a_ping_is_answered", a_ping_is_answered),
        ("a_window_of_zero_holds_the_answer_back", a_window_of_zero_holds_the_answer_back),
        ("a_window_that_grows_by_settings_lets_it_go", a_window_that_grows_by_settings_lets_it_go),
        ("an_upload_of_a_megabyte_is_given_window", an_upload_of_a_megabyte_is_given_window),
        (
            "fifty_streams_are_answered_each_with_its_own",
            fifty_streams_are_answered_each_with_its_own,
        ),
        (
            "a_slow_stream_does_not_hold_back_a_fast_one",
            a_slow_stream_does_not_hold_back_a_fast_one,
        ),
        ("a_reset_reaches_the_application", a_reset_reaches_the_application),
        (
            "a_reset_within_an_upload_reaches_the_application",
            a_reset_within_an_upload_reaches_the_application,
        ),
        ("a_goaway_lets_streams_finish", a_goaway_lets_streams_finish),
        (
            "streams_beyond_the_limit_are_refused_or_wait",
            streams_beyond_the_limit_are_refused_or_wait,
        ),
    ]
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    headers(stream, WHOLE, &request("GET", path, &[]))
}

fn a_preface_byte_by_byte_is_read(lane: &Lane) -> Result<(), String> {
    let mut session = Session::silent(lane.entry)?;
    for byte in [PREFACE, &settings(&[(1, 0)]), &get(1, "/x")].concat() {
        session.send(&[byte]).map_err(|e| e.to_string())?;
        std::thread::sleep(Duration::from_micros(200));
    }
    session.answer(1).map(drop)
}

fn a_broken_preface_is_refused(lane: &Lane) -> Result<(), String> {
    let mut session = Session::silent(lane.entry)?;
    let _ = session.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    let _ = session.send(&[settings(&[]), get(1, "/x")].concat());
    session.wait("the end", |_, end| end.map(drop))?;
    match lane.app.take().0.len() {
        0 => Ok(()),
        n => Err(format!("the application got {n} requests")),
    }
}

fn a_first_frame_that_is_no_settings_is_refused(lane: &Lane) -> Result<(), String> {
    let mut session = Session::silent(lane.entry)?;
    let _ = session.send(&[PREFACE, &get(1, "/x")].concat());
    super::ended(&session, &[code::PROTOCOL])
}

fn settings_are_acknowledged(lane: &Lane) -> Result<(), String> {
    let session = Session::open(lane.entry, &[])?;
    session.wait("an acknowledgement", |frames, _| {
        frames.iter().find(|f| f.kind == kind::SETTINGS && f.flags == ACK).map(drop)
    })
}

fn a_ping_is_answered(lane: &Lane) -> Result<(), String> {
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&frame(kind::PING, 0, 0, b"hearth!!"));
    session.wait("its echo", |frames, _| {
        let echo = |f: &&Frame| f.kind == kind::PING && f.flags == ACK && f.payload == b"hearth!!";
        frames.iter().find(echo).map(drop)
    })
}

fn content(frames: &[Frame], stream: u32) -> usize {
    let data = frames.iter().filter(|f| f.kind == kind::DATA && f.stream == stream);
    data.map(|f| f.payload.len()).sum()
}

fn a_window_of_zero_holds_the_answer_back(lane: &Lane) -> Result<(), String> {
    lane.app.load(vec![Script::answer(ok(&"x".repeat(50_000))).at("/x")]);
    let mut session = Session::open(lane.entry, &[(4, 0)])?;
    let _ = session.send(&get(1, "/x"));
    session.wait("the head", |frames, _| frames.iter().find_map(Frame::status))?;
    // A PING that comes back shows that what was to be sent by then has been.
    let _ = session.send(&frame(kind::PING, 0, 0, b"12345678"));
    let pong = |f: &Frame| f.kind == kind::PING && f.flags == ACK;
    let early =
        session.wait("a pong", |frames, _| frames.iter().any(pong).then(|| content(frames, 1)))?;
    if early > 0 {
        return Err(format!("{early} bytes without a window"));
    }
    let _ = session.send(&window(1, 1_000));
    session.wait("1,000 bytes", |frames, _| (content(frames, 1) >= 1_000).then_some(()))?;
    let _ = session.send(&window(1, 100_000));
    let (_, body) = session.answer(1)?;
    if body.len() == 50_000 { Ok(()) } else { Err(format!("{} bytes", body.len())) }
}

fn a_window_that_grows_by_settings_lets_it_go(lane: &Lane) -> Result<(), String> {
    lane.app.load(vec![Script::answer(ok(&"x".repeat(50_000))).at("/x")]);
    let mut session = Session::open(lane.entry, &[(4, 10)])?;
    let _ = session.send(&get(1, "/x"));
    session.wait("10 bytes", |frames, _| (content(frames, 1) == 10).then_some(()))?;
    let _ = session.send(&settings(&[(4, 60_000)]));
    let (_, body) = session.answer(1)?;
    if body.len() == 50_000 { Ok(()) } else { Err(format!("{} bytes", body.len())) }
}

/// Sends no more than it was given leave to.
fn an_upload_of_a_megabyte_is_given_window(lane: &Lane) -> Result<(), String> {
    const SIZE: usize = 1 << 20;
    const PIECE: usize = 16_000;
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, END_HEADERS, &request("POST", "/x", &[])));
    let mut sent = 0;
    while sent < SIZE {
        let piece = PIECE.min(SIZE - sent);
        session.wait("more window", |frames, _| {
            let grown = |stream| -> usize {
                let updates = frames.iter().filter(|f| f.kind == kind::WINDOW_UPDATE);
                updates.filter(|f| f.stream == stream).map(|f| f.number(0) as usize).sum()
            };
            let initial = frames.iter().find(|f| f.kind == kind::SETTINGS && f.flags == 0)?;
            let given = initial.payload.chunks_exact(6).find(|p| p[..2] == [0, 4]);
            let given =
                given.map_or(65_535, |p| u32::from_be_bytes([p[2], p[3], p[4], p[5]]) as usize);
            (sent + piece <= (65_535 + grown(0)).min(given + grown(1))).then_some(())
        })?;
        let _ = session.send(&frame(kind::DATA, 0, 1, &vec![b'a'; piece]));
        sent += piece;
    }
    let _ = session.send(&frame(kind::DATA, END_STREAM, 1, b""));
    session.answer(1)?;
    let (requests, _) = lane.app.take();
    match requests.first() {
        Some(request) if request.whole && request.body == vec![b'a'; SIZE] => Ok(()),
        other => Err(format!("the application got {:?}", other.map(|r| r.body.len()))),
    }
}

fn fifty_streams_are_answered_each_with_its_own(lane: &Lane) -> Result<(), String> {
    let path = |stream: u32| format!("/s{stream}");
    let streams = || (0..50).map(|n| 2 * n + 1);
    let script = |s| Script::answer(ok(&format!("answer {s}"))).at(&path(s));
    lane.app.load(streams().map(script).collect());
    let mut session = Session::open(lane.entry, &[])?;
    for stream in streams() {
        let _ = session.send(&get(stream, &path(stream)));
    }
    for stream in streams() {
        let answer = session.answer(stream)?;
        if answer != (200, format!("answer {stream}").into_bytes()) {
            return Err(format!("stream {stream}: {answer:?}"));
        }
    }
    Ok(())
}

fn a_slow_stream_does_not_hold_back_a_fast_one(lane: &Lane) -> Result<(), String> {
    let slow = [Step::Body, Step::Pause(Duration::from_millis(800)), Step::Send(ok("slow").into())];
    lane.app.load(vec![Script::steps(slow).at("/slow"), Script::answer(ok("fast")).at("/fast")]);
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&[get(1, "/slow"), get(3, "/fast")].concat());
    session.answer(3)?;
    let slow_first = session.wait("stream 1 or not", |frames, _| {
        Some(frames.iter().any(|f| f.stream == 1 && f.status().is_some()))
    })?;
    if slow_first { Err("the slow one was first".into()) } else { session.answer(1).map(drop) }
}

/// Waits until the application sees its request's sender gone, and tells how long after `since`.
fn gone(lane: &Lane, since: Instant, what: &str) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let (requests, _) = lane.app.take();
        if let Some(gone) = requests.iter().find_map(|r| r.gone) {
            let after = gone.saturating_duration_since(since);
            println!("{what}: seen at the application after {:.1} ms", after.as_secs_f64() * 1e3);
            return match after < CANCELLED {
                true => Ok(()),
                false => Err(format!("{what} was seen at the application only after {after:?}")),
            };
        }
        if Instant::now() > until {
            return Err(format!("{what} was never seen at the application"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn arrived(lane: &Lane) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(10);
    while lane.app.take().0.is_empty() {
        if Instant::now() > until {
            return Err("the request did not arrive".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn a_reset_reaches_the_application(lane: &Lane) -> Result<(), String> {
    lane.app.load(vec![Script::steps([Step::Body, Step::UntilGone]).at("/x")]);
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&get(1, "/x"));
    arrived(lane)?;
    let since = Instant::now();
    let _ = session.send(&frame(kind::RST_STREAM, 0, 1, &code::CANCEL.to_be_bytes()));
    gone(lane, since, "an HTTP/2 reset")
}

fn a_reset_within_an_upload_reaches_the_application(lane: &Lane) -> Result<(), String> {
    lane.app.load(vec![Script::steps([Step::Body]).at("/x")]);
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, END_HEADERS, &request("POST", "/x", &[])));
    let _ = session.send(&frame(kind::DATA, 0, 1, b"abc"));
    arrived(lane)?;
    let since = Instant::now();
    let _ = session.send(&frame(kind::RST_STREAM, 0, 1, &code::CANCEL.to_be_bytes()));
    gone(lane, since, "an HTTP/2 reset within an upload")?;
    match lane.app.take().0.iter().any(|r| r.whole) {
        true => Err("it arrived as whole".into()),
        false => Ok(()),
    }
}

fn a_goaway_lets_streams_finish(lane: &Lane) -> Result<(), String> {
    let slow = [Step::Body, Step::Pause(Duration::from_millis(200)), Step::Send(ok("late").into())];
    lane.app.load(vec![Script::steps(slow).at("/x")]);
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&get(1, "/x"));
    let _ = session.send(&frame(kind::GOAWAY, 0, 0, &[0; 8]));
    let answer = session.answer(1)?;
    if answer == (200, b"late".to_vec()) { Ok(()) } else { Err(format!("{answer:?}")) }
}

fn streams_beyond_the_limit_are_refused_or_wait(lane: &Lane) -> Result<(), String> {
    let slow = |n: u32| {
        let steps =
            [Step::Body, Step::Pause(Duration::from_millis(300)), Step::Send(ok("late").into())];
        Script::steps(steps).at(&format!("/s{n}"))
    };
    let streams = || (0..600).map(|n| 2 * n + 1);
    lane.app.load(streams().map(slow).collect());
    let mut session = Session::open(lane.entry, &[])?;
    let all: Vec<u8> = streams().flat_map(|s| get(s, &format!("/s{s}"))).collect();
    let _ = session.send(&all);
    session.wait("an answer or REFUSED_STREAM on each of 600 streams", |frames, _| {
        let over = |s: u32| {
            frames.iter().any(|f| {
                f.stream == s
                    && (f.flags & END_STREAM != 0 && f.kind <= kind::HEADERS
                        || f.kind == kind::RST_STREAM && f.number(0) == code::REFUSED_STREAM)
            })
        };
        streams().all(over).then_some(())
    })
}
