//! Clients and applications that are slow, endless or gone. Memory stays bounded, the status is right, the
//! other side learns of it at once, and others are served meanwhile.
//!
//! Each runs alone: the most memory that the agents held is measured from `/proc`. The bounds are windows
//! and buffers, not the size of what was sent: [`ONE`] for one stream, [`MANY`] for many.

mod cancelled;
mod endless;
mod slow;

use std::time::{Duration, Instant};

use hearth_tests::conformance::case::Lane;
use libtest_mimic::Trial;

use crate::world::{self, World};

const MIB: u64 = 1 << 20;

/// What one stream may make an agent hold: a stream's window between the agents (1.25 MiB; the sender may
/// hold eight of them), a window to an HTTP/2 client (1 MiB), socket-sized buffers, and what an allocator
/// keeps of all that.
const ONE: u64 = 24 * MIB;
/// What any number of them on one link may: a connection's window between agents (32 MiB), the same again
/// on its way out of it, and what one may.
const MANY: u64 = 96 * MIB;

type Told = fn(&Lane, &World) -> Result<(), String>;

pub(crate) fn trials() -> Vec<Trial> {
    let tables =
        [("slow", slow::told()), ("endless", endless::told()), ("cancelled", cancelled::told())];
    let trial = |table: &'static str, (name, test): (&'static str, Told)| {
        Trial::test(format!("misbehaviour::{table}::{name}"), move || {
            let turn = world::alone()?;
            turn.lane().app.load(Vec::new());
            let done = test(turn.lane(), world::world()?);
            turn.lane().app.load(Vec::new());
            done?;
            turn.lane().serves().map_err(Into::into)
        })
    };
    let long = slow::never_ending();
    let long = long.into_iter().map(|test| trial("slow", test).with_ignored_flag(!world::full()));
    let all = |(table, tests): (&'static str, Vec<(&'static str, Told)>)| {
        tests.into_iter().map(move |test| trial(table, test))
    };
    tables.into_iter().flat_map(all).chain(long).collect()
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(error: std::io::Error) -> String {
    error.to_string()
}

/// The agents' memory, from now on.
struct Memory([u64; 2]);

impl Memory {
    fn now() -> Result<Self, String> {
        world::forget_peaks()?;
        Ok(Self(world::resident()?))
    }

    /// Whether neither agent ever held more than `room` beyond what it held then.
    fn within(&self, room: u64, what: &str) -> Result<(), String> {
        let peaks = world::peaks()?;
        let grown = [0, 1].map(|n| peaks[n].saturating_sub(self.0[n]));
        println!(
            "{what}: at most {:.1} MiB more at the caller, {:.1} MiB at the owner (bound {})",
            grown[0] as f64 / MIB as f64,
            grown[1] as f64 / MIB as f64,
            room / MIB
        );
        match grown.iter().all(|grown| *grown <= room) {
            true => Ok(()),
            false => Err(format!("{what}: memory grew by {grown:?} bytes, more than {room}")),
        }
    }
}

/// Waits until a count has not risen for a while; the count. More than `most` is an error at once.
fn stalled(what: &str, most: u64, count: impl Fn() -> u64) -> Result<u64, String> {
    const STILL: Duration = Duration::from_millis(1_200);
    let (mut last, mut since) = (count(), Instant::now());
    while since.elapsed() < STILL {
        std::thread::sleep(Duration::from_millis(50));
        let now = count();
        if now > most {
            return Err(format!("{what}: {now} bytes were taken from the sender, bound {most}"));
        }
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    println!("{what}: the sender was stopped after {:.1} MiB", last as f64 / MIB as f64);
    Ok(last)
}
