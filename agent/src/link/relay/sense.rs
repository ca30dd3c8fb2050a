//! Whether a peer still answers through its relay: the arithmetic of silence over the lane's own pings.
//!
//! Decides with [`super::super::silence`] as links do, from the lane's own round trip. A relay that dies, a
//! relay whose path to the peer breaks and a peer that freezes all look alike here, and mean the same to what
//! is under way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hearth_proto::node::RelayWish;
use tokio::sync::oneshot;

use super::Relayed;
use crate::link::lane::pool::LANE_DEAD;
use crate::link::silence::{Sign, Silence, Window};
use crate::link::{CloseCode, LinkHealth, Shared, lock};

/// No silence is declared sooner. Bytes pass two TCP connections, each of which repeats a lost segment after
/// tens of milliseconds at best.
const FLOOR: Duration = Duration::from_millis(50);
/// Round trips an answer may take: a relay's own queue comes on top of the path's.
const TRIPS: u32 = 4;
/// How often the peer is asked while requests are under way, while there are none, and while it is lost.
const PING_BUSY: Duration = Duration::from_millis(25);
const PING_IDLE: Duration = Duration::from_millis(250);
const PING_LOST: Duration = Duration::from_millis(100);

/// What the owner of the lane learns from a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Nothing,
    /// How it stands now.
    Health(LinkHealth),
    /// It has been silent for so long that it is given up.
    Dead,
}

/// What was sensed of a peer through its relay. Pure: moments and counters come in.
struct Sense {
    window: Window,
    silence: Option<Silence>,
    heard: u64,
    last_ping: Instant,
    next_ping: u64,
}

impl Sense {
    fn new(now: Instant, heard: u64) -> Self {
        let (window, silence) = (Window::default(), None);
        Self { window, silence, heard, last_ping: now, next_ping: 1 }
    }

    /// How often the peer is asked now.
    fn every(&self, busy: bool) -> Duration {
        match self.silence {
            Some(silence) if silence.due().is_some() => silence.ask_every(),
            Some(_) => PING_LOST,
            None if busy => PING_BUSY,
            None => PING_IDLE,
        }
    }

    /// When to look next.
    fn due(&self, busy: bool, threshold: Duration) -> Instant {
        let asks = self.last_ping + self.every(busy);
        let tells = match self.silence {
            Some(silence) => silence.due(),
            None => self.window.due(threshold),
        };
        tells.map_or(asks, |moment| moment.min(asks))
    }

    /// A ping to be sent now, if one is due. It opens the window.
    fn ping(&mut self, now: Instant, busy: bool, threshold: Duration) -> Option<u64> {
        if now.saturating_duration_since(self.last_ping) < self.every(busy) {
            return None;
        }
        self.window.sample(now, true, false, threshold);
        self.last_ping = now;
        self.next_ping += 1;
        Some(self.next_ping - 1)
    }

    /// Takes in what was heard by `now`: reads that brought something, and the newest answered ping plus one.
    fn look(
        &mut self,
        now: Instant,
        lag: Duration,
        heard: u64,
        answered: u64,
        threshold: Duration,
    ) -> News {
        let fresh = std::mem::replace(&mut self.heard, heard) < heard;
        self.window.pardon(now, lag, threshold);
        let sign = self.window.sample(now, false, fresh, threshold);
        match &mut self.silence {
            // Only an answer ends it: one direction may still work.
            Some(silence) if answered > silence.floor => {
                self.silence = None;
                self.window = Window::default();
                News::Health(LinkHealth::Up)
            }
            Some(silence) if now.saturating_duration_since(silence.opened) >= LANE_DEAD => {
                News::Dead
            }
            Some(silence) => match silence.lasts(now, lag) {
                true => News::Health(LinkHealth::Lost),
                false => News::Nothing,
            },
            None if sign == Sign::Silent => {
                let opened = now - self.window.age(now).unwrap_or_default();
                let silence = Silence::declared(now, opened, self.next_ping, threshold);
                self.silence = Some(silence);
                // The first question after it is asked at once.
                self.last_ping = now.checked_sub(PING_IDLE).unwrap_or(now);
                News::Health(LinkHealth::Silent)
            }
            None => News::Nothing,
        }
    }
}

/// Senses until the lane is over and says why it is. When a silence is confirmed the wish has ended.
pub(super) async fn run(
    shared: &Arc<Shared>,
    relayed: &Relayed,
    mut over: oneshot::Receiver<String>,
    (wish, number): (&RelayWish, u64),
) -> String {
    let lane = &relayed.lane;
    let mut sense = Sense::new(Instant::now(), lane.heard());
    loop {
        let patience = lock(&shared.monitor.patience).factor(Instant::now());
        let threshold = FLOOR.max(TRIPS * lane.rtt()).mul_f64(patience);
        let soonest = Instant::now() + Duration::from_millis(1);
        let due = sense.due(lane.streams() > 0, threshold).max(soonest);
        tokio::select! {
            biased;
            why = &mut over => return why.unwrap_or_else(|_| "the lane was dropped".into()),
            () = tokio::time::sleep_until(due.into()) => {}
            // A request begins: it is asked more often from now on.
            () = relayed.stirred.notified() => continue,
        }
        let now = Instant::now();
        let lag = now.saturating_duration_since(due);
        if shared.monitor.is_off() {
            sense.window.excuse(now);
        }
        let answered = relayed.answered.load(Ordering::Relaxed);
        match sense.look(now, lag, lane.heard(), answered, threshold) {
            News::Nothing => {}
            News::Health(health) => {
                relayed.health.send_replace(health);
                tracing::debug!(peer = %lane.peer, via = %relayed.via, ?health, "relayed lane");
                if health == LinkHealth::Lost {
                    super::end(shared, wish, number, "it no longer answers there".into()).await;
                }
            }
            News::Dead => lane.close(CloseCode::Stale, "nothing is answered here"),
        }
        if let Some(number) = sense.ping(now, lane.streams() > 0, threshold) {
            lane.ping(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const THR: Duration = FLOOR;

    /// Looks at every moment it wants to for `long`, of a peer that answers each ping at once while `alive`;
    /// returns what was told and when.
    fn run(long: Duration, busy: bool, alive: impl Fn(Duration) -> bool) -> Vec<(u128, News)> {
        let start = Instant::now();
        let mut sense = Sense::new(start, 0);
        let (mut heard, mut answered, mut told) = (0, 0, Vec::new());
        let mut now = start;
        while now < start + long {
            now = sense.due(busy, THR).max(now + MS);
            let news = sense.look(now, Duration::ZERO, heard, answered, THR);
            if news != News::Nothing {
                told.push(((now - start).as_millis(), news));
            }
            if let Some(number) = sense.ping(now, busy, THR)
                && alive(now - start)
            {
                (heard, answered) = (heard + 1, number + 1);
            }
        }
        told
    }

    #[test]
    fn a_peer_that_answers_its_pings_is_never_silent() {
        for busy in [true, false] {
            assert_eq!(run(Duration::from_secs(10), busy, |_| true), []);
        }
    }

    #[test]
    fn a_relay_that_dies_under_a_request_is_silent_and_lost_and_given_up_in_time() {
        let told = run(Duration::from_secs(4), true, |t| t < Duration::from_secs(1));
        let [
            (silent, News::Health(LinkHealth::Silent)),
            (lost, News::Health(LinkHealth::Lost)),
            ..,
        ] = told[..]
        else {
            panic!("{told:?}")
        };
        // A ping is due within 25 ms, and goes unanswered for 50; confirmed 2.5 thresholds after it.
        assert!((1_000..=1_080).contains(&silent), "{told:?}");
        assert!((silent + 70..=silent + 90).contains(&lost), "{told:?}");
        assert_eq!(told[2].1, News::Dead);
    }

    #[test]
    fn an_answer_ends_a_silence() {
        let dead = Duration::from_millis(1_000)..Duration::from_millis(1_090);
        let told = run(Duration::from_secs(3), true, |t| !dead.contains(&t));
        let kinds: Vec<News> = told.iter().map(|(_, news)| *news).collect();
        assert_eq!(
            kinds,
            [News::Health(LinkHealth::Silent), News::Health(LinkHealth::Up)],
            "{told:?}"
        );
    }

    /// Stands still for the second half of every 100 ms.
    #[test]
    fn a_host_that_is_throttled_still_finds_its_relay_dead_and_never_while_it_lives() {
        for alive in [false, true] {
            let start = Instant::now();
            let mut sense = Sense::new(start, 0);
            let (mut heard, mut answered, mut told) = (0, 0, Vec::new());
            let mut now = start;
            while now < start + Duration::from_secs(2) {
                let due = sense.due(true, THR).max(now + MS);
                let into = (due - start).as_millis() % 100;
                let late = if into < 50 { 0 } else { 100 - into };
                now = due + u32::try_from(late).unwrap() * MS;
                match sense.look(now, now - due, heard, answered, THR) {
                    News::Nothing => {}
                    news => told.push(news),
                }
                if let Some(number) = sense.ping(now, true, THR)
                    && alive
                {
                    (heard, answered) = (heard + 1, number + 1);
                }
            }
            let lost = [News::Health(LinkHealth::Silent), News::Health(LinkHealth::Lost)];
            assert_eq!(told.get(..2).unwrap_or_default(), if alive { &[][..] } else { &lost });
        }
    }

    #[test]
    fn our_own_lateness_accuses_nobody() {
        let start = Instant::now();
        let mut sense = Sense::new(start, 0);
        assert!(sense.ping(start + PING_IDLE, false, THR).is_some());
        let woken = start + Duration::from_secs(5);
        let news = sense.look(woken, Duration::from_secs(4), 0, 0, THR);
        assert_eq!(news, News::Nothing, "the answer may lie unread");
    }
}
