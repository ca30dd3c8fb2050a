//! When is a peer silent? The arithmetic, over moments that come in as arguments.
//!
//! A [`Window`] opens with the first ack-eliciting send that nothing was heard after, and closes with
//! the first datagram heard. While it is open for longer than the [`threshold`], the peer is silent.
//! Only the caller knows clocks and connections; nothing here waits, sends or counts.
//!
//! Two safeguards keep us from accusing a peer of our own faults: [`Window::excuse`] restarts the
//! judgement after our own loop was late, and half-way to the threshold the window asks for a second
//! opinion on the mesh link ([`Sign::Doubt`]), so that a data connection that nobody read in time is no
//! proof by itself.

use std::time::{Duration, Instant};

/// No silence is declared earlier: the longest healthy silence measured under full CPU load was 9.8 ms.
pub(crate) const FLOOR: Duration = Duration::from_millis(20);
/// Our own loop is late beyond this; what was not read meanwhile is our fault, not the peer's.
pub(crate) const LATE: Duration = Duration::from_millis(10);

/// What is known of the path, as far as the threshold needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathFacts {
    /// Smoothed round-trip time.
    pub(crate) rtt: Duration,
    /// The smallest one seen.
    pub(crate) min_rtt: Duration,
    /// How long the peer may hold an acknowledgement back.
    pub(crate) ack_delay: Duration,
}

/// How long a peer may leave an ack-eliciting packet unanswered: RTT, four times its variation and the
/// acknowledgement delay (as RFC 9002 section 6.2.1 counts a PTO), never below [`FLOOR`].
///
/// quinn tells the smoothed and the smallest RTT but not the variation; a sixteenth of the RTT or half
/// of what it stands above its minimum takes its place.
pub(crate) fn threshold(path: PathFacts) -> Duration {
    let variation = (path.rtt / 16).max(path.rtt.saturating_sub(path.min_rtt) / 2);
    (path.rtt + 4 * variation + path.ack_delay).max(FLOOR)
}

/// What one sample says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Nothing is outstanding, or it is not for long.
    Fine,
    /// Half the threshold is over: ask on the mesh link. Said once per window.
    Doubt,
    /// Nothing was heard for the threshold.
    Silent,
}

/// The judgement over all connections of one peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    opened: Option<Instant>,
    doubted: bool,
}

impl Window {
    /// Takes in what moved since the last sample: ack-eliciting frames sent, datagrams heard.
    ///
    /// Both at once closes the window. If the sends came after what was heard, the transport's own
    /// probe packets (PTO) will open it again within milliseconds.
    pub(crate) fn sample(
        &mut self,
        now: Instant,
        sent: bool,
        heard: bool,
        threshold: Duration,
    ) -> Sign {
        if heard {
            *self = Self::default();
            return Sign::Fine;
        }
        if sent && self.opened.is_none() {
            self.opened = Some(now);
        }
        match self.age(now) {
            Some(age) if age >= threshold => Sign::Silent,
            Some(age) if age >= threshold / 2 && !self.doubted => {
                self.doubted = true;
                Sign::Doubt
            }
            _ => Sign::Fine,
        }
    }

    /// Our own loop was late: judge from now on.
    pub(crate) fn excuse(&mut self, now: Instant) {
        if self.opened.is_some() {
            *self = Self { opened: Some(now), doubted: false };
        }
    }

    /// Our own loop was late by so much, which is not counted: for judgements that take so long that a busy
    /// host would excuse them for ever.
    pub(crate) fn forgive(&mut self, now: Instant, lag: Duration) {
        self.opened = self.opened.map(|opened| (opened + lag).min(now));
    }

    /// How long the oldest send has been unanswered.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        self.opened.map(|t| now.saturating_duration_since(t))
    }

    /// When the window will have something to say if nothing is heard.
    pub(crate) fn due(&self, threshold: Duration) -> Option<Instant> {
        self.opened.map(|t| t + if self.doubted { threshold } else { threshold / 2 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const THR: Duration = FLOOR;

    fn path(rtt: u32, min: u32, delay: u32) -> PathFacts {
        PathFacts { rtt: rtt * MS, min_rtt: min * MS, ack_delay: delay * MS }
    }

    #[test]
    fn the_threshold_is_the_floor_on_a_lan_and_grows_with_the_path() {
        assert_eq!(threshold(path(0, 0, 2)), FLOOR);
        assert_eq!(threshold(path(40, 40, 2)), 52 * MS);
        assert_eq!(threshold(path(48, 40, 2)), 66 * MS);
        assert_eq!(threshold(path(0, 0, 25)), 25 * MS);
    }

    #[test]
    fn an_unanswered_send_is_silence_after_the_threshold_counted_from_the_first_one() {
        let t = Instant::now();
        let mut w = Window::default();
        assert_eq!(w.sample(t, true, false, THR), Sign::Fine);
        assert_eq!(w.sample(t + 5 * MS, true, false, THR), Sign::Fine);
        assert_eq!(w.sample(t + 10 * MS, true, false, THR), Sign::Doubt);
        assert_eq!(w.sample(t + 15 * MS, false, false, THR), Sign::Fine);
        assert_eq!(w.sample(t + 20 * MS, false, false, THR), Sign::Silent);
        assert_eq!(w.age(t + 20 * MS), Some(20 * MS));
    }

    #[test]
    fn a_datagram_heard_closes_the_window_whatever_was_sent() {
        let t = Instant::now();
        let mut w = Window::default();
        w.sample(t, true, false, THR);
        assert_eq!(w.sample(t + 19 * MS, true, true, THR), Sign::Fine);
        assert_eq!(w.age(t + 19 * MS), None);
        assert_eq!(w.sample(t + 30 * MS, true, false, THR), Sign::Fine);
    }

    #[test]
    fn idleness_is_not_silence() {
        let t = Instant::now();
        let mut w = Window::default();
        for i in 0..100 {
            assert_eq!(w.sample(t + i * 5 * MS, false, false, THR), Sign::Fine);
        }
    }

    #[test]
    fn after_our_own_lateness_the_judgement_starts_anew() {
        let t = Instant::now();
        let mut w = Window::default();
        w.sample(t, true, false, THR);
        w.excuse(t + 40 * MS);
        assert_eq!(w.sample(t + 40 * MS, false, false, THR), Sign::Fine);
        assert_eq!(w.sample(t + 50 * MS, false, false, THR), Sign::Doubt);
        assert_eq!(w.sample(t + 60 * MS, false, false, THR), Sign::Silent);
        let mut idle = Window::default();
        idle.excuse(t);
        assert_eq!(idle.age(t), None);
    }

    #[test]
    fn our_own_lateness_is_taken_off_a_long_judgement() {
        let t = Instant::now();
        let mut w = Window::default();
        w.sample(t, true, false, 10 * THR);
        for i in 1..=20 {
            // Every look comes 5 ms too late.
            w.forgive(t + i * 15 * MS, 5 * MS);
        }
        assert_eq!(w.age(t + 300 * MS), Some(200 * MS));
        w.forgive(t + 300 * MS, 1000 * MS);
        assert_eq!(w.age(t + 300 * MS), Some(Duration::ZERO), "never into the future");
    }

    #[test]
    fn a_window_says_when_to_look_next() {
        let t = Instant::now();
        let mut w = Window::default();
        assert_eq!(w.due(THR), None);
        w.sample(t, true, false, THR);
        assert_eq!(w.due(THR), Some(t + 10 * MS));
        w.sample(t + 10 * MS, false, false, THR);
        assert_eq!(w.due(THR), Some(t + 20 * MS));
    }
}
