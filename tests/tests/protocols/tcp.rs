//! Opaque TCP through a pair: a scripted application for the ends of connections, TLS that the mesh does not
//! look into, and applications on Unix sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use hearth_tests::cases::Cases;
use hearth_tests::lab::Program;
use hearth_tests::lab::binaries::tool;
use hearth_tests::lab::wait::wait_for;
use hearth_tests::loopback::{Done, Place, free_ports};
use hearth_tests::pair::{Offer, Pair, Plan};

pub(super) const SOON: Duration = Duration::from_secs(20);
pub(super) const LONG: Duration = Duration::from_secs(120);

/// The mesh's limit is short: it is for finding somebody, not for how long a connection lives.
fn policy(services: &[&str]) -> String {
    services.iter().map(|name| format!("[services.{name}]\ntimeout = \"2s\"\n")).collect()
}

pub(super) fn start(place: Place, offers: Vec<Offer>, services: &[&str]) -> Pair {
    let plan = Plan { offers, policy: policy(services), caller: String::new() };
    Pair::start(place, &plan).unwrap_or_else(|e| panic!("no pair that carries opaque TCP: {e}"))
}

/// How the scripted application's connections ended, and when.
type Told = Receiver<(String, Instant)>;

/// What the scripted application does with a connection, by its first line.
///
/// It speaks first (`220 ready`). `echo` sends back what comes until the end; `count` waits for the end of
/// what comes and answers how much it was; `finish` ends its own half and counts what still comes; `abort`
/// breaks the connection. How each connection ended is told to the test.
fn scripted() -> (SocketAddr, Told) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tell = tell.clone();
            std::thread::spawn(move || {
                // A check of health connects and leaves: nobody waits for what is told of it.
                if let Some(end) = converse(stream) {
                    let _ = tell.send((end, Instant::now()));
                }
            });
        }
    });
    (address, told)
}

fn converse(mut stream: TcpStream) -> Option<String> {
    stream.write_all(b"220 ready\n").ok()?;
    let mut word = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).ok()? == 1 && byte[0] != b'\n' {
        word.push(byte[0]);
    }
    let word = String::from_utf8(word).ok().filter(|word| !word.is_empty())?;
    let ended = |end: std::io::Result<u64>| match end {
        Ok(bytes) => format!("{word}: {bytes} bytes and an orderly end"),
        Err(error) => format!("{word}: {:?}", error.kind()),
    };
    let mut back = stream.try_clone().ok()?;
    Some(match word.as_str() {
        "echo" => {
            let end = std::io::copy(&mut stream, &mut back);
            let _ = back.shutdown(Shutdown::Write);
            ended(end)
        }
        "count" => {
            let end = std::io::copy(&mut stream, &mut std::io::sink());
            if let Ok(bytes) = &end {
                let _ = writeln!(back, "{bytes}");
            }
            ended(end)
        }
        "finish" => {
            let _ = back.write_all(b"done talking\n");
            let _ = back.shutdown(Shutdown::Write);
            ended(std::io::copy(&mut stream, &mut std::io::sink()))
        }
        "abort" => {
            // Closing with a linger of nothing sends a reset.
            let stream = socket2::Socket::from(stream);
            let _ = stream.set_linger(Some(Duration::ZERO));
            drop(back);
            "abort".to_owned()
        }
        other => format!("unknown word {other}"),
    })
}

/// A connection whose greeting has been read; a deadline is on every read.
fn greeted(entry: SocketAddr, word: &str) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(entry).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(SOON)).map_err(|e| e.to_string())?;
    let mut greeting = [0; 10];
    stream.read_exact(&mut greeting).map_err(|e| format!("no greeting: {e}"))?;
    if &greeting != b"220 ready\n" {
        return Err(format!("greeted with {:?}", String::from_utf8_lossy(&greeting)));
    }
    stream.write_all(format!("{word}\n").as_bytes()).map_err(|e| e.to_string())?;
    Ok(stream)
}

fn expect(told: &Told, wanted: &str) -> Result<Instant, String> {
    match told.recv_timeout(SOON) {
        Ok((end, at)) if end == wanted => Ok(at),
        Ok((end, _)) => Err(format!("the application saw {end:?}, wanted {wanted:?}")),
        Err(_) => Err("the application saw no end".to_owned()),
    }
}

#[test]
fn a_tcp_connection_is_carried_as_it_is_whichever_end_ends_it() {
    let (app, told) = scripted();
    // Nobody accepts here; the kernel does, and that is enough for a check of health.
    let leaving = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = Offer::new("gone", "tcp", leaving.local_addr().unwrap());
    let offers = vec![Offer::new("lines", "tcp", app), gone];
    let pair = start(Place::new("tcp").unwrap(), offers, &["lines", "gone"]);
    let entry = pair.entry("lines");
    let mut cases = Cases::new("tcp");
    orderly_ends(&mut cases, entry, &told);
    aborts(&mut cases, entry, &told);
    bytes_and_limits(&mut cases, pair, &told, leaving);
    cases.finish();
}

fn orderly_ends(cases: &mut Cases, entry: SocketAddr, told: &Told) {
    cases.check("a server that speaks first is heard without a delay for sniffing", || {
        let start = Instant::now();
        let mut stream = TcpStream::connect(entry).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(SOON)).map_err(|e| e.to_string())?;
        stream.read_exact(&mut [0; 10]).map_err(|e| format!("no greeting: {e}"))?;
        let took = start.elapsed();
        if took < Duration::from_secs(1) {
            Ok(format!("{took:.1?}"))
        } else {
            Err(format!("{took:.1?}"))
        }
    });
    cases.check("the client ends its half and still gets the answer", || {
        let mut stream = greeted(entry, "count")?;
        stream.write_all(&[7; 100_000]).map_err(|e| e.to_string())?;
        stream.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
        expect(told, "count: 100000 bytes and an orderly end")?;
        if answer == "100000\n" { Ok(String::new()) } else { Err(format!("{answer:?}")) }
    });
    cases.check("the server ends its half and still gets what the client sends", || {
        let mut stream = greeted(entry, "finish")?;
        let mut all = String::new();
        stream.read_to_string(&mut all).map_err(|e| e.to_string())?;
        if all != "done talking\n" {
            return Err(format!("{all:?}"));
        }
        for _ in 0..100 {
            stream.write_all(&[7; 1000]).map_err(|e| e.to_string())?;
        }
        drop(stream);
        expect(told, "finish: 100000 bytes and an orderly end").map(|_| String::new())
    });
}

fn aborts(cases: &mut Cases, entry: SocketAddr, told: &Told) {
    cases.check("a connection that the application aborts is aborted, not ended", || {
        let mut stream = greeted(entry, "abort")?;
        let end = stream.read_to_end(&mut Vec::new());
        expect(told, "abort")?;
        match end {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(String::new()),
            other => Err(format!("the client saw {other:?}, wanted a reset")),
        }
    });
    cases.check(
        "a connection that the client aborts is aborted at the application at once",
        || {
            let mut stream = greeted(entry, "echo")?;
            stream.write_all(b"x").map_err(|e| e.to_string())?;
            stream.read_exact(&mut [0]).map_err(|e| e.to_string())?;
            let stream = socket2::Socket::from(stream);
            stream.set_linger(Some(Duration::ZERO)).map_err(|e| e.to_string())?;
            let left = Instant::now();
            drop(stream);
            let at = expect(told, "echo: ConnectionReset")?;
            let late = at.saturating_duration_since(left);
            if late < Duration::from_secs(1) {
                Ok(format!("{late:.1?}"))
            } else {
                Err(format!("{late:.1?}"))
            }
        },
    );
}

/// `leaving` holds the port of the service `gone`.
fn bytes_and_limits(cases: &mut Cases, pair: Pair, told: &Told, leaving: TcpListener) {
    let entry = pair.entry("lines");
    cases.check("64 MiB both ways at once arrive bit by bit", || bulk(entry, told));
    cases.check("an idle connection outlives the limit of finding somebody", || {
        let mut stream = greeted(entry, "echo")?;
        std::thread::sleep(Duration::from_secs(3)); // Longer than the policy's 2 s.
        stream.write_all(b"still here").map_err(|e| e.to_string())?;
        stream.read_exact(&mut [0; 10]).map_err(|e| e.to_string())?;
        drop(stream);
        expect(told, "echo: 10 bytes and an orderly end").map(|_| String::new())
    });
    cases.check("a connection that nobody takes is reset in time, not ended", || {
        drop(leaving);
        let start = Instant::now();
        let mut stream = TcpStream::connect(pair.entry("gone")).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(SOON)).map_err(|e| e.to_string())?;
        match (stream.read(&mut [0]), start.elapsed()) {
            (Err(e), took) if e.kind() == ErrorKind::ConnectionReset => Ok(format!("{took:.1?}")),
            (other, took) => Err(format!("{other:?} after {took:.1?}")),
        }
    });
    cases.check("an HTTP client is carried as bytes too: nothing is added to what it says", || {
        let mut stream = greeted(entry, "echo")?;
        let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).map_err(|e| e.to_string())?;
        let mut back = vec![0; request.len()];
        stream.read_exact(&mut back).map_err(|e| e.to_string())?;
        drop(stream);
        expect(told, "echo: 27 bytes and an orderly end")?;
        if back == request { Ok(String::new()) } else { Err(String::from_utf8_lossy(&back).into()) }
    });
    cases.check("the owner's agent vanishes: the half-open connection is found and broken", || {
        let mut pair = pair;
        let mut stream = greeted(entry, "echo")?;
        stream.write_all(b"x").map_err(|e| e.to_string())?;
        stream.read_exact(&mut [0]).map_err(|e| e.to_string())?;
        let lost = Instant::now();
        pair.owners[0].kill().map_err(|e| e.to_string())?;
        match (stream.read(&mut [0]), lost.elapsed()) {
            (Err(e), after) if e.kind() == ErrorKind::ConnectionReset => Ok(format!("{after:.1?}")),
            (other, after) => Err(format!("{other:?} after {after:.1?}, wanted a reset")),
        }
    });
}

fn bulk(entry: SocketAddr, told: &Told) -> Result<String, String> {
    const SIZE: usize = 64 << 20;
    let byte = |n: usize| u8::try_from(n % 251).unwrap();
    let mut stream = greeted(entry, "echo")?;
    let start = Instant::now();
    let mut out = stream.try_clone().map_err(|e| e.to_string())?;
    let sender = std::thread::spawn(move || {
        let block: Vec<u8> = (0..251 * 1024).map(byte).collect();
        let mut left = SIZE;
        while left > 0 {
            let length = left.min(block.len());
            out.write_all(&block[..length])?;
            left -= length;
        }
        out.shutdown(Shutdown::Write)
    });
    let (mut got, mut buffer) = (0, vec![0; 256 * 1024]);
    loop {
        let length = stream.read(&mut buffer).map_err(|e| format!("after {got} bytes: {e}"))?;
        if length == 0 {
            break;
        }
        if let Some(n) = (0..length).find(|n| buffer[*n] != byte(got + n)) {
            return Err(format!("byte {} is {}, not {}", got + n, buffer[n], byte(got + n)));
        }
        got += length;
    }
    sender.join().unwrap().map_err(|e| e.to_string())?;
    if got != SIZE {
        return Err(format!("{got} bytes came back of {SIZE}"));
    }
    let took = start.elapsed().as_secs_f64();
    expect(told, &format!("echo: {SIZE} bytes and an orderly end"))?;
    Ok(format!("{:.0} MB/s there and back", 67.1 / took))
}

#[test]
fn an_application_on_a_unix_socket_is_reached() {
    let place = Place::new("unix").unwrap();
    let (lines, pages) = (place.path("lines.sock"), place.path("pages.sock"));
    let serve = |path: &Path, answer: &'static [u8]| {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut asked = [0; 4096];
                    while matches!(stream.read(&mut asked), Ok(n) if n > 0) {
                        let _ = stream.write_all(answer);
                    }
                });
            }
        });
    };
    serve(&lines, b"heard\n");
    serve(&pages, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\npage\n");
    let offers = vec![
        Offer::new("lines", "tcp", format!("unix:{}", lines.display())),
        Offer::new("pages", "http", format!("unix:{}", pages.display())),
    ];
    let pair = start(place, offers, &["lines", "pages"]);
    let mut cases = Cases::new("unix socket");
    let ask = |entry: SocketAddr, question: &str, wanted: &str| -> Result<String, String> {
        let mut stream = TcpStream::connect(entry).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(SOON)).map_err(|e| e.to_string())?;
        stream.write_all(question.as_bytes()).map_err(|e| e.to_string())?;
        let mut all = String::new();
        let mut buffer = [0; 4096];
        while !all.contains(wanted) {
            match stream.read(&mut buffer).map_err(|e| format!("{e} after {all:?}"))? {
                0 => return Err(format!("ended after {all:?}")),
                n => all.push_str(&String::from_utf8_lossy(&buffer[..n])),
            }
        }
        Ok(String::new())
    };
    cases.check("by bytes", || ask(pair.entry("lines"), "anyone?", "heard\n"));
    cases.check("by HTTP", || {
        ask(pair.entry("pages"), "GET / HTTP/1.1\r\nHost: pages\r\n\r\n", "page\n")
    });
    cases.finish();
}

/// Standard output of a program that ended well.
pub(super) fn said(done: Done) -> Result<String, String> {
    match done.code {
        Some(0) => Ok(done.stdout),
        code => Err(format!("exit {code:?}: {}{}", done.stdout, done.stderr)),
    }
}

pub(super) fn shell(place: &Place, line: &str) -> Result<String, String> {
    let program = Program::new("sh", "/bin/sh").args(["-c", line]);
    said(place.run(program, LONG).map_err(|e| e.to_string())?)
}

#[test]
fn tls_passes_through_to_the_application_itself() {
    let Ok(openssl) = tool("openssl") else {
        return println!("NOT RUN: TLS passthrough: openssl is not installed; run tests/setup");
    };
    let openssl = openssl.display().to_string();
    let place = Place::new("tls").unwrap();
    let (key, cert) = (place.path("key.pem"), place.path("cert.pem"));
    shell(
        &place,
        &format!(
            "{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -subj /CN=app.example -addext subjectAltName=DNS:app.example -keyout {} -out {}",
            key.display(),
            cert.display()
        ),
    )
    .unwrap();
    let [app] = free_ports();
    let port = app.port().to_string();
    let (key, cert) = (key.display().to_string(), cert.display().to_string());
    let server = Program::new("s_server", openssl.as_str()).args([
        "s_server", "-accept", &port, "-cert", &cert, "-key", &key, "-rev", "-alpn", "h2,chat",
    ]);
    let server = place.start(server).unwrap();
    wait_for("openssl to accept", SOON, || match server.stdout() {
        out if out.contains("ACCEPT") => Ok(()),
        out => Err(out + &server.stderr()),
    })
    .unwrap();
    let pair = start(place, vec![Offer::new("sealed", "tcp", app)], &["sealed"]);
    let entry = pair.entry("sealed");
    let mut cases = Cases::new("tls passthrough");
    let client = |more: &str| {
        let line = format!(
            "(echo hello; sleep 1) | {openssl} s_client -connect {entry} -servername app.example \
             -CAfile {cert} -verify_return_error -verify_hostname app.example {more} 2>&1"
        );
        shell(&pair.place, &line)
    };
    cases.check("the client verifies the application's own certificate and talks to it", || {
        let out = client("-quiet -no_ign_eof")?;
        if out.contains("olleh") { Ok(String::new()) } else { Err(out) }
    });
    cases.check("version and protocol are agreed upon end to end", || {
        let out = client("-tls1_3 -alpn chat")?;
        let held = out.contains("ALPN protocol: chat") && out.contains("TLSv1.3");
        if held { Ok(String::new()) } else { Err(out) }
    });
    cases.finish();
}
