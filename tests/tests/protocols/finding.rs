//! How programs find services: the agent's DNS, SOCKS5 and HTTP CONNECT, the ingress.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use hearth_tests::cases::Cases;
use hearth_tests::lab::Program;
use hearth_tests::lab::binaries::tool;
use hearth_tests::loopback::{Done, Place, free_ports};
use hearth_tests::pair::{Offer, Pair, Plan};

const SOON: Duration = Duration::from_secs(20);

/// An HTTP application that answers with the head of the request.
fn mirror() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || reflect(stream));
        }
    });
    address
}

fn reflect(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
        if head.ends_with(b"\r\n\r\n") {
            let length = head.len();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all(&head);
            head.clear();
        }
    }
}

/// An application of lines that speaks first: `220 ready`.
fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"220 ready\n");
        }
    });
    address
}

pub(super) fn start(name: &str, offers: Vec<Offer>, caller: String, what: &str) -> Pair {
    let plan = Plan { offers, policy: String::new(), caller };
    Pair::start(Place::new(name).unwrap(), &plan)
        .unwrap_or_else(|e| panic!("no pair with {what}: {e}"))
}

fn run(pair: &Pair, name: &str, args: &[&str]) -> Result<Done, String> {
    let program = Program::new(name, tool(name).map_err(|e| e.to_string())?);
    pair.place.run(program.args(args.iter().copied()), SOON).map_err(|e| e.to_string())
}

/// What a curl that fails on bad statuses prints.
fn curl(pair: &Pair, args: &[&str]) -> Result<String, String> {
    let all = [&["-sS", "--fail", "--max-time", "15", "--noproxy", ""][..], args].concat();
    let done = run(pair, "curl", &all)?;
    match done.code {
        Some(0) => Ok(done.stdout),
        code => Err(format!("curl {}: exit {code:?}: {}", args.join(" "), done.stderr)),
    }
}

/// A resolver that knows one name: `outside.example`, at 192.0.2.7, over UDP and TCP.
fn resolver() -> SocketAddr {
    let [address] = free_ports();
    let (udp, tcp) = (UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&resolved(&buffer[..length]), from);
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_ok() {
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                let _ = stream.read_exact(&mut question);
                let answer = resolved(&question);
                let _ = stream.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes());
                let _ = stream.write_all(&answer);
            }
        }
    });
    address
}

/// The answer to a question of one name (RFC 1035 section 4): its head and question back, and one A record
/// or NXDOMAIN.
fn resolved(question: &[u8]) -> Vec<u8> {
    let name_ends = question[12..].iter().position(|&b| b == 0).map_or(question.len(), |n| 12 + n);
    let end = (name_ends + 5).min(question.len());
    let known =
        question[12..end].to_ascii_lowercase().starts_with(b"\x07outside\x07example\0\0\x01");
    let mut answer = question[..end].to_vec();
    answer[2] = 0x81;
    answer[3] = if known { 0x80 } else { 0x83 };
    answer[4..12].copy_from_slice(&[0, 1, 0, u8::from(known), 0, 0, 0, 0]);
    if known {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 77, 0, 4, 192, 0, 2, 7]);
    }
    answer
}

#[test]
fn dig_finds_services_at_the_agents_dns_and_the_rest_beyond_it() {
    if tool("dig").is_err() {
        return println!("NOT RUN: DNS: dig is not installed; run tests/setup");
    }
    let ([dns], beyond) = (free_ports(), resolver());
    let caller = format!("[dns]\nlisten = \"{dns}\"\nupstream = [\"{beyond}\"]\n");
    let pair = start("dns", vec![Offer::new("echo", "http", mirror())], caller, "DNS");
    let mut cases = Cases::new("dns");
    let dns = Dns { pair, at: dns };
    names(&mut cases, &dns);
    transports(&mut cases, &dns);
    cases.finish();
}

/// A pair whose caller answers DNS.
struct Dns {
    pair: Pair,
    at: SocketAddr,
}

impl Dns {
    fn dig(&self, words: &[&str]) -> Result<String, String> {
        let port = self.at.port().to_string();
        let first = ["@127.0.0.1", "-p", &port, "+tries=1", "+time=5"];
        let done = run(&self.pair, "dig", &[&first[..], words].concat())?;
        if done.code == Some(0) { Ok(done.stdout) } else { Err(done.stdout + &done.stderr) }
    }
}

#[allow(clippy::needless_pass_by_value)] // what is looked at is made for it
fn wanted(out: String, parts: &[&str]) -> Result<String, String> {
    match parts.iter().find(|part| !out.contains(**part)) {
        None => Ok(String::new()),
        Some(part) => Err(format!("no {part:?} in {out}")),
    }
}

fn names(cases: &mut Cases, dns: &Dns) {
    cases.check("A of a service is an address at which this agent listens", || {
        wanted(dns.dig(&["echo.mesh", "A", "+short"])?, &["127.0.0.1\n"])
    });
    cases.check("whoever asks by name reaches the service at that address", || {
        let to = format!("echo.mesh:{}:127.0.0.1", dns.pair.entry("echo").port());
        let url = format!("http://echo.mesh:{}/by-name", dns.pair.entry("echo").port());
        wanted(curl(&dns.pair, &["--resolve", &to, &url])?, &["GET /by-name HTTP/1.1"])
    });
    cases.check("SRV names the port too", || {
        let out = dns.dig(&["echo.mesh", "SRV", "+short"])?;
        wanted(out, &[&format!(" {} ", dns.pair.entry("echo").port())])
    });
    cases.check("SRV is found under the usual prefixes too", || {
        let wanted_port = format!(" {} ", dns.pair.entry("echo").port());
        wanted(dns.dig(&["_http._tcp.echo.mesh", "SRV", "+short"])?, &[&wanted_port])
    });
    cases.check("AAAA where there is none is an empty answer, not an error", || {
        wanted(dns.dig(&["echo.mesh", "AAAA"])?, &["status: NOERROR", "ANSWER: 0"])
    });
    cases.check("the time to live is short and not nothing", || {
        let out = dns.dig(&["echo.mesh", "A", "+noall", "+answer"])?;
        let ttl: Option<u32> = out.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        match ttl {
            Some(1..=60) => Ok(format!("{} s", ttl.unwrap_or(0))),
            _ => Err(out),
        }
    });
    cases.check("a service that nobody knows is NXDOMAIN, with authority", || {
        wanted(dns.dig(&["nobody.mesh", "A"])?, &["status: NXDOMAIN", "SOA", " aa"])
    });
    cases.check("names are compared without case and given back as asked", || {
        wanted(dns.dig(&["EcHo.MeSh", "A"])?, &["EcHo.MeSh.", "127.0.0.1"])
    });
}

/// UDP and TCP, other resolvers, rubbish.
fn transports(cases: &mut Cases, dns: &Dns) {
    cases.check("the same over TCP", || {
        wanted(dns.dig(&["+tcp", "echo.mesh", "A", "+short"])?, &["127.0.0.1\n"])
    });
    cases.check("other names are asked of the resolver, over UDP and TCP", || {
        wanted(dns.dig(&["outside.example", "A", "+short"])?, &["192.0.2.7\n"])?;
        wanted(dns.dig(&["+tcp", "outside.example", "A", "+short"])?, &["192.0.2.7\n"])?;
        wanted(dns.dig(&["unknown.example", "A"])?, &["status: NXDOMAIN"])
    });
    cases.check("the resolver's time to live is passed on", || {
        wanted(dns.dig(&["outside.example", "A", "+noall", "+answer"])?, &["77\tIN\tA"])
    });
    cases.check("rubbish is survived", || {
        let socket = UdpSocket::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        for n in 0..200_u8 {
            let rubbish: Vec<u8> = (0..n).map(|k| k.wrapping_mul(n) ^ 0x5a).collect();
            let _ = socket.send_to(&rubbish, dns.at);
        }
        wanted(dns.dig(&["echo.mesh", "A", "+short"])?, &["127.0.0.1\n"])
    });
    cases.check("a question for a type that there is none of is an empty answer", || {
        wanted(dns.dig(&["echo.mesh", "MX"])?, &["status: NOERROR", "ANSWER: 0"])
    });
}

/// Asks a SOCKS5 server for a name and port: the reply code, and the connection when it is 0.
fn socks(at: SocketAddr, host: &str, port: u16) -> Result<(u8, TcpStream), String> {
    let mut stream = TcpStream::connect(at).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(SOON)).map_err(|e| e.to_string())?;
    let mut chosen = [0; 2];
    stream.write_all(&[5, 1, 0]).map_err(|e| e.to_string())?;
    stream.read_exact(&mut chosen).map_err(|e| format!("no method chosen: {e}"))?;
    if chosen != [5, 0] {
        return Err(format!("method {chosen:?}"));
    }
    let mut ask = vec![5, 1, 0, 3, u8::try_from(host.len()).unwrap()];
    ask.extend_from_slice(host.as_bytes());
    ask.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&ask).map_err(|e| e.to_string())?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).map_err(|e| format!("no reply: {e}"))?;
    let rest = if reply[3] == 4 { 18 } else { 6 };
    let _ = stream.read_exact(&mut vec![0; rest]);
    Ok((reply[1], stream))
}

fn greeted(mut stream: TcpStream) -> Result<String, String> {
    let mut greeting = [0; 10];
    stream.read_exact(&mut greeting).map_err(|e| format!("no greeting: {e}"))?;
    if &greeting == b"220 ready\n" { Ok(String::new()) } else { Err(format!("{greeting:?}")) }
}

#[test]
fn programs_that_speak_to_proxies_reach_services_by_name() {
    let [socks5] = free_ports();
    let app = mirror();
    let offers = vec![Offer::new("echo", "http", app), Offer::new("lines", "tcp", greeter())];
    let plan = Plan { offers, ..Plan::default() };
    let mut pair = None;
    let mut cases = Cases::new("proxying");
    cases.check("an agent with SOCKS5 and opaque TCP starts", || {
        let place = Place::new("socks").map_err(|e| e.to_string())?;
        let started = Pair::start_with(place, &plan, |config| {
            config.replace("[outbound]\n", &format!("[outbound]\nsocks5 = \"{socks5}\"\n"))
        });
        pair = Some(started.map_err(|e| e.to_string())?);
        Ok(String::new())
    });
    let Some(pair) = pair else { return cases.finish() };
    let (shared, by_socks) = (format!("http://{}", pair.shared), socks5.to_string());
    let has = |out: String, part: &str| {
        if out.contains(part) { Ok(String::new()) } else { Err(format!("no {part:?} in {out}")) }
    };
    cases.check("curl by SOCKS5 and a name", || {
        has(curl(&pair, &["--socks5-hostname", &by_socks, "http://echo.mesh/one"])?, "GET /one ")
    });
    cases.check("SOCKS5 to a service of bytes, which speaks first", || {
        match socks(socks5, "lines.mesh", 25)? {
            (0, stream) => greeted(stream),
            (code, _) => Err(format!("reply {code}")),
        }
    });
    cases.check("SOCKS5 to a service that nobody knows is refused", || {
        match socks(socks5, "nobody.mesh", 80)? {
            (4, _) => Ok("host unreachable".to_owned()),
            (code, _) => Err(format!("reply {code}")),
        }
    });
    cases.check("SOCKS5 leads nowhere but into the mesh", || {
        match socks(socks5, "127.0.0.1", app.port())? {
            (2, _) => Ok("not allowed by ruleset".to_owned()),
            (code, _) => Err(format!("reply {code}")),
        }
    });
    cases.check("curl by CONNECT and a name", || {
        let args = ["-x", &shared, "--proxytunnel", "http://echo.mesh/two"];
        has(curl(&pair, &args)?, "GET /two ")
    });
    cases.check("CONNECT to a service of bytes, which speaks first", || {
        let mut stream = TcpStream::connect(pair.shared).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(SOON)).map_err(|e| e.to_string())?;
        stream
            .write_all(b"CONNECT lines.mesh:25 HTTP/1.1\r\nHost: lines.mesh:25\r\n\r\n")
            .map_err(|e| e.to_string())?;
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).map_err(|e| e.to_string())?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        if head.starts_with("HTTP/1.1 200") { greeted(stream) } else { Err(head) }
    });
    let connect = |url: &str, wanted: &str| {
        let first = ["-sS", "-o", "/dev/null", "-w", "%{http_connect}", "--noproxy", ""];
        let done =
            run(&pair, "curl", &[&first[..], &["-x", &shared, "--proxytunnel", url]].concat())?;
        let held = done.stdout == wanted;
        if held { Ok(done.stdout) } else { Err(format!("{}: {}", done.stdout, done.stderr)) }
    };
    cases.check("CONNECT to a service that nobody knows is 404", || {
        connect("http://nobody.mesh/", "404")
    });
    cases.check("CONNECT leads nowhere but into the mesh", || {
        connect(&format!("http://{app}/"), "403")
    });
    cases.check("curl with the shared port as a plain proxy", || {
        has(curl(&pair, &["-x", &shared, "http://echo.mesh/three"])?, "GET /three ")
    });
    cases.finish();
}

/// A certificate for `shop.example.com` and its key, made by openssl.
fn certificate(place: &Place) -> Result<(String, String), String> {
    let (cert, key) = (place.path("cert.pem"), place.path("key.pem"));
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let args = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=shop.example.com",
        "-addext",
        "subjectAltName=DNS:shop.example.com",
        "-keyout",
        &key,
        "-out",
        &cert,
    ];
    let openssl = tool("openssl").map_err(|e| format!("{e}; run tests/setup"))?;
    let done = place.run(Program::new("openssl", openssl).args(args), SOON);
    let done = done.map_err(|e| e.to_string())?;
    if done.code == Some(0) { Ok((cert, key)) } else { Err(done.stderr) }
}

#[test]
fn clients_outside_the_mesh_come_in_by_the_ingress() {
    let ([plain, sealed], place) = (free_ports(), Place::new("ingress").unwrap());
    let (cert, key) = match certificate(&place) {
        Ok(made) => made,
        Err(reason) => return println!("NOT RUN: ingress: {reason}"),
    };
    let caller = format!(
        "[[ingress]]\nlisten = \"{plain}\"\n\n\
         [[ingress.route]]\nhosts = [\"shop.example.com\", \"*.shop.example.com\"]\n\
         path = \"/api\"\nservice = \"api\"\n\n\
         [[ingress.route]]\nhosts = [\"shop.example.com\"]\npath = \"/\"\nservice = \"pages\"\n\n\
         [[ingress]]\nlisten = \"{sealed}\"\n\
         tls = {{ certificate = \"{cert}\", key = \"{key}\" }}\n\n\
         [[ingress.route]]\nhosts = [\"*\"]\npath = \"/\"\nservice = \"api\"\n"
    );
    let (api, pages) = (mirror(), greeting_pages());
    let offers = vec![Offer::new("api", "http", api), Offer::new("pages", "http", pages)];
    let plan = Plan { offers, policy: String::new(), caller };
    let pair = Pair::start(place, &plan).unwrap_or_else(|e| panic!("no pair with an ingress: {e}"));
    let mut cases = Cases::new("ingress");
    let ask = |scheme: &str, port: u16, host: &str, path: &str, more: &[&str]| {
        let to = format!("{host}:{port}:127.0.0.1");
        let url = format!("{scheme}://{host}:{port}{path}");
        curl(&pair, &[&["--resolve", &to][..], more, &[&url]].concat())
    };
    let at = |host: &str, path: &str, more: &[&str]| ask("http", plain.port(), host, path, more);
    let has = |out: String, part: &str| {
        let found = out.to_ascii_lowercase().contains(part);
        if found { Ok(String::new()) } else { Err(format!("no {part:?} in {out}")) }
    };
    cases.check("host and path say which service", || {
        has(at("shop.example.com", "/api/one", &[])?, "get /api/one ")?;
        has(at("shop.example.com", "/other", &[])?, "a page")?;
        has(at("eu.shop.example.com", "/api", &[])?, "get /api ")
    });
    cases.check("a path that only begins alike is not the path", || {
        has(at("shop.example.com", "/apiary", &[])?, "a page")
    });
    cases.check("no other spelling of a path leads past its route", || {
        for path in ["/x/../api/one", "/%61pi/one", "/./api/one"] {
            has(at("shop.example.com", path, &["--path-as-is"])?, "get /api/one ")?;
        }
        Ok(String::new())
    });
    cases.check("a host that no route names is 404", || match at("elsewhere.example", "/", &[]) {
        Err(text) if text.contains("404") || text.contains("421") => Ok(String::new()),
        other => Err(format!("{other:?}")),
    });
    cases.check("what a client outside says about whom it forwards for is not believed", || {
        let more = ["-H", "X-Forwarded-For: 203.0.113.9", "-H", "X-Forwarded-Proto: https"];
        let out = at("shop.example.com", "/api/who", &more)?.to_ascii_lowercase();
        if out.contains("203.0.113.9") || out.contains("https") {
            return Err(out);
        }
        has(out, "x-forwarded-for: 127.0.0.1")
    });
    for version in ["--http1.1", "--http2"] {
        cases.check(&format!("over TLS, {version}, with its own certificate"), || {
            let more = ["--cacert", &cert, version];
            let out = ask("https", sealed.port(), "shop.example.com", "/sealed", &more)?;
            has(out.clone(), "get /sealed ")?;
            has(out, "x-forwarded-proto: https")
        });
    }
    cases.finish();
}

fn greeting_pages() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {
                    let _ =
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\na page\n");
                }
            });
        }
    });
    address
}
