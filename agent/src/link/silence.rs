//! When is a peer silent? The arithmetic, over moments that come in as arguments.
//!
//! A [`Window`] opens with the first ack-eliciting send that nothing was heard after, and closes with
//! the first datagram heard. While it is open for longer than the [`threshold`], the peer is silent.
//! Only the caller knows clocks and connections; nothing here waits, sends or counts.
//!
//! A [`Silence`] that was declared is reversible: it ends with an answer. Unanswered for
//! [`confirmed_after`] it is *confirmed*, and what is under way there is given up. Between the two the peer
//! is asked again and again ([`Silence::ask_every`]), each question as likely to be lost as the path is
//! lossy, whatever became of the others. With a loss of p each way and q = 1-(1-p)², a LAN's silence is
//! declared against a healthy peer with q⁵ (knowledge: three expiries of its probe timer) and confirmed
//! with q⁶ on top: 8e-12 of the windows at 5 % loss, 1e-8 at 10 %.
//!
//! Two safeguards keep us from accusing a peer of our own faults. Half-way to the threshold the window asks for a
//! second opinion on the mesh link ([`Sign::Doubt`]), so that a data connection that nobody read in time is no
//! proof by itself. And our own lateness is no silence of the peer's ([`Window::pardon`]): it is taken off, and a late
//! look decides nothing, since what was answered meanwhile may lie unread. After the first one in a window the peer
//! has [`FLOOR`] more and is asked again; a confirmation then starts anew. After further ones it has what it takes to
//! read what lies there ([`unread`]), no more: a host whose CPU is throttled comes late every 100 ms, and would else
//! never find anybody dead.

use std::time::{Duration, Instant};

use hearth_proto::evidence::confirmed_after;

/// No silence is declared earlier: the longest healthy silence measured under full CPU load was 9.8 ms.
pub(crate) const FLOOR: Duration = Duration::from_millis(20);
/// Our own loop is late beyond this; what was not read meanwhile is our fault, not the peer's.
pub(crate) const LATE: Duration = Duration::from_millis(10);

/// What piled up while we were late is read within a tenth of the time that it took to pile up, within these: so
/// that a host that runs for an eighth of the time still comes to a judgement.
const READ_SHARE: u32 = 10;
const READ: [Duration; 2] = [Duration::from_millis(5), FLOOR];

/// A silence is asked about so often before it is confirmed.
const QUESTIONS: u32 = 6;

/// A silence that ends within so many times its threshold was a false alarm.
const FALSE_FACTOR: u32 = 5;

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

/// How long what lies unread may take to be read, after we were late by so much.
fn unread(lag: Duration) -> Duration {
    let [least, most] = READ;
    (lag / READ_SHARE).clamp(least, most)
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
    /// We were late since it opened.
    pardoned: bool,
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

    /// Something was heard, and something sent after it that is to be acknowledged.
    pub(crate) fn renew(&mut self, now: Instant) {
        *self = Self { opened: Some(now), ..Self::default() };
    }

    /// Nobody looked until now: judge from now on.
    pub(crate) fn excuse(&mut self, now: Instant) {
        if self.opened.is_some() {
            self.renew(now);
        }
    }

    /// This look comes so much later than it should. If that is more than [`LATE`] it is not counted, and the peer has
    /// some time left in any case, in which what lies unread is read: [`FLOOR`] after the first such look, when
    /// it is asked again too, and as long as that takes after each further one.
    pub(crate) fn pardon(&mut self, now: Instant, lag: Duration, threshold: Duration) {
        if lag <= LATE || self.opened.is_none() {
            return;
        }
        self.forgive(now, lag);
        let left = if std::mem::replace(&mut self.pardoned, true) {
            unread(lag)
        } else {
            self.doubted = false;
            FLOOR
        };
        let latest = now.checked_sub(threshold.saturating_sub(left)).unwrap_or(now);
        self.opened = self.opened.map(|opened| opened.max(latest));
    }

    /// Our own loop was late by so much, which is not counted: for judgements that take so long that a busy
    /// host would excuse them for ever.
    pub(crate) fn forgive(&mut self, now: Instant, lag: Duration) {
        self.opened = self.opened.map(|opened| (opened + lag).min(now));
    }

    /// When the oldest unanswered send was noticed.
    pub(crate) fn opened(&self) -> Option<Instant> {
        self.opened
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

/// A silence that was declared and not ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    /// When the first unanswered send was noticed.
    pub(crate) opened: Instant,
    /// Only a pong to this ping or a later one ends it: one direction may still work.
    pub(crate) floor: u64,
    /// After which it was declared.
    threshold: Duration,
    /// From its declaration to its confirmation.
    patience: Duration,
    /// When it is confirmed. `None`: it is.
    due: Option<Instant>,
    /// Nobody waited in vain yet: something else than our clock said so.
    assumed: bool,
    /// We were late since it was declared.
    pardoned: bool,
}

impl Silence {
    /// A silence declared at `now`, when nothing had been heard for the `threshold`.
    pub(crate) fn declared(now: Instant, opened: Instant, floor: u64, threshold: Duration) -> Self {
        let patience = confirmed_after(threshold).saturating_sub(threshold);
        let due = Some(now + patience);
        Self { opened, floor, threshold, patience, due, assumed: false, pardoned: false }
    }

    /// A silence assumed at `now` from what the peer's host did, before anything was asked.
    pub(crate) fn assumed(now: Instant, floor: u64, threshold: Duration) -> Self {
        Self { assumed: true, ..Self::declared(now, now, floor, threshold) }
    }

    /// Whether, ending now, it was declared too soon by our clock: an outage lasts longer.
    pub(crate) fn was_false(&self, now: Instant) -> bool {
        !self.assumed && now.saturating_duration_since(self.opened) < self.threshold * FALSE_FACTOR
    }

    /// Takes in that it lasts, seen at a look that came `lag` late. `true`: it is confirmed from now on.
    pub(crate) fn lasts(&mut self, now: Instant, lag: Duration) -> bool {
        let Some(due) = self.due else { return false };
        if lag <= LATE {
            self.due = Some(due).filter(|due| now - lag < *due);
        } else if std::mem::replace(&mut self.pardoned, true) {
            self.due = Some((due + lag).max(now + unread(lag)));
        } else {
            // What was answered meanwhile may not have been read.
            self.due = Some(now + self.patience);
        }
        self.due.is_none()
    }

    /// When it will be confirmed; `None`: it is.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// How often the peer is to be asked, so that one answer may be lost, or some.
    pub(crate) fn ask_every(&self) -> Duration {
        self.patience / QUESTIONS
    }
}

#[cfg(test)]
mod alarms;
#[cfg(test)]
mod throttled;

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
    fn a_host_that_is_late_again_and_again_still_notices_a_long_silence() {
        let t = Instant::now();
        let mut w = Window::default();
        w.sample(t, true, false, 4 * THR);
        // Each look comes 11 ms late, and one half a second.
        for i in 1..=4 {
            w.pardon(t + i * 21 * MS, 11 * MS, 4 * THR);
            assert_eq!(w.age(t + i * 21 * MS), Some(i * 10 * MS));
        }
        w.pardon(t + 650 * MS, 500 * MS, 4 * THR);
        assert_eq!(w.age(t + 650 * MS), Some(3 * THR), "what lies unread is read first");
        assert_eq!(w.sample(t + 669 * MS, false, false, 4 * THR), Sign::Doubt);
        assert_eq!(w.sample(t + 670 * MS, false, false, 4 * THR), Sign::Silent);
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
    fn a_silence_on_a_lan_is_confirmed_50_ms_after_the_first_unanswered_send() {
        let t = Instant::now();
        let mut silence = Silence::declared(t + 20 * MS, t, 7, THR);
        assert_eq!((silence.opened, silence.floor, silence.due()), (t, 7, Some(t + 50 * MS)));
        assert_eq!(silence.ask_every(), 5 * MS);
        assert!(!silence.lasts(t + 49 * MS, Duration::ZERO));
        assert!(silence.lasts(t + 50 * MS, Duration::ZERO), "said once");
        assert_eq!(silence.due(), None);
        assert!(!silence.lasts(t + 55 * MS, Duration::ZERO), "not again");
    }

    #[test]
    fn a_silence_on_a_long_path_is_confirmed_in_proportion() {
        let t = Instant::now();
        let silence = Silence::declared(t + 80 * MS, t, 0, 80 * MS);
        assert_eq!((silence.due(), silence.ask_every()), (Some(t + 200 * MS), 20 * MS));
    }

    #[test]
    fn our_own_lateness_confirms_no_silence() {
        let t = Instant::now();
        let mut silence = Silence::declared(t, t, 0, THR);
        // A little late: what it should have seen counts, and the next look decides.
        assert!(!silence.lasts(t + 35 * MS, 8 * MS));
        // Stopped for seconds: the answers are read first.
        let woken = t + 1000 * MS;
        assert!(!silence.lasts(woken, 960 * MS));
        assert!(!silence.lasts(woken + 29 * MS, Duration::ZERO));
        // And again: what lies unread is read, but it does not start anew for ever.
        let again = woken + 1000 * MS;
        assert!(!silence.lasts(again, 960 * MS));
        assert!(!silence.lasts(again + 19 * MS, Duration::ZERO));
        assert!(silence.lasts(again + 20 * MS, Duration::ZERO));
    }

    #[test]
    fn a_late_look_by_itself_says_nothing_of_a_peer_however_many_there_are() {
        let t = Instant::now();
        for threshold in [20, 60, 100, 400].map(|ms| ms * MS) {
            for lag in [11, 50, 90, 500, 5000].map(|ms| ms * MS) {
                let (mut window, mut silence) =
                    (Window::default(), Silence::declared(t, t, 0, threshold));
                window.sample(t, true, false, threshold);
                let mut now = t;
                for look in 0..50 {
                    now += 5 * MS + lag;
                    window.pardon(now, lag, threshold);
                    let sign = window.sample(now, false, false, threshold);
                    assert_ne!(sign, Sign::Silent, "{threshold:?} {lag:?} {look}");
                    assert!(!silence.lasts(now, lag), "{threshold:?} {lag:?} {look}");
                }
            }
        }
    }

    #[test]
    fn the_first_late_look_leaves_a_peer_the_floor_and_has_it_asked_again() {
        let t = Instant::now();
        let mut w = Window::default();
        w.sample(t, true, false, 4 * THR);
        assert_eq!(w.sample(t + 79 * MS, false, false, 4 * THR), Sign::Doubt);
        w.pardon(t + 100 * MS, 12 * MS, 4 * THR);
        assert_eq!(w.age(t + 100 * MS), Some(3 * THR), "of 88 ms");
        assert_eq!(w.sample(t + 100 * MS, false, false, 4 * THR), Sign::Doubt);
        assert_eq!(w.sample(t + 119 * MS, false, false, 4 * THR), Sign::Fine);
        // Late again: it was asked, and there is little to be read.
        w.pardon(t + 130 * MS, 11 * MS, 4 * THR);
        assert_eq!(w.age(t + 130 * MS), Some(4 * THR - 5 * MS));
        assert_eq!(w.sample(t + 135 * MS, false, false, 4 * THR), Sign::Silent);
        w.sample(t + 136 * MS, true, true, 4 * THR);
        w.sample(t + 140 * MS, true, false, 4 * THR);
        w.pardon(t + 240 * MS, 20 * MS, 4 * THR);
        assert_eq!(w.age(t + 240 * MS), Some(3 * THR), "another window");
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
