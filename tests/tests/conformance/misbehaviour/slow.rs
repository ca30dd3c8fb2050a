//! Readers and writers that take their time: backpressure all the way to the sender.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hearth_tests::conformance::application::{Script, Step, ok};
use hearth_tests::conformance::case::Lane;
use hearth_tests::conformance::client::Connection;
use hearth_tests::conformance::h2::{Session, WHOLE, headers, request};
use hearth_tests::conformance::noise::Noise;
use hearth_tests::conformance::transfer::Client;

use super::{MANY, MIB, Memory, ONE, Told, said, stalled};
use crate::world::World;

/// A body that fits into no window.
const BODY: u64 = 192 * MIB;
/// What windows and the kernel's socket buffers (up to 6 MiB each, four of them) may take of a body whose
/// reader has stopped.
const TAKEN: u64 = 64 * MIB;

pub(super) fn told() -> Vec<(&'static str, Told)> {
    vec![
        ("a_reader_that_stops_stops_the_application", a_reader_that_stops),
        ("a_reader_over_http2_without_window_stops_the_application", a_reader_without_window),
        ("thirty_two_readers_that_stop_leave_others_served", many_readers_that_stop),
        ("an_application_that_stops_reading_stops_the_client", an_application_that_stops_reading),
        ("a_writer_of_one_byte_at_a_time_is_served", a_slow_writer),
        ("an_application_that_answers_byte_by_byte_is_passed_on", a_slow_application),
        ("five_hundred_heads_that_never_end_leave_others_served", many_unfinished_heads),
    ]
}

/// A client whose kernel takes little.
fn narrow(to: SocketAddr) -> Result<Client, String> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(said)?;
    socket.set_recv_buffer_size(16 * 1024).map_err(said)?;
    socket.connect(&to.into()).map_err(said)?;
    Client::from(TcpStream::from(socket)).map_err(said)
}

fn a_reader_that_stops(lane: &Lane, world: &World) -> Result<(), String> {
    let (memory, sent) = (Memory::now()?, world.source.sent());
    let mut client = narrow(world.source_entry)?;
    client.ask(&format!("/noise/1/{BODY}")).map_err(said)?;
    stalled("a reader that stops", TAKEN, || world.source.sent() - sent)?;
    lane.serves()?;
    memory.within(ONE, "a reader that stops")?;
    client.noise(1, BODY)
}

fn a_reader_without_window(lane: &Lane, world: &World) -> Result<(), String> {
    let (memory, sent) = (Memory::now()?, world.source.sent());
    let mut session = Session::open(world.source_entry, &[(4, 0)])?;
    let path = format!("/noise/1/{BODY}");
    let _ = session.send(&headers(1, WHOLE, &request("GET", &path, &[])));
    stalled("a reader without window", TAKEN, || world.source.sent() - sent)?;
    lane.serves()?;
    memory.within(ONE, "a reader without window")
}

fn many_readers_that_stop(lane: &Lane, world: &World) -> Result<(), String> {
    const READERS: u64 = 32;
    let (memory, sent) = (Memory::now()?, world.source.sent());
    let mut clients = Vec::new();
    for n in 0..READERS {
        let mut client = narrow(world.source_entry)?;
        client.ask(&format!("/noise/{n}/{}", 16 * MIB)).map_err(said)?;
        clients.push(client);
    }
    stalled("32 readers that stop", READERS * 16 * MIB, || world.source.sent() - sent)?;
    let begun = Instant::now();
    lane.serves()?;
    println!("32 readers that stop: another was served in {:?}", begun.elapsed());
    memory.within(MANY, "32 readers that stop")?;
    for (n, client) in clients.iter_mut().enumerate() {
        client.noise(n as u64, 16 * MIB)?;
    }
    Ok(())
}

/// Lets the application read on however the test ends.
struct Held<'a>(&'a World);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.source.hold(false);
    }
}

fn an_application_that_stops_reading(lane: &Lane, world: &World) -> Result<(), String> {
    let memory = Memory::now()?;
    let held = Held(world);
    world.source.hold(true);
    let mut stream = TcpStream::connect(world.source_entry).map_err(said)?;
    write!(stream, "PUT /check/3 HTTP/1.1\r\nHost: svc\r\nContent-Length: {BODY}\r\n\r\n")
        .map_err(said)?;
    stream.set_write_timeout(Some(Duration::from_millis(1_200))).map_err(said)?;
    let (mut noise, mut buffer, mut left) = (Noise::new(3), vec![0; 64 * 1024], 0..0);
    let mut written = 0;
    let mut stopped = false;
    while written < BODY {
        if left.is_empty() {
            let size = usize::try_from(BODY - written).unwrap_or(usize::MAX).min(buffer.len());
            noise.fill(&mut buffer[..size]);
            left = 0..size;
        }
        match stream.write(&buffer[left.clone()]) {
            Ok(length) => {
                left.start += length;
                written += length as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && !stopped => {
                println!(
                    "an application that stops reading: the client was stopped after {:.1} MiB",
                    written as f64 / MIB as f64
                );
                stopped = true;
                lane.serves()?;
                memory.within(ONE, "an application that stops reading")?;
                world.source.hold(false);
                stream.set_write_timeout(Some(Duration::from_secs(20))).map_err(said)?;
            }
            Err(error) => return Err(format!("after {written} bytes: {error}")),
        }
        if !stopped && written > TAKEN {
            return Err(format!("{written} bytes were taken while nobody read them"));
        }
    }
    drop(held);
    match Client::from(stream).map_err(said)?.text()? {
        (200, text) if text == format!("{BODY} good") => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn a_slow_writer(lane: &Lane, _: &World) -> Result<(), String> {
    let mut connection = Connection::open(lane.entry).map_err(said)?;
    let request =
        b"POST /x HTTP/1.1\r\nHost: svc\r\nContent-Length: 20\r\n\r\n01234567890123456789";
    for byte in request {
        connection.send(&[*byte]).map_err(said)?;
        std::thread::sleep(Duration::from_millis(10));
    }
    answered(&connection, "HTTP/1.1 200 ")
}

fn a_slow_application(lane: &Lane, _: &World) -> Result<(), String> {
    let mut steps = vec![Step::Body];
    for byte in ok("one byte at a time").bytes() {
        steps.extend([Step::Send(vec![byte]), Step::Pause(Duration::from_millis(10))]);
    }
    lane.app.load(vec![Script::steps(steps).at("/x")]);
    let mut connection = Connection::open(lane.entry).map_err(said)?;
    connection.send(b"GET /x HTTP/1.1\r\nHost: svc\r\n\r\n").map_err(said)?;
    answered(&connection, "one byte at a time")
}

fn answered(connection: &Connection, part: &str) -> Result<(), String> {
    let came = connection.wait(Duration::from_secs(10), |bytes, _| {
        bytes.windows(part.len()).any(|w| w == part.as_bytes()).then_some(())
    });
    came.map_err(|(bytes, end)| format!("{} then {end:?}", String::from_utf8_lossy(&bytes)))
}

/// Only in a full run: each takes as long as a head may. What is sent, and how often.
pub(super) fn never_ending() -> Vec<(&'static str, Told)> {
    vec![
        // Never idle, never done.
        ("a_head_that_never_ends_is_given_up", |l, _| {
            given_up(l, "GET /x HTTP/1.1\r\nHost: svc\r\n", "X-A: b\r\n", 1_000)
        }),
        ("a_head_that_comes_byte_by_byte_is_given_up", |l, _| {
            given_up(l, "GET /x HTTP/1.1\r\nHost: svc\r\nX-A: ", "b", 1_500)
        }),
        ("a_small_body_that_comes_byte_by_byte_is_given_up", |l, _| {
            let head = "POST /x HTTP/1.1\r\nHost: svc\r\nContent-Length: 65536\r\n\r\n";
            given_up(l, head, "b", 1_500)
        }),
    ]
}

/// Sends `begin`, and `piece` every so many milliseconds; must be told so, or cut off, in its time.
fn given_up(lane: &Lane, begin: &str, piece: &str, every: u64) -> Result<(), String> {
    // A head's 30 s, and then some for a loaded machine.
    const LONG: Duration = Duration::from_secs(40);
    let mut connection = Connection::open(lane.entry).map_err(said)?;
    connection.send(begin.as_bytes()).map_err(said)?;
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        if connection.send(piece.as_bytes()).is_err() || connection.got().1.is_some() {
            let (bytes, _) = connection.got();
            let answer = String::from_utf8_lossy(&bytes).into_owned();
            println!("{begin:?} and {piece:?}: given up after {:.0?}", begun.elapsed());
            let told = ["HTTP/1.1 408 ", "HTTP/1.1 400 "];
            return match answer.is_empty() || told.iter().any(|t| answer.starts_with(t)) {
                true => Ok(()),
                false => Err(answer),
            };
        }
        std::thread::sleep(Duration::from_millis(every));
    }
    Err(format!("still open after {LONG:?}"))
}

fn many_unfinished_heads(lane: &Lane, world: &World) -> Result<(), String> {
    let memory = Memory::now()?;
    let mut open = Vec::new();
    for n in 0..500 {
        let mut stream = TcpStream::connect(lane.entry).map_err(said)?;
        // Every other one also fills some of the room that a head may take.
        let filler = if n % 2 == 0 { "a".repeat(8 * 1024) } else { String::new() };
        write!(stream, "GET /x HTTP/1.1\r\nHost: svc\r\nX-A: {filler}").map_err(said)?;
        open.push(stream);
    }
    let begun = Instant::now();
    lane.serves()?;
    println!("500 unfinished heads: another was served in {:?}", begun.elapsed());
    let _ = world;
    memory.within(MANY, "500 unfinished heads")
}
