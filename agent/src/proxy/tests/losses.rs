//! A host is lost with requests under way on it, or seems to be for a moment: who is sent elsewhere, who is
//! told, and what.

use std::time::{Duration, Instant};

use hearth_proto::evidence::CONFIRM_SILENCE;
use http::Method;

use super::mesh::{App, Host, Reply, get, plain, relayed, send};
use crate::identity::authority::Authority;
use crate::link::LinkHealth;
use crate::link::tests::{Relay, healthy, name, unanswered, until};
use hearth_proto::policy::ServicePolicy;

/// Far above what it takes (a tenth of this), for busy machines.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A caller `a` linked with an owner `b` that can be cut off.
struct Pair {
    authority: Authority,
    a: Host,
    b: Host,
    app: App,
    relay: Relay,
}

async fn pair() -> Pair {
    let authority = Authority::new("mesh.example");
    let app = App::start("b").await;
    let a = Host::start(&authority, "a", None).await;
    let (b, relay) = relayed(&authority, "b", &app).await;
    a.route(&[("b", relay.address)], plain());
    // A first request establishes the links.
    assert_eq!(get(a.upstream, "/").await.status, 200);
    healthy(&a.agent, &name("b"), LinkHealth::Up).await;
    Pair { authority, a, b, app, relay }
}

impl Pair {
    /// Sends a request, and says when its answer came.
    async fn under_way(
        &self,
        method: Method,
        path: &'static str,
        body: Vec<u8>,
    ) -> tokio::task::JoinHandle<(Reply, Instant)> {
        let (to, seen) = (self.a.upstream, self.app.seen());
        let call =
            tokio::spawn(async move { (send(to, method, path, &[], body).await, Instant::now()) });
        until("the request to arrive", || match self.app.seen() {
            n if n > seen => Ok(()),
            n => Err(n),
        })
        .await;
        call
    }

    fn silences(&self) -> (u64, u64) {
        (self.a.agent.metrics.silences.get(), self.a.agent.metrics.confirmed.get())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_safe_request_is_sent_again_when_its_peer_falls_silent_and_an_unsafe_one_is_told() {
    let pair = pair().await;
    let app_c = App::start("c").await;
    let c = Host::start(&pair.authority, "c", Some(app_c.address)).await;
    let get_slow = pair.under_way(Method::GET, "/slow", Vec::new()).await;
    // Small, by the fast path, and one that is sent as it comes.
    let small = pair.under_way(Method::POST, "/hang", vec![1]).await;
    let large = pair.under_way(Method::POST, "/hang", vec![1; 200_000]).await;
    pair.a.route(&[("b", pair.relay.address), ("c", c.agent.address)], plain());
    pair.relay.cut();
    let cut = Instant::now();
    for (call, why_not) in [(small, "not idempotent"), (large, "its body was sent already")] {
        let (reply, at) = call.await.unwrap();
        println!("told {:.1} ms after the cut", (at - cut).as_secs_f64() * 1000.0);
        assert!(at - cut < AT_ONCE, "told after {:?}", at - cut);
        assert_eq!(reply.status, 502);
        let told = reply.headers["proxy-status"].to_str().unwrap();
        assert!(told.contains("connection_terminated") && told.contains(why_not), "{told}");
        assert!(told.contains("next-hop=\"ledger@b"), "{told}");
        assert!(told.contains("may or may not have been executed"), "{told}");
    }
    let (reply, at) = get_slow.await.unwrap();
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"c"[..]));
    // Silence, then the slow answer of `c` (300 ms).
    assert!(at - cut < Duration::from_secs(2), "took {:?}", at - cut);
    assert_eq!(pair.a.retries("silent"), 1);
    assert_eq!(app_c.seen(), 1, "the GET, and none of the POSTs");
    pair.relay.heal();
    healthy(&pair.a.agent, &name("b"), LinkHealth::Up).await;
    assert_eq!(pair.app.seen(), 4, "nothing was executed twice");
    drop(pair.b);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hiccup_of_the_path_fails_no_unsafe_request() {
    let pair = pair().await;
    // A busy machine may look too late to heal in time: such a round shows nothing.
    for _ in 0..50 {
        let call = pair.under_way(Method::POST, "/slow", vec![1]).await;
        let before = pair.silences();
        pair.relay.cut();
        healthy(&pair.a.agent, &name("b"), LinkHealth::Silent).await;
        pair.relay.heal();
        let (reply, _) = call.await.unwrap();
        healthy(&pair.a.agent, &name("b"), LinkHealth::Up).await;
        let after = pair.silences();
        assert!(after.0 > before.0, "there was a silence");
        if after.1 == before.1 {
            assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"b"[..]));
            return;
        }
    }
    panic!("no cut was healed within {CONFIRM_SILENCE:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_after_its_host_fell_silent_is_sent_elsewhere_though_no_retries_are_left() {
    let pair = pair().await;
    let app_c = App::start("c").await;
    let c = Host::start(&pair.authority, "c", Some(app_c.address)).await;
    let none_left = ServicePolicy { retries: 0, ..plain() };
    let ask = |to| tokio::spawn(async move { get(to, "/").await });
    // Links that look late count a silence from then: such a round shows nothing.
    for _ in 0..50 {
        let seen = app_c.seen();
        pair.a.route(&[("b", pair.relay.address)], none_left.clone());
        pair.relay.cut();
        let first = ask(pair.a.upstream);
        until("the first to be unanswered", || {
            unanswered(&pair.a.agent, &name("b")).ok_or("nothing was sent")
        })
        .await;
        let sent = Instant::now();
        let second = ask(pair.a.upstream);
        pair.a.route(&[("b", pair.relay.address), ("c", c.agent.address)], none_left.clone());
        healthy(&pair.a.agent, &name("b"), LinkHealth::Silent).await;
        let silent_since = pair.a.agent.links.silent_since(&name("b"));
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        if silent_since.is_some_and(|since| since <= sent) {
            // The first may be what the host died of, as far as anybody knows.
            assert_eq!(first.status, 502, "{first:?}");
            assert_eq!((second.status.as_u16(), &second.body[..]), (200, &b"c"[..]));
            assert_eq!(app_c.seen(), seen + 1);
            return;
        }
        pair.relay.heal();
        healthy(&pair.a.agent, &name("b"), LinkHealth::Up).await;
    }
    panic!("no silence was noticed in time");
}
