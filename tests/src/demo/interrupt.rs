//! Ctrl-C and SIGTERM: the demo cleans up whenever it is told to go.
//!
//! Before [`Interrupt::wait`] a signal ends the program at once: every process of the lab asked the
//! kernel to be killed with it, namespaces go with the processes, so only the directory is removed
//! by hand. During `wait` it just ends the waiting, and the lab is dropped in good order.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};

/// Exit code of a program ended by SIGINT, as shells count.
const INTERRUPTED: i32 = 130;

/// Watches for the signals on a thread of its own.
#[derive(Debug)]
pub(super) struct Interrupt {
    waiting: Arc<AtomicBool>,
    told: Mutex<Receiver<()>>,
}

impl Interrupt {
    /// Starts to watch; `dir` is removed when the program is ended early.
    #[expect(
        clippy::disallowed_methods,
        reason = "the story runs on another thread and may be in the middle of a wait; nothing it \
                  owns outlives the process but the directory, which is removed first"
    )]
    pub(super) fn watch(dir: &Path) -> Self {
        let (waiting, dir) = (Arc::new(AtomicBool::new(false)), dir.to_path_buf());
        let (tell, told) = channel();
        let seen = Arc::clone(&waiting);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let (Ok(mut int), Ok(mut term)) =
                    (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
                else {
                    return;
                };
                loop {
                    tokio::select! { _ = int.recv() => {} _ = term.recv() => {} }
                    if !seen.load(Ordering::SeqCst) {
                        eprintln!("\ninterrupted: everything is taken down");
                        let _ = std::fs::remove_dir_all(&dir);
                        std::process::exit(INTERRUPTED);
                    }
                    let _ = tell.send(());
                }
            });
        });
        Self { waiting, told: Mutex::new(told) }
    }

    /// Waits for a signal.
    pub(super) fn wait(&self) {
        self.waiting.store(true, Ordering::SeqCst);
        let _ = self.told.lock().unwrap_or_else(PoisonError::into_inner).recv();
        self.waiting.store(false, Ordering::SeqCst);
    }
}
