//! Answers as programs read them, and a resolver that a test plays.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name};
use domain::rdata::{A, AllRecordData};
use hearth_proto::ids::ServiceName;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::answer::{Verdict, answer};
use super::forward::{read_message, write_message};
use super::*;
use crate::config::Resolvers;
use crate::link::tests::{free_port, loopback};

/// `ledger` has a port of its own, `beats` one for datagrams, `web` has none, `every` one at all addresses.
struct Fixed;

impl Directory for Fixed {
    fn find(&self, service: &ServiceName, over: Over) -> Found {
        match (service.as_str(), over) {
            ("ledger", Over::Tcp | Over::Either) => Found::At("127.0.10.1:8001".parse().unwrap()),
            ("six", _) => Found::At("[::1]:8006".parse().unwrap()),
            ("beats", Over::Udp | Over::Either) => Found::At("127.0.0.1:514".parse().unwrap()),
            ("every", Over::Either) => Found::At("0.0.0.0:8003".parse().unwrap()),
            ("ledger" | "beats" | "web" | "every", _) => Found::Nowhere,
            _ => Found::Unknown,
        }
    }
}

fn query(name: &str, asked: Rtype, edns: bool) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x4711);
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    let name: Name<Vec<u8>> = name.parse().unwrap();
    question.push((name, asked, Class::IN)).unwrap();
    let mut additional = question.additional();
    if edns {
        additional
            .opt(|opt| {
                opt.set_udp_payload_size(4096);
                Ok(())
            })
            .unwrap();
    }
    additional.finish()
}

/// A message in words: code, then records by section.
fn words(reply: &[u8]) -> String {
    let message = Message::from_octets(reply).unwrap();
    let section = |section: domain::base::message::RecordSection<'_, &[u8]>| {
        let one = |record: domain::base::ParsedRecord<'_, &[u8]>| {
            let owner = record.owner().to_string();
            let data = record.to_record::<AllRecordData<_, _>>().unwrap().unwrap();
            format!("{owner} {} {} {}", record.ttl().as_secs(), record.rtype(), data.data())
        };
        let all: Vec<_> = section
            .map(Result::unwrap)
            .filter(|record| record.rtype() != Rtype::OPT)
            .map(one)
            .collect();
        all.join("; ")
    };
    let (_, answers, authorities, additionals) = message.sections().unwrap();
    format!(
        "{} | {} | {} | {}",
        message.header().rcode(),
        section(answers),
        section(authorities),
        section(additionals)
    )
}

fn ask(name: &str, asked: Rtype) -> String {
    let address: IpAddr = "10.7.7.7".parse().unwrap();
    match answer(&query(name, asked, false), address, |s, o| Fixed.find(s, o)) {
        Verdict::Reply(reply, outcome) => {
            let message = Message::from_octets(&reply[..]).unwrap();
            assert_eq!((message.header().id(), message.header().aa()), (0x4711, true));
            assert!(reply.len() <= 512, "fits into every datagram");
            format!("{outcome} {}", words(&reply))
        }
        other => format!("{other:?}"),
    }
}

const SOA: &str = "mesh 5 SOA mesh. mesh. 1 5 5 5 5";

#[test]
fn a_service_stands_for_its_own_port() {
    assert_eq!(ask("ledger.mesh", Rtype::A), "answered NOERROR | ledger.mesh 5 A 127.0.10.1 |  | ");
    assert_eq!(
        ask("Ledger.MESH", Rtype::A),
        "answered NOERROR | Ledger.MESH 5 A 127.0.10.1 |  | ",
        "the name comes back in the case it was asked in"
    );
    assert_eq!(ask("six.mesh", Rtype::AAAA), "answered NOERROR | six.mesh 5 AAAA ::1 |  | ");
    assert_eq!(
        ask("ledger.mesh", Rtype::SRV),
        "answered NOERROR | ledger.mesh 5 SRV 0 0 8001 ledger.mesh |  | ledger.mesh 5 A 127.0.10.1"
    );
    assert_eq!(
        ask("_http._tcp.ledger.mesh", Rtype::SRV),
        "answered NOERROR | _http._tcp.ledger.mesh 5 SRV 0 0 8001 ledger.mesh |  | ledger.mesh 5 A \
         127.0.10.1"
    );
    assert_eq!(
        ask("_syslog._udp.beats.mesh", Rtype::SRV),
        "answered NOERROR | _syslog._udp.beats.mesh 5 SRV 0 0 514 beats.mesh |  | beats.mesh 5 A \
         127.0.0.1"
    );
}

#[test]
fn a_port_at_all_addresses_is_answered_with_the_configured_one() {
    assert_eq!(ask("every.mesh", Rtype::A), "answered NOERROR | every.mesh 5 A 10.7.7.7 |  | ");
}

#[test]
fn a_known_name_without_what_is_asked_for_has_no_data_and_an_unknown_one_does_not_exist() {
    for (name, asked) in [
        ("ledger.mesh", Rtype::AAAA),
        ("ledger.mesh", Rtype::TXT),
        ("web.mesh", Rtype::A),
        ("_x._udp.ledger.mesh", Rtype::SRV),
        ("_http._tcp.ledger.mesh", Rtype::A),
        ("_tcp.ledger.mesh", Rtype::A),
        ("mesh", Rtype::A),
    ] {
        assert_eq!(ask(name, asked), format!("no_data NOERROR |  | {SOA} | "), "{name} {asked}");
    }
    for name in ["nobody.mesh", "a.ledger.mesh", "_http._tcp.nobody.mesh", "a_b.mesh", "x.y.z.mesh"]
    {
        assert_eq!(ask(name, Rtype::A), format!("no_name NXDOMAIN |  | {SOA} | "), "{name}");
    }
    assert_eq!(ask("mesh", Rtype::SOA), format!("answered NOERROR | {SOA} |  | "));
}

#[test]
fn other_zones_are_not_ours_and_answers_are_not_questions() {
    for name in ["example.com", "mesh.example.com", ".", "ledger.meshes", "10.in-addr.arpa"] {
        assert_eq!(ask(name, Rtype::A), "Forward", "{name}");
    }
    let at = "127.0.0.1".parse().unwrap();
    let find = |s: &ServiceName, o| Fixed.find(s, o);
    let mut reply = query("ledger.mesh", Rtype::A, false);
    reply[2] |= 0x80;
    assert_eq!(answer(&reply, at, find), Verdict::Ignore);
    assert_eq!(answer(b"short", at, find), Verdict::Ignore);
}

#[test]
fn what_is_no_plain_question_is_told_so() {
    let at = "127.0.0.1".parse().unwrap();
    let code = |query: &[u8]| match answer(query, at, |s, o| Fixed.find(s, o)) {
        Verdict::Reply(reply, "wrong") => words(&reply).split(' ').next().unwrap().to_owned(),
        other => format!("{other:?}"),
    };
    let mut update = query("ledger.mesh", Rtype::A, false);
    update[2] |= 5 << 3;
    assert_eq!(code(&update), "NOTIMP");
    let mut none = query("ledger.mesh", Rtype::A, false);
    none[5] = 0;
    assert_eq!(code(&none), "FORMERR");
    let mut two = query("ledger.mesh", Rtype::A, false);
    two[5] = 2;
    assert_eq!(code(&two), "FORMERR");
    let mut chaos = query("ledger.mesh", Rtype::A, false);
    let last = chaos.len() - 1;
    chaos[last] = 3;
    assert_eq!(code(&chaos), "REFUSED");
}

#[test]
fn edns_is_answered_with_edns() {
    let asked = query("ledger.mesh", Rtype::A, true);
    let at = "127.0.0.1".parse().unwrap();
    let find = |s: &ServiceName, o| Fixed.find(s, o);
    let Verdict::Reply(reply, _) = answer(&asked, at, find) else { panic!() };
    let message = Message::from_octets(&reply[..]).unwrap();
    assert_eq!(message.opt().unwrap().udp_payload_size(), 1232);
    let mut newer = asked.clone();
    // The OPT record ends the message: owner, type, size, extended code, version, flags, length.
    let version = newer.len() - 5;
    newer[version] = 1;
    let Verdict::Reply(reply, "wrong") = answer(&newer, at, find) else { panic!() };
    let message = Message::from_octets(&reply[..]).unwrap();
    assert_eq!(message.opt().unwrap().rcode(message.header()).to_int(), 16, "BADVERS");
}

#[test]
fn no_bytes_make_it_panic() {
    let good = query("_http._tcp.ledger.mesh", Rtype::SRV, true);
    let at = "127.0.0.1".parse().unwrap();
    for i in 0..good.len() {
        for value in [0, 1, 0x3f, 0x40, 0xc0, 0xff] {
            let mut bad = good.clone();
            bad[i] = value;
            let _ = answer(&bad, at, |s, o| Fixed.find(s, o));
            let _ = answer(&bad[..i], at, |s, o| Fixed.find(s, o));
        }
    }
}

/// What a played resolver does with the questions it gets, one after the other.
type Script = Arc<dyn Fn(usize, &[u8]) -> Vec<Vec<u8>> + Send + Sync>;

/// A resolver on UDP and TCP; counts what it is asked.
async fn resolver(script: Script) -> (SocketAddr, Arc<AtomicUsize>) {
    let address = loopback(free_port());
    let udp = UdpSocket::bind(address).await.unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let (by_udp, by_tcp) = ((script.clone(), asked.clone()), (script, asked.clone()));
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (n, from) = udp.recv_from(&mut buffer).await.unwrap();
            let turn = by_udp.1.fetch_add(1, Ordering::SeqCst);
            for reply in by_udp.0(turn, &buffer[..n]) {
                udp.send_to(&reply, from).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let mut stream = tcp.accept().await.unwrap().0;
            let query = read_message(&mut stream).await.unwrap();
            let turn = by_tcp.1.fetch_add(1, Ordering::SeqCst);
            for reply in by_tcp.0(turn, &query) {
                write_message(&mut stream, &reply).await.unwrap();
            }
        }
    });
    (address, asked)
}

fn reply_to(query: &[u8], rcode: Rcode, ip: [u8; 4]) -> Vec<u8> {
    let message = Message::from_octets(query).unwrap();
    let name = message.sole_question().unwrap().into_qname();
    let mut answer = MessageBuilder::new_vec().start_answer(&message, rcode).unwrap();
    if rcode == Rcode::NOERROR {
        answer.push((name, 60u32, A::from(std::net::Ipv4Addr::from(ip)))).unwrap();
    }
    answer.finish()
}

async fn server(resolvers: Vec<SocketAddr>) -> (Server, DnsMetrics) {
    let config = Dns {
        listen: "127.0.0.1:0".parse().unwrap(),
        address: "127.0.0.1".parse().unwrap(),
        resolvers: Resolvers::These(resolvers),
    };
    let metrics = DnsMetrics::default();
    let server = Server::start(&config, Fixed, metrics.clone(), &Handle::current()).unwrap();
    (server, metrics)
}

async fn by_udp(server: SocketAddr, query: &[u8]) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(query).await.unwrap();
    let mut buffer = [0; 2048];
    let n = tokio::time::timeout(Duration::from_secs(20), socket.recv(&mut buffer)).await;
    let reply = &buffer[..n.expect("an answer in time").unwrap()];
    assert_eq!(reply[..2], query[..2], "the program's own id");
    words(reply)
}

async fn by_tcp(server: SocketAddr, query: &[u8]) -> String {
    let mut stream = TcpStream::connect(server).await.unwrap();
    write_message(&mut stream, query).await.unwrap();
    words(&read_message(&mut stream).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_kinds_of_socket_answer_for_the_mesh_and_forward_the_rest() {
    let script: Script = Arc::new(|_, query| vec![reply_to(query, Rcode::NOERROR, [1, 2, 3, 4])]);
    let (resolver, asked) = resolver(script).await;
    let (server, metrics) = server(vec![resolver]).await;
    let ours = query("ledger.mesh", Rtype::A, true);
    let theirs = query("example.com", Rtype::A, true);
    for reply in [by_udp(server.bound(), &ours).await, by_tcp(server.bound(), &ours).await] {
        assert_eq!(reply, "NOERROR | ledger.mesh 5 A 127.0.10.1 |  | ");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "nothing of ours leaves");
    for reply in [by_udp(server.bound(), &theirs).await, by_tcp(server.bound(), &theirs).await] {
        assert_eq!(reply, "NOERROR | example.com 60 A 1.2.3.4 |  | ");
    }
    let counted = |outcome| metrics.questions.get_or_create(&[("outcome", outcome)]).get();
    assert_eq!((counted("answered"), counted("forwarded"), counted("unforwarded")), (2, 2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_answer_is_not_believed_and_the_right_one_is() {
    let script: Script = Arc::new(|_, query| {
        let right = reply_to(query, Rcode::NOERROR, [1, 2, 3, 4]);
        let mut other_id = reply_to(query, Rcode::NOERROR, [6, 6, 6, 6]);
        other_id[0] ^= 0xff;
        let mut other_name = reply_to(query, Rcode::NOERROR, [6, 6, 6, 6]);
        other_name[13] = b'x';
        let mut no_answer = right.clone();
        no_answer[2] &= 0x7f;
        vec![other_id, other_name, no_answer, vec![0; 3], right]
    });
    let (resolver, _) = resolver(script).await;
    let (server, _) = server(vec![resolver]).await;
    let reply = by_udp(server.bound(), &query("example.com", Rtype::A, false)).await;
    assert_eq!(reply, "NOERROR | example.com 60 A 1.2.3.4 |  | ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_datagram_is_asked_for_again_and_a_failing_resolver_is_passed_over() {
    let lossy: Script = Arc::new(|turn, query| match turn {
        0 => Vec::new(),
        _ => vec![reply_to(query, Rcode::NOERROR, [1, 2, 3, 4])],
    });
    let (lossy, asked) = resolver(lossy).await;
    let failing: Script = Arc::new(|_, query| vec![reply_to(query, Rcode::SERVFAIL, [0; 4])]);
    let (failing, _) = resolver(failing).await;
    let (server, _) = server(vec![failing, lossy]).await;
    let reply = by_udp(server.bound(), &query("example.com", Rtype::A, false)).await;
    assert_eq!(reply, "NOERROR | example.com 60 A 1.2.3.4 |  | ");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_answers_is_a_failure_and_not_silence() {
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (broken, metrics) = server(vec![closed]).await;
    let theirs = query("example.com", Rtype::A, false);
    assert_eq!(by_udp(broken.bound(), &theirs).await, "SERVFAIL |  |  | ");
    assert_eq!(metrics.questions.get_or_create(&[("outcome", "unforwarded")]).get(), 1);
    let (closed, _) = server(Vec::new()).await;
    assert_eq!(by_udp(closed.bound(), &theirs).await, "REFUSED |  |  | ");
    let (circle, _) = server(Vec::new()).await;
    let mut config = Dns::clone(&circle.shared.config.load());
    config.resolvers = Resolvers::These(vec![circle.bound()]);
    circle.reconfigure(config);
    assert_eq!(by_udp(circle.bound(), &theirs).await, "REFUSED |  |  | ", "never to ourselves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_told_with_its_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let _held = UdpSocket::bind(taken).await.unwrap();
    let config = Dns {
        listen: taken,
        address: "127.0.0.1".parse().unwrap(),
        resolvers: Resolvers::These(Vec::new()),
    };
    let told = Server::start(&config, Fixed, DnsMetrics::default(), &Handle::current());
    let told = told.err().expect("it cannot start").to_string();
    let expected = format!("cannot listen on {taken} (udp) for dns.listen: Address already in use");
    assert!(told.starts_with(&expected), "{told}");
}
