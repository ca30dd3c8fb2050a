//! Tests of the lab itself: a fault that is not what it claims to be would make every figure a lie.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use hearth_agent::config::Config;
use hearth_tests::lab::control::Control;
use hearth_tests::lab::entry::{Access, access, in_lab};
use hearth_tests::lab::spec::AgentSpec;
use hearth_tests::lab::wait::wait_for;
use hearth_tests::lab::web::{Kind, Web};
use hearth_tests::lab::{Host, Lab, Link, Way, Weather};
use hearth_tests::load::{Load, LoadSpec};
use hearth_tests::otlp::{Receiver, tree};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as WireSpan};
use tonic::transport::Endpoint;

const SOON: Duration = Duration::from_secs(10);

/// Echoes datagrams on `host` at port 7 for as long as the process lives.
fn echo(host: &Host) {
    let (at, (ready, is_ready)) = (host.at(7), channel());
    let body = move || {
        let socket = UdpSocket::bind(at).unwrap();
        ready.send(()).unwrap();
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    };
    host.space().thread("echo", body).unwrap();
    is_ready.recv_timeout(SOON).unwrap();
}

/// One datagram from `host` to the echo at `to`: round-trip time, or what the kernel said.
fn ping(host: &Host, to: SocketAddr, within: Duration) -> std::io::Result<Duration> {
    host.space()
        .call(move || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(within))?;
            let sent = Instant::now();
            socket.send(b"ping")?;
            socket.recv(&mut [0; 16]).map(|_| sent.elapsed())
        })
        .unwrap()
}

fn silent(result: std::io::Result<Duration>) -> bool {
    matches!(result, Err(e) if e.kind() == ErrorKind::WouldBlock)
}

/// How often the host's kernel was told "no": ICMP errors and TCP resets that came in.
fn refusals(host: &Host) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let text = host.space().call(read).unwrap();
    let value = |protocol: &str, field: &str| -> u64 {
        let mut lines = text.lines().filter(|l| l.starts_with(protocol));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let position = names.split(' ').position(|name| name == field).unwrap();
        values.split(' ').nth(position).unwrap().parse().unwrap()
    };
    value("Icmp:", "InDestUnreachs") + value("Tcp:", "EstabResets") + value("Tcp:", "AttemptFails")
}

#[test]
fn hosts_reach_each_other_and_nothing_else() {
    in_lab(|lab| {
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        echo(&b);
        ping(&a, b.at(7), SOON).unwrap();
        // No route out: the machine's own network is not there.
        let outside: SocketAddr = "192.0.2.1:9".parse().unwrap();
        let error = ping(&a, outside, SOON).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
    });
}

#[test]
fn a_black_hole_tells_nobody_and_heals() {
    in_lab(|lab| {
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        echo(&b);
        // A closed port of a healthy host says so: the contrast.
        let closed = ping(&a, b.at(9), SOON).unwrap_err();
        assert_eq!(closed.kind(), ErrorKind::ConnectionRefused);
        let at = b.at(80);
        let listener = b.space().call(move || TcpListener::bind(at)).unwrap();
        let listener = listener.unwrap();
        let connect = move || TcpStream::connect_timeout(&at, Duration::from_millis(400));
        let mut open = a.space().call(connect).unwrap().unwrap();
        let (mut accepted, _) = listener.accept().unwrap();

        let (of_a, of_b) = (refusals(&a), refusals(&b));
        b.black_hole().unwrap();
        assert!(silent(ping(&a, b.at(7), Duration::from_millis(300))));
        assert!(silent(ping(&a, b.at(9), Duration::from_millis(300))));
        assert!(silent(ping(&b, a.at(9), Duration::from_millis(300))));
        let refused = a.space().call(connect).unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::TimedOut, "{refused}");
        // The open connection swallows what is written and says nothing.
        open.write_all(b"hello").unwrap();
        open.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let nothing = open.read(&mut [0; 8]).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        assert_eq!((refusals(&a), refusals(&b)), (of_a, of_b));

        b.heal().unwrap();
        ping(&a, b.at(7), SOON).unwrap();
        // TCP sends again what was lost.
        accepted.set_read_timeout(Some(SOON)).unwrap();
        let mut heard = [0; 5];
        accepted.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    });
}

#[test]
fn a_black_hole_stays_silent_longer_than_a_neighbour_entry_lives() {
    in_lab(|lab| {
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        echo(&b);
        b.black_hole().unwrap();
        // Address resolution gives up after 3 s and would answer "no route to host".
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            let answer = ping(&a, b.at(7), Duration::from_millis(200));
            assert!(silent(answer), "after {:?}", start.elapsed());
        }
    });
}

#[test]
fn a_one_way_fault_lets_the_other_way_through() {
    in_lab(|lab| {
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let heard = |from: &Host, to: &Host| {
            let at = to.at(5000);
            let socket = to.space().call(move || UdpSocket::bind(at)).unwrap().unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let send = move || UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", at);
            from.space().call(send).unwrap().unwrap();
            socket.recv(&mut [0; 8]).is_ok()
        };
        assert!(heard(&a, &b) && heard(&b, &a));
        b.one_way(Way::In).unwrap();
        assert!(!heard(&a, &b) && heard(&b, &a));
        b.heal().unwrap();
        b.one_way(Way::Out).unwrap();
        assert!(heard(&a, &b) && !heard(&b, &a));
    });
}

#[test]
fn a_cut_parts_two_hosts_and_no_others() {
    in_lab(|lab| {
        let [a, b, c] = ["a", "b", "c"].map(|name| lab.host(name).unwrap());
        echo(&b);
        a.cut_from(&b).unwrap();
        assert!(silent(ping(&a, b.at(7), Duration::from_millis(300))));
        ping(&c, b.at(7), SOON).unwrap();
        b.heal().unwrap();
        ping(&a, b.at(7), SOON).unwrap();
    });
}

#[test]
fn loss_is_what_was_asked_for() {
    in_lab(|lab| {
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let to = b.at(5000);
        let socket = b.space().call(move || UdpSocket::bind(to)).unwrap().unwrap();
        b.loss(30.0).unwrap();
        const SENT: u32 = 2000;
        let send = move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for burst in 0..SENT / 50 {
                for _ in 0..50 {
                    socket.send_to(&burst.to_be_bytes(), to).unwrap();
                }
                // Room for the receiver: the loss is to be the link's.
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let sender = a.space().thread("sender", send).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let got = std::iter::from_fn(|| socket.recv(&mut [0; 8]).ok()).count();
        sender.join().unwrap();
        let lost = 100.0 - 100.0 * got as f64 / f64::from(SENT);
        // Six standard deviations of 2,000 throws are 6 points.
        assert!((24.0..36.0).contains(&lost), "lost {lost:.1} %");
    });
}

#[test]
fn a_relayed_link_delays_both_ways_and_carries_tcp() {
    in_lab(|lab| {
        let a = lab.host("a").unwrap();
        let b = match lab.host_on("b", Link::Relay) {
            Ok(host) => host,
            Err(error) => return println!("NOT RUN: no TAP device to be had: {error}"),
        };
        echo(&b);
        let near = ping(&a, b.at(7), SOON).unwrap();
        let delay = Duration::from_millis(40);
        b.weather(Weather { delay, ..Weather::default() }).unwrap();
        let far = ping(&a, b.at(7), SOON).unwrap();
        assert!(far >= 2 * delay && far < 3 * delay + near, "{far:?}");
        let refused = a.weather(Weather::default()).unwrap_err().to_string();
        assert!(refused.contains("Link::Relay"), "{refused}");

        let web = Web::start(&b, Kind::App).unwrap();
        assert_eq!(web.ask("GET", "/").unwrap().0, 200);
        let rough = Weather {
            delay: Duration::from_millis(1),
            jitter: Duration::from_millis(1),
            reorder: 0.1,
            duplicate: 0.1,
        };
        b.weather(rough).unwrap();
        // 1 MB over a link that reorders and duplicates arrives whole.
        let at = b.at(80);
        let listener = b.space().call(move || TcpListener::bind(at)).unwrap().unwrap();
        let send = move || {
            let mut stream = TcpStream::connect(at).unwrap();
            stream.write_all(&vec![7; 1 << 20]).unwrap();
        };
        let sender = a.space().thread("sender", send).unwrap();
        let mut all = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
        sender.join().unwrap();
        assert!(all.len() == 1 << 20 && all.iter().all(|&byte| byte == 7));
    });
}

#[test]
fn a_rate_limit_slows_a_transfer_down() {
    in_lab(|lab| {
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let at = b.at(80);
        let listener = b.space().call(move || TcpListener::bind(at)).unwrap().unwrap();
        let transfer = || {
            let send = move || {
                let mut stream = TcpStream::connect(at).unwrap();
                stream.write_all(&vec![0; 512 << 10]).unwrap();
            };
            let start = Instant::now();
            let sender = a.space().thread("sender", send).unwrap();
            listener.accept().unwrap().0.read_to_end(&mut Vec::new()).unwrap();
            sender.join().unwrap();
            start.elapsed()
        };
        b.rate(4096).unwrap();
        let slow = transfer(); // 4.2 Mbit at 4 Mbit/s
        b.heal().unwrap();
        let fast = transfer();
        assert!(slow > Duration::from_millis(700), "{slow:?}");
        assert!(fast < slow / 3, "{fast:?} against {slow:?}");
    });
}

#[test]
fn an_open_loop_sees_every_request_of_a_stall() {
    in_lab(|lab| {
        let host = lab.host("a").unwrap();
        let web = Web::start(&host, Kind::best()).unwrap();
        let load = Load::start(&host, LoadSpec::new("127.0.0.1:9000".parse().unwrap())).unwrap();
        let sent = |n: usize| {
            wait_for("requests", SOON, || match load.samples().len() {
                got if got >= n => Ok(()),
                got => Err(got.to_string()),
            })
        };
        sent(250).unwrap();
        let mark = load.mark();
        host.freeze().unwrap();
        std::thread::sleep(Duration::from_millis(500)); // The length of the fault.
        host.thaw().unwrap();
        sent(1000).unwrap();
        let phase = load.since(mark);
        assert_eq!(phase.failed, 0, "{phase:?}");
        assert_eq!(phase.served.keys().collect::<Vec<_>>(), ["a"]);
        // 400 ms of the stall's 500 are over the limit, at 2 ms a request.
        assert!((180..260).contains(&phase.over_100_ms), "{phase:?}");
        assert!((450.0..700.0).contains(&phase.slowest_ms), "{phase:?}");
        assert!((400.0..700.0).contains(&phase.normal_after_ms), "{phase:?}");

        let mark = load.mark();
        web.process().kill().unwrap();
        wait_for("failures", SOON, || match load.since(mark).failed {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        })
        .unwrap();
        let samples = load.finish();
        let rate = samples.len() as f64 / samples.last().unwrap().ended().as_secs_f64();
        assert!((450.0..510.0).contains(&rate), "{rate} a second");
    });
}

#[test]
fn the_application_is_activated_once_and_remembers_what_it_executed() {
    in_lab(|lab| {
        let host = lab.host("a").unwrap();
        let activate = Duration::from_millis(300);
        let web = Web::start(&host, Kind::Warm { activate }).unwrap();
        assert_eq!(web.ask("GET", "/healthz").unwrap().0, 503);
        assert_eq!(web.ask("GET", "/").unwrap().0, 503);
        let start = Instant::now();
        assert_eq!(web.ask("POST", "/activate").unwrap().0, 200);
        assert!(start.elapsed() >= activate);
        let (status, body) = web.ask("GET", "/").unwrap();
        assert_eq!((status, body.len()), (200, 1024));
        assert!(body.starts_with("a\n"));
        for id in ["x", "y", "x"] {
            web.ask("POST", &format!("/once?id={id}")).unwrap();
        }
        let (_, report) = web.ask("GET", "/executed").unwrap();
        assert_eq!(report, r#"{"x":2,"y":1}"#);
        web.ask("POST", "/deactivate").unwrap();
        assert_eq!(web.ask("GET", "/healthz").unwrap().0, 503);
    });
}

#[test]
fn the_receiver_decodes_spans_sent_from_another_host() {
    in_lab(|lab| {
        let (sender, collector) = (lab.host("a").unwrap(), lab.host("otlp").unwrap());
        let receiver = Receiver::start(&collector).unwrap();
        let wire = |name: &str, id: u8, parent: Vec<u8>| WireSpan {
            trace_id: vec![0xab; 16],
            span_id: vec![id; 8],
            parent_span_id: parent,
            name: name.to_owned(),
            start_time_unix_nano: 1_000_000 * u64::from(id),
            end_time_unix_nano: 9_000_000,
            ..WireSpan::default()
        };
        let scope = ScopeSpans {
            spans: vec![wire("failover", 1, Vec::new()), wire("detect", 2, vec![1; 8])],
            ..ScopeSpans::default()
        };
        let batch = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
        let request = ExportTraceServiceRequest { resource_spans: vec![batch] };
        let channel = Endpoint::from_shared(receiver.url()).unwrap();
        let export = move || async move {
            let channel = channel.connect().await.unwrap();
            TraceServiceClient::new(channel).export(request).await.unwrap();
        };
        sender.run_async("exporter", export).unwrap().join().unwrap();
        let spans = receiver.trace(&"ab".repeat(16));
        let names: Vec<_> = spans.iter().map(|s| (s.name.as_str(), s.parent.as_str())).collect();
        assert_eq!(names, [("failover", ""), ("detect", "0101010101010101")]);
        assert_eq!(tree::draw(&spans).lines().count(), 2);
    });
}

#[test]
fn the_agents_own_parser_reads_what_the_lab_writes() {
    in_lab(|lab| {
        let host = lab.host("hot-1").unwrap();
        let nothing = "A".repeat(43); // 32 zero bytes
        let token = format!("hearth1.{nothing}.{nothing}");
        let spec = AgentSpec::new(&host)
            .seeds(&[host.at(7940)])
            .join(host.at(7945), &token)
            .upstream("books", 8001)
            .hot("ledger", 9000)
            .warm("stocks", 9001, 3)
            .otlp("http://10.77.1.9:4317");
        let parsed = Config::parse("agent.toml", &spec.text(), []);
        assert!(parsed.is_ok(), "{}\n{}", parsed.err().unwrap(), spec.text());
    });
}

#[test]
fn a_control_plane_is_made_killed_and_started_again() {
    in_lab(|lab| {
        let control = Control::init(&lab.host("control").unwrap()).unwrap();
        let (one, two) = (control.token("web-1").unwrap(), control.token("web-2").unwrap());
        assert!(one.starts_with("hearth1.") && one != two);
        assert!(control.ca().unwrap().is_file());
        control.serve().unwrap();
        control.kill().unwrap();
        assert!(!control.process().unwrap().running());
        control.serve().unwrap();
    });
}

#[test]
fn a_dropped_lab_leaves_neither_process_nor_directory() {
    in_lab(|_turn| {
        let lab = Lab::new().unwrap();
        let host = lab.host("a").unwrap();
        let process = Web::start(&host, Kind::App).unwrap().process();
        let (pid, dir) = (process.pid(), lab.dir().to_path_buf());
        host.freeze().unwrap(); // A stopped process must die too.
        drop((process, host, lab));
        assert!(!alive(pid), "process {pid} is still there");
        assert!(!dir.exists() || std::env::var_os("HEARTH_LAB_KEEP").is_some());
    });
}

#[test]
fn a_killed_driver_leaves_nothing_running() {
    in_lab(|_turn| {
        let mut driver = Command::new(std::env::current_exe().unwrap())
            .args(["driver_to_be_killed", "--exact", "--ignored", "--nocapture"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = String::new();
        let mut out = driver.stdout.take().unwrap();
        while !text.contains("ready") {
            let mut buffer = [0; 256];
            let length = out.read(&mut buffer).unwrap();
            assert!(length > 0, "the driver ended early: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        let pids: Vec<i32> = text
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("pid=")?.parse().ok())
            .collect();
        assert_eq!(pids.len(), 2, "{text}");
        assert!(pids.iter().all(|&pid| alive(pid)));
        driver.kill().unwrap();
        driver.wait().unwrap();
        wait_for("its processes to be gone", SOON, || {
            let left: Vec<_> = pids.iter().filter(|&&pid| alive(pid)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .unwrap();
    });
}

/// Not a test: the driver that the test above kills.
#[test]
#[ignore = "started by a_killed_driver_leaves_nothing_running"]
fn driver_to_be_killed() {
    if access() != Access::Here {
        return;
    }
    let lab = Lab::new().unwrap();
    let host = lab.host("a").unwrap();
    let other = lab.host("b").unwrap();
    let (one, two) = (Web::start(&host, Kind::App), Web::start(&other, Kind::best()));
    let (one, two) = (one.unwrap(), two.unwrap());
    other.freeze().unwrap();
    let pids = (one.process().pid(), two.process().pid());
    println!("pid={} pid={} ready", pids.0, pids.1);
    std::thread::park();
}

/// True while a process exists and is not merely waiting to be reaped.
fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|s| s.trim().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}
