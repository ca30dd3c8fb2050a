//! What becomes of orders that meet: real programs, and a count of what is under way that is made up.

use std::fs;
use std::path::Path;

use hearth_proto::advert::{Protocol, Role};
use hearth_proto::ids::ServiceName;

use super::*;
use crate::check::Stopper;
use crate::config::{Action, Check, Hook, HttpVersion};
use crate::disk::tests::Scratch;

/// Long enough for anything that is to happen.
const PATIENCE: Duration = Duration::from_secs(30);

fn ledger() -> EndpointId {
    let service = ServiceName::parse("ledger").unwrap();
    EndpointId { service, node: NodeName::parse("warm-1").unwrap(), instance: 0 }
}

fn sh(script: &str) -> Option<Hook> {
    let words = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Some(Hook { action: Action::Exec(words), deadline: PATIENCE })
}

/// An endpoint whose hooks write down that they ran; `before` runs first in the one that activates.
fn endpoint(log: &Path, before: &str) -> Endpoint {
    let log = log.display();
    Endpoint {
        service: ledger().service,
        instance: 0,
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 9)).into(),
        role: Role::Warm { priority: 0 },
        protocol: Protocol::Http,
        http: HttpVersion::One,
        pid_file: None,
        check: Check {
            kind: CheckKind::Tcp,
            interval: PATIENCE,
            timeout: PATIENCE,
            fall: 1,
            rise: 1,
        },
        activate: sh(&format!("echo begun >> {log}; {before}; echo up >> {log}")),
        deactivate: sh(&format!("echo down >> {log}")),
        attempts: 1,
        activation_deadline: PATIENCE,
        warm_up: None,
        weight: 100,
    }
}

/// A runner, its orders, its results, and what its hooks wrote.
struct Lab {
    _scratch: Scratch,
    log: std::path::PathBuf,
    orders: mpsc::Sender<Task>,
    results: mpsc::Receiver<Command>,
    under_way: Arc<AtomicUsize>,
    /// How often it was asked what is under way.
    asked: Arc<AtomicUsize>,
    wanted: Arc<AtomicUsize>,
    runner: JoinHandle<()>,
}

impl Lab {
    fn new(before: &str) -> Self {
        let scratch = Scratch::new();
        let log = scratch.0.join("log");
        let (orders, queue) = mpsc::channel(ORDERS_WAITING);
        let (told, results) = mpsc::channel(8);
        let (under_way, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (left, times) = (under_way.clone(), asked.clone());
        let runner = Runner {
            config: endpoint(&log, before),
            stopper: Stopper::of_none(),
            results: told,
            orders: queue,
            under_way: Arc::new(move |_: &EndpointId| {
                times.fetch_add(1, Ordering::SeqCst);
                left.load(Ordering::SeqCst)
            }),
        };
        let runner = tokio::spawn(runner.run());
        let wanted = Arc::default();
        Self { _scratch: scratch, log, orders, results, under_way, asked, wanted, runner }
    }

    async fn activate(&self, order: u64) {
        let purpose = Purpose::Activate;
        let call = HookCall { purpose, endpoint: ledger(), incident: String::new(), term: None };
        let task = Task::Activate { call, order, end: Instant::now() + PATIENCE };
        assert!(self.orders.send(task).await.is_ok());
    }

    async fn deactivate(&self, stop: Stop) {
        let purpose = Purpose::Deactivate;
        let call = HookCall { purpose, endpoint: ledger(), incident: String::new(), term: None };
        let counted = Counted::new(&self.wanted);
        assert!(self.orders.send(Task::Deactivate { call, stop, counted }).await.is_ok());
    }

    fn written(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}: {:?}", self.written());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The order whose activation is told next; it went well.
    async fn told(&mut self) -> u64 {
        let told = tokio::time::timeout(PATIENCE, self.results.recv()).await;
        match told.expect("no result in time") {
            Some(Command::Hook { order, result: Ok(()), .. }) => order,
            _ => panic!("another result, or none"),
        }
    }
}

#[tokio::test]
async fn an_application_is_stopped_only_when_nothing_is_under_way_at_it() {
    let lab = Lab::new("true");
    lab.under_way.store(2, Ordering::SeqCst);
    lab.deactivate(Stop::Idle).await;
    lab.until("asked again and again", |lab| lab.asked.load(Ordering::SeqCst) > 5).await;
    assert_eq!(lab.written(), [""; 0]);
    assert_eq!(lab.wanted.load(Ordering::SeqCst), 1, "the agent's end waits for it");
    lab.under_way.store(0, Ordering::SeqCst);
    lab.until("stopped", |lab| lab.written() == ["down"]).await;
    lab.until("done", |lab| lab.wanted.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn one_that_may_serve_no_longer_is_stopped_at_once_whatever_is_under_way() {
    let lab = Lab::new("true");
    lab.under_way.store(2, Ordering::SeqCst);
    lab.deactivate(Stop::Idle).await;
    lab.until("waiting", |lab| lab.asked.load(Ordering::SeqCst) > 0).await;
    lab.deactivate(Stop::Now).await;
    lab.until("stopped", |lab| lab.written() == ["down"]).await;
    assert_eq!(lab.under_way.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_application_that_is_called_while_its_stop_waits_goes_on() {
    let mut lab = Lab::new("true");
    lab.under_way.store(1, Ordering::SeqCst);
    lab.deactivate(Stop::Idle).await;
    lab.activate(7).await;
    assert_eq!(lab.told().await, 7);
    assert_eq!(lab.written(), ["begun", "up"]);
    assert_eq!(lab.wanted.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_activation_is_broken_off_by_a_deactivation_and_its_result_is_not_told() {
    let gate = Scratch::new();
    let open = gate.0.join("open");
    // The first waits for ever, whatever comes after it does not.
    let mut lab = Lab::new(&format!("while ! [ -e {} ]; do sleep 0.02; done", open.display()));
    lab.activate(1).await;
    lab.until("begun", |lab| lab.written() == ["begun"]).await;
    lab.deactivate(Stop::Now).await;
    lab.until("stopped", |lab| lab.written() == ["begun", "down"]).await;
    fs::write(&open, "").unwrap();
    lab.activate(2).await;
    assert_eq!(lab.told().await, 2);
    assert_eq!(lab.written(), ["begun", "down", "begun", "up"]);
}

#[tokio::test]
async fn a_deactivation_runs_to_its_end_when_no_orders_can_come_any_more() {
    let lab = Lab::new("true");
    lab.deactivate(Stop::Idle).await;
    let Lab { orders, runner, log, _scratch, .. } = lab;
    drop(orders);
    tokio::time::timeout(PATIENCE, runner).await.unwrap().unwrap();
    assert_eq!(fs::read_to_string(log).unwrap(), "down\n");
}
