//! Sessions that stay where they are, and endpoints that have too much to do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hearth_proto::policy::{Ceiling, ServicePolicy};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::mesh::{App, Host, Reply, get, plain, send};
use crate::identity::authority::Authority;
use crate::link::tests::{PATIENCE, loopback};

struct Mesh {
    a: Host,
    owners: [(Host, App); 3],
}

impl Mesh {
    async fn start() -> Self {
        let authority = Authority::new("mesh.example");
        let a = Host::start(&authority, "a", None).await;
        let apps = [App::start("b").await, App::start("c").await, App::start("d").await];
        let mut owners = Vec::new();
        for (name, app) in ["b", "c", "d"].into_iter().zip(apps) {
            owners.push((Host::start(&authority, name, Some(app.address)).await, app));
        }
        let owners = owners.try_into().unwrap_or_else(|_| unreachable!("three of them"));
        Self { a, owners }
    }

    fn route(&self, to: &[&str], policy: &ServicePolicy) {
        let all =
            self.owners.iter().map(|(host, _)| (host.agent.name.as_str(), host.agent.address));
        let to: Vec<(&str, SocketAddr)> = all.filter(|(name, _)| to.contains(name)).collect();
        self.a.route(&to, policy.clone());
    }

    /// Who answers each of some users, asked twice. A link that is doubted for a moment, as on a machine that is
    /// starved, moves sessions, as it shall: a round in which that happens says nothing.
    async fn answers(&self) -> BTreeMap<usize, String> {
        let silences = || self.a.agent.metrics.silences.get();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = silences();
            let (answers, moved) = self.round().await;
            if silences() == before {
                assert!(moved.is_empty(), "users {moved:?} moved");
                return answers;
            }
            assert!(Instant::now() < deadline, "a link was silent in every round");
        }
    }

    /// Who answered last, and whose two answers came from different endpoints.
    async fn round(&self) -> (BTreeMap<usize, String>, Vec<usize>) {
        let (mut answers, mut moved) = (BTreeMap::new(), Vec::new());
        for user in 0..24 {
            for _ in 0..2 {
                let said = text(&as_user(self.a.upstream, user).await);
                let before = answers.insert(user, said.clone());
                if before.is_some_and(|before| before != said) {
                    moved.push(user);
                }
            }
        }
        (answers, moved)
    }
}

fn keeping(affinity: &str) -> ServicePolicy {
    let affinity = serde_json::from_str(affinity).unwrap();
    ServicePolicy { affinity: Some(affinity), ..plain() }
}

fn text(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    String::from_utf8(reply.body.to_vec()).unwrap()
}

async fn as_user(to: SocketAddr, user: usize) -> Reply {
    let user = format!("user-{user}");
    // A body of unknown use takes the other way through the agent than a plain request.
    let fields = [("x-user", user.as_str()), ("te", "trailers")];
    let fields = if user.len().is_multiple_of(2) { &fields[..1] } else { &fields[..] };
    send(to, Method::GET, "/", fields, "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_an_endpoint_is_lost_its_sessions_move_alone_and_return_with_it() {
    let mesh = Mesh::start().await;
    let policy = keeping(r#"{"header": "x-user"}"#);
    mesh.route(&["b", "c", "d"], &policy);
    let before = mesh.answers().await;
    let of = |who: &str| before.values().filter(|w| *w == who).count();
    assert!(of("b") > 0 && of("c") > 0 && of("d") > 0, "{before:?}");

    // The application is gone and no route says so yet: each request finds it out.
    mesh.owners[0].1.kill().await;
    let refused = mesh.answers().await;
    for (user, who) in &before {
        match who.as_str() {
            "b" => assert_ne!(refused[user], "b"),
            other => assert_eq!(refused[user], other, "user {user} moved for another's loss"),
        }
    }
    // The route says so: they stay where they went.
    mesh.route(&["c", "d"], &policy);
    assert_eq!(mesh.answers().await, refused);
    // Another is lost by its route and comes back.
    mesh.route(&["d"], &policy);
    assert!(mesh.answers().await.values().all(|who| who == "d"));
    mesh.route(&["c", "d"], &policy);
    assert_eq!(mesh.answers().await, refused, "they did not return");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_cookie_gets_one_and_stays_where_it_was_first() {
    let mesh = Mesh::start().await;
    mesh.route(&["b", "c", "d"], &keeping(r#"{"cookie": "hearth-session"}"#));
    let mut met = BTreeMap::new();
    for _ in 0..20 {
        let first = get(mesh.a.upstream, "/").await;
        let who = text(&first);
        let cookie = first.headers["set-cookie"].to_str().unwrap();
        let (pair, _) = cookie.split_once(';').unwrap();
        assert!(pair.starts_with("hearth-session="), "{cookie}");
        for _ in 0..3 {
            let again = send(mesh.a.upstream, Method::GET, "/", &[("cookie", pair)], "").await;
            assert_eq!(text(&again), who);
            assert!(!again.headers.contains_key("set-cookie"));
        }
        *met.entry(who).or_insert(0) += 1;
    }
    assert!(met.len() > 1, "all clients in one place: {met:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_every_endpoint_turns_away_is_told_at_once_and_when_to_come_again() {
    let mesh = Mesh::start().await;
    let one = ServicePolicy { max_requests: Ceiling::At(1), ..plain() };
    for (owner, _) in &mesh.owners {
        owner.route(&[(owner.agent.name.as_str(), owner.agent.address)], one.clone());
    }
    mesh.route(&["b", "c"], &one);
    let to = mesh.a.upstream;
    // Two are worked on, two wait; as nobody's turn comes, those are told too.
    let held: Vec<_> = (0..2)
        .map(|_| tokio::spawn(async move { send(to, Method::POST, "/hang", &[], "x").await }))
        .collect();
    while mesh.owners[..2].iter().any(|(_, app)| app.seen() == 0) {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    let told = get(to, "/").await;
    assert_eq!(told.status, 503);
    let again: u16 = told.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=3).contains(&again));
    let why = told.headers["proxy-status"].to_str().unwrap();
    assert!(why.contains("connection_limit_reached"), "{why}");
    assert!(mesh.a.retries("busy") >= 1, "only one was asked");
    assert_eq!(mesh.owners[0].1.seen() + mesh.owners[1].1.seen(), 2);
    // It waited for its turn at both and was not held beyond that until its time was over.
    assert!(began.elapsed() < Duration::from_secs(14), "{:?}", began.elapsed());
    held.iter().for_each(tokio::task::JoinHandle::abort);
}

/// An application with two workers, each of which needs 30 ms for a request.
async fn busy() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (workers, seen) = (Arc::new(Semaphore::new(2)), Arc::new(AtomicUsize::new(0)));
    let counted = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (workers, counted) = (workers.clone(), counted.clone());
            tokio::spawn(async move {
                let mut head = [0; 16 * 1024];
                while stream.read(&mut head).await.is_ok_and(|n| n > 0) {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let worker = workers.acquire().await.unwrap();
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    drop(worker);
                    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    if stream.write_all(ok).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_overwhelmed_turns_away_what_it_cannot_do_and_then_takes_all_again() {
    const LIMIT: Duration = Duration::from_secs(60);
    let authority = Authority::new("mesh.example");
    let (app, seen) = busy().await;
    let a = Host::start(&authority, "a", None).await;
    let b = Host::start(&authority, "b", Some(app)).await;
    let auto = ServicePolicy { max_requests: Ceiling::Auto, ..plain() };
    b.route(&[("b", b.agent.address)], auto.clone());
    a.route(&[("b", b.agent.address)], auto);
    let shown = || b.metrics.limit_of(&super::mesh::ledger()).get();
    // What is usual has to be seen first: some windows of a few answers.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(4500) {
        assert_eq!(get(a.upstream, "/").await.status, 200);
    }
    assert_eq!(shown(), 0, "a healthy endpoint was limited");
    // Forty times as much as it can do, until some are turned away.
    let enough = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..80 {
        let (to, enough) = (a.upstream, enough.clone());
        clients.spawn(async move {
            let began = Instant::now();
            while enough.load(Ordering::SeqCst) < 20 {
                assert!(began.elapsed() < LIMIT, "nobody was turned away");
                let reply = get(to, "/").await;
                match reply.status.as_u16() {
                    200 => {}
                    503 => {
                        assert!(reply.headers.contains_key("retry-after"));
                        enough.fetch_add(1, Ordering::SeqCst);
                    }
                    other => panic!("{other}: {reply:?}"),
                }
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert!(seen.load(Ordering::SeqCst) > 100);
    // Nothing waits any more: in a while everything is let in again.
    let began = Instant::now();
    while shown() != 0 {
        assert!(began.elapsed() < LIMIT, "still limited to {}", shown());
        assert_eq!(get(a.upstream, "/").await.status, 200);
    }
}
