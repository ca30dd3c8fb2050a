//! Requests through a third agent: `a` has lost its own path to `b`, both are linked with `c`.
//!
//! What the cores would decide is said by the tests: `a`'s wish and route, and whether `c` may.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hearth_proto::evidence::{Standing, Why};
use hearth_proto::ids::NodeName;
use hearth_proto::node::{RelayInput, RelayWish};
use hearth_proto::policy::{Caller, ServicePolicy};
use hearth_proto::relay::Refusal;
use hearth_proto::route::{Candidate, Choice};
use hearth_proto::time::Time;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::mesh::{App, Host, Reply, get, plain, relayed, send};
use crate::driver::PathReport;
use crate::identity::authority::Authority;
use crate::link::tests::{Relay, healthy, loopback, name, until};
use crate::link::{LinkEvent, LinkHealth};
use crate::proxy::frame::{Cause, Frame, Frames, relay};

/// Far above what it takes, for busy machines.
const AT_ONCE: Duration = Duration::from_secs(2);

struct Three {
    authority: Authority,
    a: Host,
    b: Host,
    c: Host,
    app: App,
    path: Relay,
}

/// `a` with a silent link to `b`, and `c`.
async fn three() -> Three {
    let authority = Authority::new("mesh.example");
    let app = App::start("b").await;
    let a = Host::start(&authority, "a", None).await;
    let c = Host::start(&authority, "c", None).await;
    // TCP does not pass there at all.
    let (b, path) = relayed(&authority, "b", &app).await;
    a.route(&[("b", path.address)], plain());
    assert_eq!(get(a.upstream, "/").await.status, 200);
    healthy(&a.agent, &name("b"), LinkHealth::Up).await;
    Three { authority, a, b, c, app, path }
}

impl Three {
    /// Cuts the path of `a` to `b`.
    async fn cut(&self) {
        self.path.cut();
        self.a.agent.links.probe(&name("b"), self.path.address);
        healthy(&self.a.agent, &name("b"), LinkHealth::Silent).await;
    }

    /// What the core of `c` says from now on to who asks for a way to `b`.
    fn permit(&mut self, answer: Result<SocketAddr, Refusal>) {
        let mut reports = std::mem::replace(&mut self.c.reports, mpsc::channel(1).1);
        tokio::spawn(async move {
            while let Some(report) = reports.recv().await {
                if let PathReport::MayRelay { from, to, answer: asked } = report {
                    assert_eq!((from, to), (name("a"), name("b")));
                    let _ = asked.send(answer);
                }
            }
        });
    }

    fn wish(&self) -> RelayWish {
        RelayWish { to: name("b"), via: name("c"), address: self.c.agent.address }
    }

    /// `a` wishes for a relay; what becomes of it.
    async fn wished(&mut self) -> RelayInput {
        self.a.agent.links.relay(vec![self.wish()]);
        self.told().await
    }

    async fn told(&mut self) -> RelayInput {
        let wish = self.wish();
        let told = |event| match event {
            LinkEvent::Relay { wish: of, input } => {
                assert_eq!(of, wish);
                Some(input)
            }
            _ => None,
        };
        self.a.agent.expect("word of the relay", told).await
    }

    /// `a`'s requests go through `c`.
    fn route_through(&self, policy: ServicePolicy) {
        self.a.choose(&[("b", self.path.address)], policy.clone(), Choice::Relay);
        let through = |c: Candidate| Candidate {
            standing: Standing::Doubtful(Why::Silent { since: Time(1) }),
            via: Some(name("c")),
            ..c
        };
        let candidates = self.a.candidates().into_iter().map(through).collect();
        self.a.put(candidates, policy, Choice::Relay);
    }

    /// Cut, asked for and used.
    async fn relaying(address: impl Fn(&Self) -> SocketAddr) -> Self {
        let mut three = three().await;
        three.cut().await;
        let address = address(&three);
        three.permit(Ok(address));
        assert_eq!(three.wished().await, RelayInput::Up);
        three.route_through(plain());
        three
    }

    fn refused(&self, reason: &'static str) -> u64 {
        self.c.metrics.relay_refusals.get_or_create(&[("reason", reason)]).get()
    }
}

fn direct(three: &Three) -> SocketAddr {
    three.b.agent.address
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(AT_ONCE * 5, future).await.unwrap_or_else(|_| panic!("waited for {what}"))
}

/// Sends a request and waits until the application has it.
async fn under_way(
    three: &Three,
    method: Method,
    path: &'static str,
) -> tokio::task::JoinHandle<Reply> {
    let (to, seen) = (three.a.upstream, three.app.seen());
    let call = tokio::spawn(async move { send(to, method, path, &[], "x").await });
    until("the request to arrive", || match three.app.seen() {
        n if n > seen => Ok(()),
        n => Err(n),
    })
    .await;
    call
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_through_a_third_agent_and_the_own_path_stays_as_silent_as_it_is() {
    let three = Three::relaying(direct).await;
    for _ in 0..20 {
        let reply = get(three.a.upstream, "/").await;
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"b"[..]));
    }
    let large = vec![7; 3_000_000];
    let reply = send(three.a.upstream, Method::POST, "/echo", &[], large.clone()).await;
    assert!(reply.status == 200 && reply.body == large, "{}", reply.status);
    let sent = three.a.agent.metrics.relayed.get();
    assert!(sent >= 21, "{sent} went through the relay");
    assert_eq!(three.c.metrics.relayed.get(), 1, "all of them on one stream");
    assert_eq!(three.c.metrics.relay_streams.get(), 1);
    assert!(three.a.agent.links.health(&name("b")).borrow().is_silent());
    let views = three.a.agent.links.views();
    let view = views.iter().find(|v| v.node == name("b")).unwrap();
    assert_eq!((view.state.as_str(), &view.via), ("silent", &Some(name("c"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_lets_in_whom_the_certificate_names_and_not_the_relay() {
    let three = Three::relaying(direct).await;
    let only = |who: &str| ServicePolicy { allow: vec![Caller::Node(name(who))], ..plain() };
    three.b.route(&[], only("a"));
    assert_eq!(get(three.a.upstream, "/").await.status, 200);
    three.b.route(&[], only("c"));
    assert_eq!(get(three.a.upstream, "/").await.status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_leads_to_somebody_else_is_no_way() {
    let mut three = three().await;
    let other = Host::start(&three.authority, "d", None).await;
    three.cut().await;
    three.permit(Ok(other.agent.address));
    let told = three.wished().await;
    let RelayInput::Down(why) = told else { panic!("{told:?}") };
    assert!(why.contains("node/d"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_agent_that_refuses_says_why() {
    let mut three = three().await;
    three.permit(Err(Refusal::Policy));
    let told = three.wished().await;
    let said = format!("c does not relay: {}", Refusal::Policy);
    assert_eq!(told, RelayInput::Down(said));
    assert_eq!(three.refused("policy"), 1);
    three.c.proxy.relay_for_others(false);
    let told = three.wished().await;
    assert_eq!(told, RelayInput::Down(format!("c does not relay: {}", Refusal::Unwilling)));
    assert_eq!(three.refused("unwilling"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_the_relay_cannot_reach_is_no_way() {
    let mut three = three().await;
    three.permit(Ok(loopback(9)));
    let told = three.wished().await;
    let said = format!("c does not relay: {}", Refusal::Unreachable);
    assert_eq!(told, RelayInput::Down(said));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_goes_ends_what_is_under_way_and_says_that_its_fate_is_unknown() {
    let mut three = Three::relaying(direct).await;
    let call = under_way(&three, Method::POST, "/hang").await;
    three.c.agent.links.close().await;
    let gone = Instant::now();
    let reply = in_time("the answer", call).await.unwrap();
    assert!(gone.elapsed() < AT_ONCE, "told after {:?}", gone.elapsed());
    assert_eq!(reply.status, 502);
    let told = reply.headers["proxy-status"].to_str().unwrap();
    assert!(told.contains("connection_terminated"), "{told}");
    assert!(matches!(three.told().await, RelayInput::Down(_)));
    assert_eq!(three.app.seen(), 2, "the first request and the one that was lost");
}

/// Lets TCP through to `to` until it is told to hold what comes, without a word.
async fn stalling(to: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let ((near_read, near_write), (far_read, far_write)) =
                (near.into_split(), far.into_split());
            tokio::spawn(pass(near_read, far_write, stopped.clone()));
            tokio::spawn(pass(far_read, near_write, stopped.clone()));
        }
    });
    (address, stop)
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    stopped: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        if *stopped.borrow() {
            return std::future::pending().await;
        }
        if to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_goes_quiet_is_sensed_by_the_lane_itself_and_requests_on_it_are_told() {
    let mut three = three().await;
    let (address, stop) = stalling(three.b.agent.address).await;
    three.cut().await;
    three.permit(Ok(address));
    assert_eq!(three.wished().await, RelayInput::Up);
    three.route_through(plain());
    assert_eq!(get(three.a.upstream, "/").await.status, 200);
    let call = under_way(&three, Method::POST, "/hang").await;
    stop.send_replace(true);
    let stalled = Instant::now();
    let reply = in_time("the answer", call).await.unwrap();
    println!("told {:?} after the relay went quiet", stalled.elapsed());
    assert!(stalled.elapsed() < AT_ONCE, "told after {:?}", stalled.elapsed());
    assert_eq!(reply.status, 502);
    let told = reply.headers["proxy-status"].to_str().unwrap();
    assert!(told.contains("may or may not have been executed"), "{told}");
    let told = three.told().await;
    assert!(
        matches!(&told, RelayInput::Down(why) if why.contains("no longer answers")),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_safe_request_that_was_under_way_on_the_silent_path_is_sent_again_through_the_relay() {
    let mut three = three().await;
    let call = under_way(&three, Method::GET, "/slow").await;
    three.cut().await;
    three.permit(Ok(three.b.agent.address));
    assert_eq!(three.wished().await, RelayInput::Up);
    three.route_through(plain());
    assert_eq!(in_time("the answer", call).await.unwrap().status, 200);
    assert_eq!(three.a.agent.metrics.relayed.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_safe_request_sent_into_the_silence_for_want_of_better_is_sent_again_through_the_relay() {
    let mut three = three().await;
    three.cut().await;
    three.a.choose(&[("b", three.path.address)], plain(), Choice::Panic);
    let silent = |c: Candidate| Candidate {
        standing: Standing::Doubtful(Why::Silent { since: Time(1) }),
        ..c
    };
    let candidates = three.a.candidates().into_iter().map(silent).collect();
    three.a.put(candidates, plain(), Choice::Panic);
    let to = three.a.upstream;
    let call = tokio::spawn(async move { get(to, "/").await });
    three.permit(Ok(three.b.agent.address));
    assert_eq!(three.wished().await, RelayInput::Up);
    three.route_through(plain());
    assert_eq!(in_time("the answer", call).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_wished_for_no_more_finishes_what_it_carries_and_requests_go_direct() {
    let three = Three::relaying(direct).await;
    let call = under_way(&three, Method::GET, "/slow").await;
    three.a.agent.links.relay(Vec::new());
    three.path.heal();
    healthy(&three.a.agent, &name("b"), LinkHealth::Up).await;
    three.a.route(&[("b", three.path.address)], plain());
    assert_eq!(get(three.a.upstream, "/").await.status, 200);
    assert_eq!(three.a.agent.metrics.relayed.get(), 1, "the slow one");
    assert_eq!(in_time("the slow answer", call).await.unwrap().status, 200);
    until("the relay's stream to end", || match three.c.metrics.relay_streams.get() {
        0 => Ok(()),
        n => Err(n),
    })
    .await;
}

/// Asks `c` as any member could, and reads its answer.
async fn asks(three: &Three, opening: bytes::Bytes) -> (crate::link::Sender, Frames, Frame) {
    let (c, at) = (&three.c.agent.name, three.c.agent.address);
    let mut stream = three.a.agent.links.open_stream(c, at).await.unwrap();
    stream.send.write_chunk(opening).await.unwrap();
    let mut frames = Frames::new(stream.recv);
    let answer = in_time("an answer", frames.next()).await.unwrap();
    (stream.send, frames, answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_a_member_by_its_name_can_be_asked_for() {
    let three = three().await;
    let opening = relay(&NodeName::parse("b").unwrap());
    // Whatever stands in the name's place is no address to anybody.
    for other in ["127.0.0.1:22", "../b", "", "B"] {
        let mut bytes = opening[..opening.len() - 1].to_vec();
        let length = u32::try_from(other.len()).unwrap();
        bytes[2..6].copy_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(other.as_bytes());
        let (_, _, answer) = asks(&three, bytes.into()).await;
        let denied = |r: &crate::proxy::frame::Refused| !r.executed && r.cause == Cause::Denied;
        assert!(matches!(&answer, Frame::Refused(r) if denied(r)), "{other:?}: {answer:?}");
    }
    assert_eq!(three.refused("unknown"), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_peer_is_carried_only_so_much() {
    let mut three = three().await;
    three.permit(Ok(three.b.agent.address));
    let mut carried = Vec::new();
    loop {
        let (send, frames, answer) = asks(&three, relay(&name("b"))).await;
        match answer {
            Frame::Go => carried.push((send, frames)),
            Frame::Refused(refused) if refused.cause == Cause::Busy => break,
            other => panic!("{other:?}"),
        }
        assert!(carried.len() <= 8, "{} are carried", carried.len());
    }
    assert_eq!((carried.len(), three.refused("full")), (8, 1));
    drop(carried.pop());
    until("room", || match three.c.metrics.relay_streams.get() {
        7 => Ok(()),
        n => Err(n),
    })
    .await;
    let (_, _, answer) = asks(&three, relay(&name("b"))).await;
    assert_eq!(answer, Frame::Go);
}
