//! How much more reaches applications than clients sent, when half of the answers are errors, and when a
//! healthy application is slow now and then.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hearth_tests::cases::Cases;
use hearth_tests::drive::{Drive, tally};
use hearth_tests::loopback::{Place, counters};
use hearth_tests::pair::{Offer, Pair, Plan};

const POLICY: &str = "[services.sick]\nmode = \"hot-hot\"\n";

/// What an application does to half of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Illness {
    /// 503.
    Unavailable,
    /// 503 with `Retry-After`, which invites to try again.
    Busy,
    /// The connection is closed without an answer.
    Breaks,
    /// Half of the time the port is closed.
    Refuses,
    /// Nothing but a slow answer, one in a hundred.
    Slow,
}

/// Applications that share one count of what they received.
#[derive(Debug, Clone)]
struct Sick {
    illness: Illness,
    received: Arc<AtomicUsize>,
}

impl Sick {
    /// Serves from threads for as long as the process lives.
    fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let app = self.clone();
        std::thread::spawn(move || {
            if app.illness == Illness::Refuses {
                app.flap(listener, address);
            } else {
                app.accept(&listener);
            }
        });
        address
    }

    fn accept(&self, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            let app = self.clone();
            // Its end is the connection's end.
            std::thread::spawn(move || app.serve(stream));
        }
    }

    /// Listens and does not, in turns shorter than two checks of health: it stays in the routes.
    fn flap(&self, listener: TcpListener, address: SocketAddr) {
        const TURN: Duration = Duration::from_millis(60);
        let mut listener = Some(listener);
        loop {
            let open = listener.take().or_else(|| TcpListener::bind(address).ok());
            if let Some(open) = &open {
                open.set_nonblocking(true).unwrap();
                let until = std::time::Instant::now() + TURN;
                while std::time::Instant::now() < until {
                    match open.accept() {
                        Ok((stream, _)) => {
                            let _ = stream.set_nonblocking(false);
                            let app = self.clone();
                            std::thread::spawn(move || app.serve(stream));
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(1)),
                    }
                }
            }
            drop(open);
            std::thread::sleep(TURN); // The length of the fault.
        }
    }

    fn serve(&self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Ok(mut out) = stream.try_clone() else { return };
        let mut lines = BufReader::new(stream).lines();
        loop {
            let mut any = false;
            // Requests without bodies only.
            loop {
                match lines.next() {
                    Some(Ok(line)) if line.is_empty() && any => break,
                    Some(Ok(_)) => any = true,
                    _ => return,
                }
            }
            let n = self.received.fetch_add(1, Ordering::Relaxed);
            let bad = half(n);
            let answer = match self.illness {
                Illness::Unavailable if bad => "503 No\r\ncontent-length: 0\r\n\r\n",
                Illness::Busy if bad => "503 No\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
                Illness::Breaks if bad => return,
                // Each request needs a connection of its own, so that a closed port is felt.
                Illness::Refuses => "200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nok\n",
                _ => "200 OK\r\ncontent-length: 3\r\n\r\nok\n",
            };
            if self.illness == Illness::Slow && n % 100 == 99 {
                std::thread::sleep(Duration::from_millis(400));
            }
            let done = out.write_all(format!("HTTP/1.1 {answer}").as_bytes());
            if done.is_err() || self.illness == Illness::Refuses {
                return;
            }
        }
    }
}

/// Half of all numbers, without a pattern that requests could fall into step with.
fn half(n: usize) -> bool {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) & 1 == 1
}

/// What was sent, what the owners' agents were asked for, what the applications received.
struct Account {
    sent: usize,
    attempts: u64,
    received: usize,
    told: String,
}

impl Account {
    fn words(&self) -> String {
        // Counts are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let ratio = |n: u64| n as f64 / self.sent as f64;
        format!(
            "sent {}, attempts at owners {} ({:.3}), received by applications {} ({:.3}); told {}",
            self.sent,
            self.attempts,
            ratio(self.attempts),
            self.received,
            ratio(self.received as u64),
            self.told
        )
    }

    /// Neither more attempts nor more requests than `percent` of what was sent.
    fn within(&self, percent: u64) -> Result<String, String> {
        let most = self.attempts.max(self.received as u64);
        let held = most * 100 <= self.sent as u64 * percent;
        if held { Ok(self.words()) } else { Err(format!("over {percent} %: {}", self.words())) }
    }
}

fn account(illness: Illness, sent: usize) -> Result<Account, String> {
    let sick = Sick { illness, received: Arc::default() };
    let offer = Offer::new("sick", "http", sick.listen()).and(sick.listen());
    let plan = Plan { offers: vec![offer], policy: POLICY.to_owned(), caller: String::new() };
    let place = Place::new("storm").map_err(|e| e.to_string())?;
    let pair = Pair::start(place, &plan).map_err(|e| e.to_string())?;
    let attempts = || -> Result<u64, String> {
        let mut all = 0;
        for owner in &pair.owners {
            let page = owner.agent().page("/metrics").map_err(|e| e.to_string())?;
            all += counters(&page, |name| name == "hearth_inbound_requests_total")
                .values()
                .sum::<u64>();
        }
        Ok(all)
    };
    // All could be sent in a tenth of this. A mesh that holds them for long instead of telling their clients
    // is as sick as the service.
    let patience = Duration::from_secs(20) + Duration::from_millis(sent as u64);
    let drive = Drive {
        target: pair.entry("sick"),
        method: hyper::Method::GET,
        path: "/{n}".to_owned(),
        host: "sick".to_owned(),
        count: sent,
        workers: 32,
        rate: Some(2_000),
        deadline: Duration::from_secs(30),
        patience: Some(patience),
    };
    let before = attempts()?;
    let records = drive.run(&Arc::default());
    let slowest = records.iter().map(|r| r.took).max().unwrap_or_default();
    let told = format!("{:?}, slowest after {slowest:.1?}", tally(&records));
    if records.len() < sent {
        let (ended, more) = (records.len(), attempts()? - before);
        return Err(format!(
            "only {ended} of {sent} requests ended within {patience:?}: they are held ({more} attempts); \
             told {told}"
        ));
    }
    let received = sick.received.load(Ordering::Relaxed);
    Ok(Account { sent, attempts: attempts()? - before, received, told })
}

fn size() -> usize {
    if std::env::var_os("HEARTH_FULL").is_some() { 100_000 } else { 10_000 }
}

#[test]
fn a_service_at_half_errors_receives_at_most_a_fifth_more_than_was_sent() {
    let mut cases = Cases::new("retry storm");
    for (illness, what) in [
        (Illness::Unavailable, "half of the answers are 503"),
        (Illness::Busy, "half of the answers are 503 with Retry-After"),
        (Illness::Breaks, "half of the connections break"),
    ] {
        cases.check(what, || account(illness, size())?.within(120));
    }
    // What was refused reached no application: it may go elsewhere, once for each request that comes.
    cases.check("the port is closed half of the time", || {
        let account = account(Illness::Refuses, size())?;
        let asked = account.within(200)?;
        if account.received <= account.sent {
            Ok(asked)
        } else {
            Err(format!("asked too often: {asked}"))
        }
    });
    cases.finish();
}

#[test]
fn hedging_adds_at_most_a_twentieth_to_a_healthy_service_that_is_slow_now_and_then() {
    let account = account(Illness::Slow, size()).unwrap();
    println!("{}", account.words());
    account.within(105).unwrap();
}
