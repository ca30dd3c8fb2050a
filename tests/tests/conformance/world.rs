//! The pair that all tests share, and the lanes that cases take turns on.

use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use hearth_tests::conformance::application::Application;
use hearth_tests::conformance::case::{Case, Lane};
use hearth_tests::conformance::pair::{Pair, Service};

/// Cases at once.
const LANES: usize = 6;

static PAIR: Mutex<Option<Pair>> = Mutex::new(None);
static LANES_FREE: OnceLock<Result<(Mutex<Vec<Lane>>, Condvar), String>> = OnceLock::new();

/// A lane while a case is run on it.
pub(crate) struct Turn(Option<Lane>);

impl Turn {
    pub(crate) fn run(&self, case: &Case) -> Result<(), String> {
        self.0.as_ref().map_or(Ok(()), |lane| case.run(lane))
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
    let (free, one) = LANES_FREE.get_or_init(start).as_ref().map_err(Clone::clone)?;
    let mut lanes = guard(free);
    loop {
        if let Some(lane) = lanes.pop() {
            return Ok(Turn(Some(lane)));
        }
        lanes = one.wait(lanes).unwrap_or_else(PoisonError::into_inner);
    }
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
