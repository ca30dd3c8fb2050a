//! The pair that all tests share, and the lanes that cases take turns on.

use std::sync::{
    Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use hearth_tests::conformance::application::Application;
use hearth_tests::conformance::case::{Case, Lane};
use hearth_tests::conformance::memory;
use hearth_tests::conformance::pair::{Pair, Service};

/// Cases at once.
const LANES: usize = 6;

static PAIR: Mutex<Option<Pair>> = Mutex::new(None);
static LANES_FREE: OnceLock<Result<(Mutex<Vec<Lane>>, Condvar), String>> = OnceLock::new();

/// Held by each test that runs; whoever measures memory or time has it alone.
static MACHINE: RwLock<()> = RwLock::new(());

/// A lane while a case is run on it.
pub(crate) struct Turn(Option<Lane>, #[allow(dead_code, reason = "held")] Held);

enum Held {
    WithOthers(#[allow(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    Alone(#[allow(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

impl Turn {
    pub(crate) fn run(&self, case: &Case) -> Result<(), String> {
        case.run(self.lane())
    }

    pub(crate) fn lane(&self) -> &Lane {
        self.0.as_ref().expect("given back only when dropped")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let (Some(lane), Some(Ok((free, one)))) = (self.0.take(), LANES_FREE.get()) {
            guard(free).push(lane);
            one.notify_one();
        }
    }
}

/// A lane that nobody else has.
pub(crate) fn lane() -> Result<Turn, String> {
    let held = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    turn(Held::WithOthers(held))
}

/// A lane while no other test runs.
pub(crate) fn alone() -> Result<Turn, String> {
    let held = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    turn(Held::Alone(held))
}

fn turn(held: Held) -> Result<Turn, String> {
    let (free, one) = LANES_FREE.get_or_init(start).as_ref().map_err(Clone::clone)?;
    let mut lanes = guard(free);
    loop {
        if let Some(lane) = lanes.pop() {
            return Ok(Turn(Some(lane), held));
        }
        lanes = one.wait(lanes).unwrap_or_else(PoisonError::into_inner);
    }
}

/// The agents' resident memory in bytes, the caller's first.
pub(crate) fn resident() -> Result<[u64; 2], String> {
    let pair = guard(&PAIR);
    let [a, b] = pair.as_ref().ok_or("the pair is gone")?.pids;
    Ok([memory::resident(a)?, memory::resident(b)?])
}

/// Ends the pair, if one was started.
pub(crate) fn end(failed: bool) {
    if let Some(pair) = guard(&PAIR).take() {
        pair.end(failed);
    }
}

fn start() -> Result<(Mutex<Vec<Lane>>, Condvar), String> {
    let mut apps = Vec::new();
    let mut services = Vec::new();
    for n in 0..LANES {
        let app = Application::start().map_err(|e| format!("an application: {e}"))?;
        // Short, so that a case in which nothing comes does not take long.
        services.push(Service::new(&format!("case-{n}"), app.address).policy("timeout = \"5s\""));
        apps.push(app);
    }
    let pair = Pair::start("conf", services.clone())?;
    let lanes = services.iter().zip(apps).map(|(service, app)| Lane {
        service: service.name.clone(),
        entry: pair.entry(&service.name),
        shared: pair.shared,
        app,
    });
    let lanes = lanes.collect();
    *guard(&PAIR) = Some(pair);
    Ok((Mutex::new(lanes), Condvar::new()))
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
