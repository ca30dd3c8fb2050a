//! Each of many POSTs has a number of its own; the applications write each number they execute into a
//! ledger that survives them. Afterwards the clients' record and the ledgers are laid side by side.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hearth_tests::drive::{Drive, End, Record, tally};
use hearth_tests::lab::binaries::ours;
use hearth_tests::lab::http::ask_tcp;
use hearth_tests::lab::wait::wait_for;
use hearth_tests::lab::{Process, Program};
use hearth_tests::loopback::{Place, free_ports};
use hearth_tests::pair::{Offer, Pair, Plan};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SOON: Duration = Duration::from_secs(20);
const OWNERS: usize = 3;
/// The mesh gives a request 5 s; a client that waits three times that is not waiting, it hangs.
const POLICY: &str = "[services.till]\nmode = \"hot-hot\"\ntimeout = \"5s\"\n";
const HANGS: Duration = Duration::from_secs(20);

/// An application that can be killed and started again, with its ledger.
struct App {
    name: String,
    listen: SocketAddr,
    ledger: PathBuf,
    process: Option<Arc<Process>>,
}

impl App {
    fn new(place: &Place, n: usize) -> Self {
        let [listen] = free_ports();
        let name = format!("till-{}", n + 1);
        let ledger = place.path(&format!("{name}.ledger"));
        let mut app = Self { name, listen, ledger, process: None };
        app.start(place);
        app
    }

    fn start(&mut self, place: &Place) {
        let (listen, ledger) = (self.listen.to_string(), self.ledger.display().to_string());
        let args = ["--host", &self.name, "--listen", &listen, "--ledger", &ledger];
        let program = Program::new(&self.name, ours("lab-app").unwrap()).args(args);
        let process = place.start(program).unwrap();
        wait_for("the application to answer", SOON, || {
            let answer = ask_tcp(self.listen, "GET", "/healthz", "");
            answer.map(drop).map_err(|e| format!("{e}; {}", process.stderr()))
        })
        .unwrap();
        self.process = Some(process);
    }

    fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill().unwrap();
        }
    }
}

/// What is done to the mesh, and then undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    App,
    TwoApps,
    Freeze,
    Agent,
    AgentAndApp,
    Drain,
    Caller,
}

impl Fault {
    fn draw(random: &mut StdRng) -> Self {
        match random.random_range(0..20) {
            0..6 => Self::App,
            6..8 => Self::TwoApps,
            8..11 => Self::Freeze,
            11..15 => Self::Agent,
            15..17 => Self::AgentAndApp,
            17..19 => Self::Drain,
            _ => Self::Caller,
        }
    }
}

/// Faults until the last request has ended; how often each.
fn havoc(
    pair: &mut Pair,
    apps: &mut [App],
    random: &mut StdRng,
    going_on: impl Fn() -> bool,
) -> BTreeMap<Fault, usize> {
    let mut struck = BTreeMap::new();
    let pause = |random: &mut StdRng, least, most| {
        let until = Instant::now() + Duration::from_millis(random.random_range(least..most));
        while going_on() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10)); // The length of a fault, or of the calm.
        }
    };
    while going_on() {
        pause(random, 200, 700);
        let fault = Fault::draw(random);
        *struck.entry(fault).or_default() += 1;
        let (n, other) = (random.random_range(0..OWNERS), random.random_range(1..OWNERS));
        let other = (n + other) % OWNERS;
        match fault {
            Fault::App => apps[n].kill(),
            Fault::TwoApps => [n, other].into_iter().for_each(|n| apps[n].kill()),
            Fault::Freeze => apps[n].process.as_ref().unwrap().stop().unwrap(),
            Fault::Agent => pair.owners[n].kill().unwrap(),
            Fault::AgentAndApp => {
                pair.owners[n].kill().unwrap();
                apps[other].kill();
            }
            Fault::Drain => pair.owners[n].stop().unwrap(),
            Fault::Caller => pair.caller.kill().unwrap(),
        }
        if fault != Fault::Caller {
            pause(random, 100, 1200);
        }
        if fault == Fault::Freeze {
            apps[n].process.as_ref().unwrap().cont().unwrap();
        }
        for app in apps.iter_mut().filter(|app| app.process.is_none()) {
            app.start(&pair.place);
        }
        match fault {
            Fault::Agent | Fault::AgentAndApp | Fault::Drain => {
                pair.owners[n].restart(&pair.place).unwrap();
            }
            Fault::Caller => pair.caller.restart(&pair.place).unwrap(),
            _ => {}
        }
    }
    struck
}

/// How often each number was executed, over all ledgers.
fn executed(apps: &[App]) -> BTreeMap<usize, usize> {
    let mut times = BTreeMap::new();
    for app in apps {
        for line in std::fs::read_to_string(&app.ledger).unwrap_or_default().lines() {
            let number = line.parse().unwrap_or_else(|e| panic!("{}: {line:?}: {e}", app.name));
            *times.entry(number).or_default() += 1;
        }
    }
    times
}

/// What does not balance, in words; empty when all does.
fn audit(records: &[Record], times: &BTreeMap<usize, usize>) -> Vec<String> {
    let of = |number: &usize| times.get(number).copied().unwrap_or(0);
    let mut wrong = Vec::new();
    let mut told = |what: &str, bad: Vec<&Record>| {
        if let Some(first) = bad.first() {
            wrong.push(format!("{} {what}, the first: {first:?}", bad.len()));
        }
    };
    let all = |holds: &dyn Fn(&Record) -> bool| records.iter().filter(|r| holds(r)).collect();
    told("were executed more than once", all(&|r| of(&r.number) > 1));
    told(
        "were acknowledged and not executed",
        all(&|r| r.end.acknowledged() && of(&r.number) == 0),
    );
    told("hung: their clients were told nothing", all(&|r| r.end == End::Hung));
    // 503 is the mesh's word for "nobody was available and nothing was done".
    let nothing_done = |r: &Record| matches!(r.end, End::Answered { status: 503, proxy: Some(_) });
    told("were executed, their clients told that nothing was done", {
        all(&|r| nothing_done(r) && of(&r.number) > 0)
    });
    let strangers = times.keys().filter(|number| **number >= records.len()).count();
    if strangers > 0 {
        wrong.push(format!("{strangers} were executed that nobody sent"));
    }
    wrong
}

#[test]
fn a_post_is_executed_at_most_once_whoever_is_killed_and_every_client_is_told() {
    let full = std::env::var_os("HEARTH_FULL").is_some();
    let (count, rate) = if full { (200_000, 1_500) } else { (20_000, 800) };
    let seed = std::env::var("HEARTH_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_127);
    println!("{count} POSTs at {rate}/s, HEARTH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let place = Place::new("oracle").unwrap();
    let mut apps: Vec<App> = (0..OWNERS).map(|n| App::new(&place, n)).collect();
    let offer = Offer::new("till", "http", apps[0].listen).and(apps[1].listen).and(apps[2].listen);
    let plan = Plan { offers: vec![offer], policy: POLICY.to_owned(), caller: String::new() };
    let mut pair = Pair::start(place, &plan).unwrap();
    let drive = Drive {
        target: pair.entry("till"),
        method: hyper::Method::POST,
        path: "/once?id={n}&pace=40".to_owned(),
        host: "till".to_owned(),
        count,
        workers: 96,
        rate: Some(rate),
        deadline: HANGS,
        patience: None,
    };
    let done = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&done);
    let start = Instant::now();
    let client = std::thread::spawn(move || drive.run(&counted));
    let going_on = || done.load(Ordering::Relaxed) < count;
    let struck = havoc(&mut pair, &mut apps, &mut random, going_on);
    let records = client.join().unwrap();
    let slowest = records.iter().map(|r| r.took).max().unwrap_or_default();
    let times = executed(&apps);
    let acknowledged = records.iter().filter(|r| r.end.acknowledged()).count();
    let unknown = records.iter().filter(|r| !r.end.acknowledged());
    let silent = unknown.filter(|r| times.contains_key(&r.number)).count();
    println!("faults: {struck:?} in {:.0?}", start.elapsed());
    println!("clients were told: {:?}, slowest after {slowest:.1?}", tally(&records));
    println!("executed: {} numbers, {silent} of them unacknowledged", times.len());
    assert_eq!(records.len(), count);
    let wrong = audit(&records, &times);
    assert!(wrong.is_empty(), "the books do not balance (seed {seed}):\n  {}", wrong.join("\n  "));
    // The faults were faults, and the mesh was a mesh: neither is the test of nothing.
    assert!(struck.values().sum::<usize>() >= 8, "too few faults: {struck:?}");
    assert!(acknowledged * 10 > count * 7, "only {acknowledged} of {count} were acknowledged");
}

#[test]
fn the_audit_finds_what_does_not_balance() {
    let ok =
        |proxy: Option<&str>, status| End::Answered { status, proxy: proxy.map(str::to_owned) };
    let books = |end: End, executions: usize| {
        let record = Record { number: 0, end, took: Duration::ZERO };
        audit(&[record], &(executions > 0).then_some((0, executions)).into_iter().collect())
    };
    for (end, executions, wrong) in [
        (ok(None, 200), 1, ""),
        (ok(None, 200), 2, "more than once"),
        (End::Broken(String::new()), 2, "more than once"),
        (ok(None, 200), 0, "not executed"),
        (End::Broken(String::new()), 0, ""),
        (End::Broken(String::new()), 1, ""),
        (End::Hung, 0, "hung"),
        (ok(Some("caller; error=destination_unavailable"), 503), 0, ""),
        (ok(Some("caller; error=destination_unavailable"), 503), 1, "nothing was done"),
        (ok(Some("caller; error=connection_terminated"), 502), 1, ""),
    ] {
        let found = books(end.clone(), executions).join(" ");
        let named = if wrong.is_empty() { found.is_empty() } else { found.contains(wrong) };
        assert!(named, "{end:?} executed {executions} times: {found:?}");
    }
}
