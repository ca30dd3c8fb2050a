//! The data threads: request traffic runs on a few threads, each with a runtime of its own.
//!
//! A request stays on the thread on which its client's connection is: nothing is handed from core to core,
//! and no two threads wait for each other (measured: a quarter less CPU than one runtime over as many
//! threads). Which of them a thread is, [`slot`] says; whoever keeps things apart by thread goes by it.
//! Connections are dealt out in turn.
//!
//! When the value is dropped the threads end, and with them whatever still runs on them.

use std::cell::Cell;
use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// More threads than this bring nothing on the hosts that agents are made for.
const MOST: usize = 16;

thread_local! {
    static SLOT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Which of the data threads this one is; 0 on any other thread.
pub fn slot() -> usize {
    own_slot().unwrap_or(0)
}

/// Which of the data threads this one is, if it is one.
pub fn own_slot() -> Option<usize> {
    SLOT.get()
}

/// The running data threads.
#[derive(Debug)]
pub struct DataThreads {
    handles: Vec<Handle>,
    // Dropping it is the word to end.
    _stop: watch::Sender<()>,
}

impl DataThreads {
    /// Starts as many as there are cores.
    pub fn start() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (stop, _) = watch::channel(());
        let started = (0..cores.min(MOST)).map(|n| start(n, stop.subscribe()));
        Ok(Self { handles: started.collect::<io::Result<_>>()?, _stop: stop })
    }

    /// Where to spawn, by slot. Never empty.
    pub fn handles(&self) -> &[Handle] {
        &self.handles
    }
}

fn start(n: usize, mut stopped: watch::Receiver<()>) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name(format!("hearth-data-{n}")).spawn(move || {
        SLOT.set(Some(n));
        runtime.block_on(async {
            // An error says that the sender is gone: that is the word.
            let _ = stopped.changed().await;
        });
        runtime.shutdown_background();
    })?;
    Ok(handle)
}
