//! Whether the data threads themselves were kept waiting.
//!
//! The timers that end a request's wait run on ordinary threads, which other programs may starve while the mesh's
//! thread, which goes ahead of them all, is never late. So each data thread measures itself by a beat, as long as
//! requests wait on it: 40 wake-ups a second, some 10 µs each, of a thread that works anyhow, and none of one on which
//! nobody has waited for a second. A request that begins to wait and one that ends cost two additions.
//!
//! Tasks: one on each data thread, which ends with its runtime. If it is aborted its thread is taken for late
//! as soon as it has missed a beat, and its time-outs and breaks are held against nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::sleep_until;

use crate::link::Lateness;
use crate::threads;

/// A quarter of what counts as a stall, so that one is not missed for having begun just after a beat.
const BEAT: Duration = Duration::from_millis(25);
/// Beats that find nobody waiting before they end: to begin again for each of a few requests a second would
/// cost more.
const LINGER: u32 = 40;

/// What one data thread knows of itself.
#[derive(Debug, Default)]
struct Pulse {
    lateness: Lateness,
    /// So many requests wait for an answer.
    waiting: AtomicUsize,
    /// It beats, or was told to.
    beats: AtomicBool,
    bell: Notify,
}

impl Pulse {
    /// A request begins to wait.
    fn begin(&self, now: Instant) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if !self.beats.load(Ordering::SeqCst) && !self.beats.swap(true, Ordering::SeqCst) {
            // From now on: the thread may be stopped before its task gets its turn.
            self.lateness.expect(Some(now + BEAT));
            self.bell.notify_one();
        }
    }

    /// A beat, after so many in a row that found nobody waiting; when the next is due. `None`: it rests until the bell
    /// rings.
    fn beat(&self, now: Instant, quiet: &mut u32) -> Option<Instant> {
        self.lateness.looked(now);
        let waiting = || self.waiting.load(Ordering::SeqCst) > 0;
        *quiet = if waiting() { 0 } else { *quiet + 1 };
        if *quiet > LINGER {
            self.lateness.expect(None);
            self.beats.store(false, Ordering::SeqCst);
            // Whoever began a moment ago found it beating, and rang no bell.
            if !waiting() {
                return None;
            }
            self.beats.store(true, Ordering::SeqCst);
        }
        let next = now + BEAT;
        self.lateness.expect(Some(next));
        Some(next)
    }
}

async fn run(pulse: Arc<Pulse>) {
    loop {
        pulse.bell.notified().await;
        let mut quiet = 0;
        while let Some(next) = pulse.beat(Instant::now(), &mut quiet) {
            sleep_until(next.into()).await;
        }
    }
}

/// The pulses of all data threads, by slot. Never empty.
pub(crate) struct Pulses(Box<[Arc<Pulse>]>);

impl Pulses {
    /// Has each of the data threads measure itself.
    pub(crate) fn start(runtimes: &[Handle]) -> Self {
        let started = runtimes.iter().map(|runtime| {
            let pulse = Arc::new(Pulse::default());
            runtime.spawn(run(pulse.clone()));
            pulse
        });
        Self(started.collect())
    }

    /// A request waits on this thread while what is returned lives.
    pub(crate) fn waits(&self) -> Waits<'_> {
        let pulse = &self.0[threads::slot() % self.0.len()];
        pulse.begin(Instant::now());
        Waits(pulse)
    }

    /// Whether what began at `began`, and is judged by this thread at `now`, was delayed by ourselves, for all
    /// we know. Who is no data thread asks them all.
    pub(crate) fn excuses(&self, began: Instant, now: Instant) -> bool {
        self.excuses_at(threads::own_slot(), began, now)
    }

    /// As if every data thread had been kept waiting until now, for so long.
    #[cfg(test)]
    pub(crate) fn kept_waiting(&self, lag: Duration) {
        self.0.iter().for_each(|pulse| pulse.lateness.came(Instant::now(), lag));
    }

    fn excuses_at(&self, slot: Option<usize>, began: Instant, now: Instant) -> bool {
        let late = |pulse: &Arc<Pulse>| pulse.lateness.excuses(began, now);
        match slot {
            Some(slot) => late(&self.0[slot % self.0.len()]),
            None => self.0.iter().any(late),
        }
    }
}

/// A request waits for an answer while this lives.
pub(crate) struct Waits<'a>(&'a Pulse);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pulses(threads: usize) -> Pulses {
        Pulses((0..threads).map(|_| Arc::default()).collect())
    }

    /// Beats on time from `now` until `until`, or until it rests; returns when it would beat next.
    fn beat(pulse: &Pulse, quiet: &mut u32, mut now: Instant, until: Instant) -> Option<Instant> {
        while now < until {
            now = pulse.beat(now, quiet)?;
        }
        Some(now)
    }

    #[test]
    fn a_thread_that_was_starved_excuses_what_it_judges_itself_and_nobody_elses() {
        let pulses = pulses(2);
        let (start, mut quiet) = (Instant::now(), [0, 0]);
        pulses.0.iter().for_each(|pulse| pulse.begin(start));
        let due = beat(&pulses.0[0], &mut quiet[0], start, start + 200 * MS).unwrap();
        // The other one runs on.
        beat(&pulses.0[1], &mut quiet[1], start, start + 1000 * MS);
        let woken = due + 500 * MS;
        let judged = |slot, now| pulses.excuses_at(slot, start + 100 * MS, now);
        assert!(judged(Some(0), woken), "also before its own task gets its turn");
        let next = pulses.0[0].beat(woken, &mut quiet[0]).unwrap();
        assert!(judged(Some(0), woken + MS));
        assert!(!judged(Some(1), start + 1000 * MS));
        assert!(judged(None, start + 1000 * MS), "the worst of all, if nobody knows whose it is");
        let caught_up = woken + 501 * MS;
        beat(&pulses.0[0], &mut quiet[0], next, caught_up);
        assert!(!pulses.excuses_at(Some(0), caught_up, caught_up + MS));
    }

    #[test]
    fn a_thread_that_is_on_time_excuses_nobody_however_long_a_request_waits() {
        let pulses = pulses(1);
        let (start, mut quiet) = (Instant::now(), 0);
        pulses.0[0].begin(start);
        let until = start + Duration::from_secs(30);
        assert!(beat(&pulses.0[0], &mut quiet, start, until).is_some(), "it beats on");
        assert!(!pulses.excuses_at(Some(0), start, until));
    }

    #[test]
    fn who_is_starved_before_the_first_beat_is_late_too() {
        let pulses = pulses(1);
        let start = Instant::now();
        pulses.0[0].begin(start);
        assert!(pulses.excuses_at(Some(0), start, start + 300 * MS));
        pulses.0[0].beat(start + 300 * MS, &mut 0);
        assert!(pulses.excuses_at(Some(0), start, start + 301 * MS), "noticed");
    }

    #[test]
    fn it_rests_a_second_after_the_last_wait_and_rest_is_no_lateness() {
        let pulses = pulses(1);
        let pulse = &pulses.0[0];
        let (start, mut quiet) = (Instant::now(), 0);
        pulse.begin(start);
        let waits = Waits(pulse);
        let end = start + 500 * MS;
        beat(pulse, &mut quiet, start, end);
        drop(waits);
        assert!(beat(pulse, &mut quiet, end, end + 900 * MS).is_some(), "it lingers");
        assert!(beat(pulse, &mut quiet, end + 900 * MS, end + 1200 * MS).is_none());
        let later = end + Duration::from_secs(60);
        assert!(!pulses.excuses_at(Some(0), later, later));
        pulse.begin(later);
        pulse.beat(later, &mut 0);
        assert!(!pulses.excuses_at(Some(0), later, later + 20 * MS), "nobody beat meanwhile");
    }

    #[tokio::test]
    async fn a_runtime_that_is_kept_from_running_while_a_request_waits_notices_it() {
        let pulses = Pulses::start(&[Handle::current()]);
        let began = Instant::now();
        let waits = pulses.waits();
        tokio::task::yield_now().await;
        // What another program does that takes the core.
        std::thread::sleep(300 * MS);
        assert!(pulses.excuses(began, Instant::now()), "before its own task gets its turn");
        // As judged at its beginning nothing was due: only what was noticed excuses it.
        let noticed = async {
            while !pulses.excuses(began, began) {
                tokio::time::sleep(BEAT).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), noticed).await.expect("a late beat");
        drop(waits);
        assert_eq!(pulses.0[0].waiting.load(Ordering::SeqCst), 0);
    }
}
