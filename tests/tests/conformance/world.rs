//! The pair that all tests share, the lanes that cases take turns on, and what else is behind the pair.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{
    Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

use hearth_tests::conformance::application::Application;
use hearth_tests::conformance::case::{Case, Lane};
use hearth_tests::conformance::memory;
use hearth_tests::conformance::modern::Modern;
use hearth_tests::conformance::pair::{Pair, Service};
use hearth_tests::conformance::source::Source;

use crate::nginx::Nginx;

/// Cases at once.
const LANES: usize = 6;

static PAIR: Mutex<Option<Pair>> = Mutex::new(None);
static WORLD: OnceLock<Result<World, String>> = OnceLock::new();
/// Held by each test that runs; whoever measures memory or time has it alone.
static MACHINE: RwLock<()> = RwLock::new(());

/// What is behind the pair.
pub(crate) struct World {
    lanes: Mutex<Vec<Lane>>,
    free: Condvar,
    /// The application of large bodies.
    pub(crate) source: Source,
    /// The caller's listener for it.
    pub(crate) source_entry: SocketAddr,
    /// The application that speaks HTTP/2.
    pub(crate) modern: Modern,
    /// The caller's listener for it.
    pub(crate) modern_entry: SocketAddr,
    /// The caller's listener for an application that is said to speak HTTP/2 and does not.
    pub(crate) liar_entry: SocketAddr,
    /// nginx and the caller's listener for it, where nginx is installed.
    pub(crate) nginx: Option<(Nginx, SocketAddr)>,
    /// The caller's listener for all services.
    pub(crate) shared: SocketAddr,
    pids: [i32; 2],
}

/// Sizes and counts: a slice of them by default, all of them when asked for.
pub(crate) fn full() -> bool {
    std::env::var("HEARTH_CONFORMANCE").is_ok_and(|value| value == "full")
}

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
        if let (Some(lane), Ok(world)) = (self.0.take(), world()) {
            guard(&world.lanes).push(lane);
            world.free.notify_one();
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
    let world = world()?;
    let mut lanes = guard(&world.lanes);
    loop {
        if let Some(lane) = lanes.pop() {
            return Ok(Turn(Some(lane), held));
        }
        lanes = world.free.wait(lanes).unwrap_or_else(PoisonError::into_inner);
    }
}

/// The pair and what is behind it; made when first asked for.
pub(crate) fn world() -> Result<&'static World, String> {
    WORLD.get_or_init(start).as_ref().map_err(Clone::clone)
}

/// The agents' resident memory in bytes, the caller's first.
pub(crate) fn resident() -> Result<[u64; 2], String> {
    let [a, b] = world()?.pids;
    Ok([memory::resident(a)?, memory::resident(b)?])
}

/// Forgets the most that the agents held so far.
pub(crate) fn forget_peaks() -> Result<(), String> {
    world()?.pids.into_iter().try_for_each(memory::forget_peak)
}

/// The most that the agents held since.
pub(crate) fn peaks() -> Result<[u64; 2], String> {
    let [a, b] = world()?.pids;
    Ok([memory::peak(a)?, memory::peak(b)?])
}

/// How many descriptors the agents have open, the caller's first.
pub(crate) fn descriptors() -> Result<[usize; 2], String> {
    let [a, b] = world()?.pids;
    Ok([memory::descriptors(a)?, memory::descriptors(b)?])
}

/// Ends the pair, if one was started.
pub(crate) fn end(failed: bool) {
    if let Some(pair) = guard(&PAIR).take() {
        pair.end(failed);
    }
    if let Some(Ok(World { nginx: Some((nginx, _)), .. })) = WORLD.get() {
        let _ = std::fs::remove_dir_all(&nginx.dir);
    }
}

/// A directory of this run.
pub(crate) fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("hearth-conf-{name}-{}", std::process::id()))
}

fn start() -> Result<World, String> {
    let mut apps = Vec::new();
    let mut services = Vec::new();
    for n in 0..LANES {
        let app = Application::start().map_err(|e| format!("an application: {e}"))?;
        // Short, so that a case in which nothing comes does not take long.
        services.push(Service::new(&format!("case-{n}"), app.address).policy("timeout = \"5s\""));
        apps.push(app);
    }
    let source = Source::start().map_err(|e| format!("the source: {e}"))?;
    services.push(Service::new("source", source.address).policy("timeout = \"300s\""));
    let modern = Modern::start().map_err(|e| format!("the HTTP/2 application: {e}"))?;
    services.push(Service::new("modern", modern.address).endpoint("http = \"2\""));
    services.push(Service::new("liar", source.address).endpoint("http = \"2\""));
    let nginx = Nginx::prepare(source.address)?;
    if let Some(nginx) = &nginx {
        let service = Service::new("nginx", nginx.address).policy("timeout = \"300s\"");
        services.push(service.run(nginx.program.clone()));
    }
    let pair = Pair::start("conf", services.clone())?;
    let lanes = services.iter().zip(apps).map(|(service, app)| Lane {
        service: service.name.clone(),
        entry: pair.entry(&service.name),
        shared: pair.shared,
        app,
    });
    let world = World {
        lanes: Mutex::new(lanes.collect()),
        free: Condvar::new(),
        source,
        source_entry: pair.entry("source"),
        modern,
        modern_entry: pair.entry("modern"),
        liar_entry: pair.entry("liar"),
        nginx: nginx.map(|nginx| (nginx, pair.entry("nginx"))),
        shared: pair.shared,
        pids: pair.pids,
    };
    *guard(&PAIR) = Some(pair);
    Ok(world)
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
