//! Real processes and their ends.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// A process that does nothing, ended with the test.
pub(crate) struct Sleeper(Child);

impl Sleeper {
    pub(crate) fn start() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pid file that is gone with the test.
pub(crate) struct PidFile(pub(crate) PathBuf);

impl PidFile {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("hearth-{}-{n}.pid", std::process::id())))
    }

    pub(crate) fn write(&self, pid: i32) {
        std::fs::write(&self.0, format!("{pid}\n")).unwrap();
    }

    fn exits(&self) -> Exits {
        Exits::of(Some(self.0.clone()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn next(exits: &mut Exits) -> i32 {
    tokio::time::timeout(PATIENCE, exits.next()).await.expect("an end within 10 s")
}

/// Watches until the process named is.
async fn watching(exits: &mut Exits, pid: i32) {
    while exits.current.as_ref().map(|p| p.named.pid.as_raw_nonzero().get()) != Some(pid) {
        let early = tokio::time::timeout(Duration::from_millis(20), exits.next()).await;
        assert!(early.is_err(), "{early:?} ended");
    }
}

#[tokio::test]
async fn the_end_of_the_process_is_told_once() {
    let (f, mut app) = (PidFile::new(), Sleeper::start());
    f.write(app.pid());
    let mut exits = f.exits();
    watching(&mut exits, app.pid()).await;
    app.kill();
    let struck = std::time::Instant::now();
    assert_eq!(next(&mut exits).await, app.pid());
    println!("told {:.1} ms after the kill", struck.elapsed().as_secs_f64() * 1000.0);
    // Nobody has waited for it, so the number is still taken.
    assert!(tokio::time::timeout(READ_EVERY * 2, exits.next()).await.is_err());
}

#[tokio::test]
async fn an_application_that_is_started_again_is_watched_again() {
    let f = PidFile::new();
    let mut exits = f.exits();
    // The file need not be there yet.
    assert!(tokio::time::timeout(Duration::from_millis(50), exits.next()).await.is_err());
    for _ in 0..2 {
        let mut app = Sleeper::start();
        f.write(app.pid());
        watching(&mut exits, app.pid()).await;
        // Some take their file away when they end.
        std::fs::remove_file(&f.0).unwrap();
        app.kill();
        assert_eq!(next(&mut exits).await, app.pid());
    }
}

#[tokio::test]
async fn one_that_has_handed_over_may_end() {
    let (f, mut old, mut new) = (PidFile::new(), Sleeper::start(), Sleeper::start());
    f.write(old.pid());
    let mut exits = f.exits();
    watching(&mut exits, old.pid()).await;
    f.write(new.pid());
    old.kill();
    watching(&mut exits, new.pid()).await;
    new.kill();
    assert_eq!(next(&mut exits).await, new.pid());
}

#[tokio::test]
async fn what_names_nobody_is_waited_over() {
    let f = PidFile::new();
    for text in ["", "0", "-5", "soon", "99999999999999999999"] {
        std::fs::write(&f.0, text).unwrap();
        let mut exits = f.exits();
        let told = tokio::time::timeout(Duration::from_millis(20), exits.next()).await;
        assert!(told.is_err() && exits.current.is_none(), "{text:?}");
    }
    let mut none = Exits::of(None);
    assert!(tokio::time::timeout(Duration::from_millis(20), none.next()).await.is_err());
}
