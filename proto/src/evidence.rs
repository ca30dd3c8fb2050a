//! From what was seen to what this agent thinks of an endpoint: evidence in, [`Standing`] out.
//!
//! Two laws hold throughout. *Local proof beats hearsay, in both directions*: a link of ours that
//! answers outweighs a verdict of others, a link of ours that is silent outweighs their good opinion.
//! *Fast local evidence never becomes a membership verdict by itself*: nothing here is gossiped as a
//! fact. This module owns no time: moments come in, deadlines go out.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::advert::Condition;
use crate::drill::DrillId;
use crate::outlier::{Symptom, Track};
use crate::time::Time;

/// Failures in a row after which an endpoint is ejected, as Envoy's `consecutive_gateway_failure`;
/// three, since each costs a user a retry.
pub const EJECT_AFTER: u32 = 3;
/// Time-outs of requests that were under way together may be one stall: of the application (it collects garbage),
/// of a busy machine, of our own, or of TCP, which repeats a segment that was lost twice after 200 ms at the earliest
/// (Linux's `TCP_RTO_MIN`), so that all requests of a lane wait. Only a row that lasts longer ejects; until then each
/// request is hedged. What is refused or broken off is certain at once.
pub const STALL: Duration = Duration::from_millis(250);
/// [`STALL`] is for rows of so many; fewer eject only after [`STALL_OF_FEW`]. Whose answer was overtaken by a hedge
/// was cut off before it came: on a host that answers late for a moment that befalls a few in a row, and hedging
/// has hidden all of them.
pub const MANY: u32 = 20;
/// How long a row of fewer than [`MANY`] time-outs must last to eject.
pub const STALL_OF_FEW: Duration = Duration::from_secs(1);
/// First ejection. Short, because a retry hides a wrong guess and a probe request ends it.
pub const EJECT_BASE: Duration = Duration::from_secs(2);
/// Longest ejection.
pub const EJECT_MAX: Duration = Duration::from_secs(60);
/// A silence is *confirmed*, so that warm endpoints may be called up for it, after so long: twice the
/// bound after which traffic has left, reversible until then (knowledge: longest healthy silence under
/// load was 9.8 ms).
pub const CONFIRM_SILENCE: Duration = Duration::from_millis(50);
/// On a long path the same in proportion: a silence is confirmed after so many times what its link took
/// for it, so that the answer to a ping sent when it was declared still comes in time. On a LAN
/// (20 ms) this is [`CONFIRM_SILENCE`].
pub const CONFIRM_FACTOR: f64 = 2.5;
/// Who comes so much later than it should did not run meanwhile: answers may lie unread.
pub const LATE_LOOK: Duration = Duration::from_millis(10);
/// A node that others accuse while our link to it is up is looked at; until the look is answered, or the
/// link silent, or this has passed, the link's word stands.
pub const PROOF_WAIT: Duration = Duration::from_millis(500);

/// A node known from disk or from others that nobody has heard of for so long is lost: four times the period (of
/// digests, 2 s ± 25 %) in which membership would have told of it.
pub const UNHEARD_LOST: Duration = Duration::from_secs(10);

/// How long a silence lasts, counted from its first unanswered send, until it is confirmed: its link layer
/// took it for one after `unanswered`.
pub fn confirmed_after(unanswered: Duration) -> Duration {
    CONFIRM_SILENCE.max(unanswered.mul_f64(CONFIRM_FACTOR))
}

/// What this agent thinks of an endpoint now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Takes requests.
    Ready,
    /// Perhaps alive: used only where nothing better is left.
    Doubtful(Why),
    /// Takes nothing.
    Out(Why),
}

impl Standing {
    /// `ready`, `doubtful` or `out`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Doubtful(_) => "doubtful",
            Self::Out(_) => "out",
        }
    }

    /// The reason; `None` when ready.
    pub fn why(&self) -> Option<&Why> {
        match self {
            Self::Ready => None,
            Self::Doubtful(why) | Self::Out(why) => Some(why),
        }
    }
}

/// Why an endpoint is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Our link to its node is silent: what we send is not acknowledged.
    Silent {
        /// Since when.
        since: Time,
    },
    /// SWIM: several nodes cannot reach its node; no verdict yet.
    Suspect {
        /// Since when.
        since: Time,
    },
    /// SWIM: its node is down.
    Down {
        /// Since when.
        since: Time,
    },
    /// Known from disk or from others, not heard of since this agent started.
    Unheard,
    /// Its node left in good order.
    Left,
    /// Its owner says so.
    Condition(Condition),
    /// It failed for us too often.
    Ejected {
        /// Failures in a row.
        failures: u32,
        /// Until when.
        until: Time,
    },
    /// It answers, but worse than its siblings.
    Outlier {
        /// What was wrong with its answers.
        symptom: Symptom,
        /// Until when.
        until: Time,
    },
    /// The control plane withdrew trust from its node.
    Revoked,
    /// It is taken for lost on purpose.
    Drill {
        /// By which drill.
        id: DrillId,
        /// Until when, at the latest.
        until: Time,
    },
    /// SWIM: its node comes and goes, or many cannot reach it, though it is not down.
    Unsteady {
        /// Since when.
        since: Time,
    },
}

impl Why {
    /// One stable word, for metrics, traces and JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Silent { .. } => "silent",
            Self::Suspect { .. } => "suspect",
            Self::Unsteady { .. } => "unsteady",
            Self::Down { .. } => "down",
            Self::Unheard => "unheard",
            Self::Left => "left",
            Self::Condition(c) => c.word(),
            Self::Ejected { .. } => "ejected",
            Self::Outlier { .. } => "outlier",
            Self::Revoked => "revoked",
            Self::Drill { .. } => "drill",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent { .. } => {
                f.write_str("our link to its node is silent: what we send is not acknowledged")
            }
            Self::Suspect { .. } => f.write_str("several nodes cannot reach its node (suspect)"),
            Self::Unsteady { .. } => f.write_str(
                "its node was declared down a short while ago, or many cannot reach it (unsteady)",
            ),
            Self::Down { .. } => f.write_str("its node is down, by the members' verdict"),
            Self::Unheard => f.write_str("its node has not been heard of since this agent started"),
            Self::Left => f.write_str("its node left in good order"),
            Self::Condition(Condition::Unready) => {
                f.write_str("its owner's health check fails, or has not passed yet")
            }
            Self::Condition(Condition::Standby) => f.write_str("it stands by"),
            Self::Condition(Condition::Activating) => f.write_str("it is being activated"),
            Self::Condition(Condition::Draining) => f.write_str("its owner drains it"),
            Self::Condition(Condition::Serving) => f.write_str("it serves"),
            Self::Ejected { failures, .. } => {
                write!(f, "{failures} requests in a row failed there (ejected for a while)")
            }
            Self::Outlier { symptom, .. } => write!(f, "{symptom} (outlier, out for a while)"),
            Self::Revoked => f.write_str("the control plane withdrew trust from its node"),
            Self::Drill { id, .. } => write!(f, "taken for lost on purpose ({id})"),
        }
    }
}

/// What SWIM says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Swim {
    /// Not heard of by membership since we started.
    Unheard,
    /// Alive.
    Alive,
    /// Suspected.
    Suspect,
    /// Down.
    Down,
    /// Not down, but declared so not long ago in the same start of its agent, or accused by many.
    Unsteady,
}

impl Swim {
    /// Whether the node is taken for alive: nobody suspects it now.
    pub fn lives(self) -> bool {
        matches!(self, Self::Alive | Self::Unsteady)
    }

    /// Whether the node is a member: it lives, or is suspect.
    pub fn is_active(self) -> bool {
        !matches!(self, Self::Down | Self::Unheard)
    }

    /// Whether others accuse the node. Its own answer to us counts for more.
    pub fn is_accused(self) -> bool {
        matches!(self, Self::Suspect | Self::Down | Self::Unsteady)
    }
}

impl fmt::Display for Swim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unheard => "unheard",
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Unsteady => "unsteady",
        })
    }
}

/// What our own link to a node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkState {
    /// There is none, and nothing follows from that.
    None,
    /// Up: the peer proves to be alive.
    Up,
    /// What we send is not acknowledged.
    Silent,
}

/// What is known of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeEvidence {
    /// By membership.
    pub swim: Swim,
    /// Since when.
    pub swim_since: Time,
    /// By our own link.
    pub link: LinkState,
    /// Since when.
    pub link_since: Time,
    /// When a silence counts as confirmed.
    pub confirmed: Time,
    /// That was put off since we came late to it: once, or an agent that always comes late would confirm nothing.
    pub put_off: bool,
    /// Not lost before: what speaks against it may be our own absence.
    pub spared: Time,
    /// When the node last proved to be alive over a link of ours.
    pub heard: Option<Time>,
    /// Trust withdrawn.
    pub revoked: bool,
}

impl NodeEvidence {
    /// A node nothing is known of but its name.
    pub fn unheard(now: Time) -> Self {
        Self {
            swim: Swim::Unheard,
            swim_since: now,
            link: LinkState::None,
            link_since: now,
            confirmed: now,
            put_off: false,
            spared: Time(0),
            heard: None,
            revoked: false,
        }
    }

    /// Whether the node is taken for alive, by membership or by our own link.
    pub fn lives(&self) -> bool {
        !self.revoked
            && self.link != LinkState::Silent
            && (self.swim.lives() || self.link == LinkState::Up)
    }

    /// Our link went silent: nothing was heard since `began`, which its link layer took for a silence after
    /// `unanswered`.
    pub fn silence(&mut self, began: Time, unanswered: Duration) {
        self.link = LinkState::Silent;
        self.link_since = began;
        self.confirmed = began + confirmed_after(unanswered);
        self.put_off = false;
    }

    /// Looks whether a silence is confirmed by now. Where that comes late, the peer has as long again as from the
    /// declaration to the confirmation: its answer may lie unread. Returns whether there is nothing more to wait
    /// for.
    pub fn look(&mut self, now: Time) -> bool {
        if self.link != LinkState::Silent || self.put_off {
            return true;
        }
        if now.since(self.confirmed) > LATE_LOOK {
            let patience =
                self.confirmed.since(self.link_since).mul_f64(1.0 - 1.0 / CONFIRM_FACTOR);
            (self.confirmed, self.put_off) = (now + patience, true);
            return true;
        }
        now >= self.confirmed
    }

    /// Others accuse the node and our link to it is up: until when its answer to our look is waited for.
    /// `None` if nothing is waited for.
    pub fn pending(&self, now: Time) -> Option<Time> {
        let accused = self.swim.is_accused();
        let until = self.swim_since + PROOF_WAIT;
        (accused && self.link == LinkState::Up && now < until).then_some(until)
    }

    /// What follows for all endpoints of the node, by the first rule that fits:
    ///
    /// 1. revoked: out;
    /// 2. our link is silent: doubtful, or out once that is confirmed and membership says down as well (what
    ///    others say confirms no silence: they may have been cut off when they judged);
    /// 3. our link answered since others accused the node, or may still answer: ready, whatever they say;
    /// 4. membership: down → out, suspect or unsteady → doubtful, alive → ready;
    /// 5. membership never heard of it: ready if our link is up, else doubtful.
    pub fn standing(&self, now: Time) -> Standing {
        let down = Why::Down { since: self.swim_since };
        let proven = self.link == LinkState::Up
            && (self.heard.is_some_and(|t| t > self.swim_since) || self.pending(now).is_some());
        match (self.revoked, self.link, self.swim) {
            (true, _, _) => Standing::Out(Why::Revoked),
            (_, LinkState::Silent, Swim::Down) if now >= self.confirmed => Standing::Out(down),
            (_, LinkState::Silent, _) => Standing::Doubtful(Why::Silent { since: self.link_since }),
            (_, _, Swim::Down) if !proven => Standing::Out(down),
            (_, _, Swim::Suspect) if !proven => {
                Standing::Doubtful(Why::Suspect { since: self.swim_since })
            }
            (_, _, Swim::Unsteady) if !proven => {
                Standing::Doubtful(Why::Unsteady { since: self.swim_since })
            }
            (_, LinkState::None, Swim::Unheard) => Standing::Doubtful(Why::Unheard),
            _ => Standing::Ready,
        }
    }

    /// Whether the node is lost as far as calling up warm endpoints goes: confirmed silent, down and not
    /// provably alive, or unheard of for [`UNHEARD_LOST`]; none of it while it is spared. `Err` says when to ask
    /// again.
    pub fn lost(&self, now: Time) -> Result<bool, Time> {
        let moment = match self.standing(now) {
            Standing::Out(_) => self.spared,
            Standing::Doubtful(Why::Silent { .. }) => self.confirmed.max(self.spared),
            Standing::Doubtful(Why::Unheard) => (self.swim_since + UNHEARD_LOST).max(self.spared),
            Standing::Ready | Standing::Doubtful(_) => return Ok(false),
        };
        if now >= moment { Ok(true) } else { Err(moment) }
    }

    /// This agent was away since `left` and catches up until then: a node that was not lost by that time is not
    /// before.
    pub fn spare(&mut self, left: Time, until: Time) {
        if self.lost(left) != Ok(true) {
            self.spared = until;
        }
    }
}

/// How a request to an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Answered.
    Answered {
        /// Until the response's head.
        latency: Duration,
    },
    /// Nothing of it reached the application.
    Refused,
    /// Cut off before the answer was whole.
    Broken,
    /// No answer in time.
    TimedOut,
    /// Answered 502, 503 or 504.
    ServerError,
}

impl Outcome {
    /// One stable word, for metrics and records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Answered { .. } => "answered",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::TimedOut => "timed_out",
            Self::ServerError => "server_error",
        }
    }
}

/// What requests taught us about one endpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EndpointEvidence {
    failures: u32,
    /// When the present row of failures began, and when its last one was.
    failing: Option<(Time, Time)>,
    ejections: u32,
    ejected_until: Option<Time>,
    /// How its answers compare with its siblings'.
    pub outlier: Track,
}

impl EndpointEvidence {
    /// Takes in an outcome. `jitter` in 0..1 spreads the ends of ejections; `may_eject` is false where
    /// too many endpoints of the service are out already. Returns whether this ejected the endpoint.
    pub fn observe(&mut self, outcome: Outcome, now: Time, jitter: f64, may_eject: bool) -> bool {
        if let Outcome::Answered { .. } = outcome {
            self.failures = 0;
            self.failing = None;
            self.ejections = 0;
            self.ejected_until = None;
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        let since = self.failing.map_or(now, |(since, _)| since);
        self.failing = Some((since, now));
        let stall = if self.failures < MANY { STALL_OF_FEW } else { STALL };
        let one_stall = outcome == Outcome::TimedOut && now.since(since) < stall;
        if self.failures < EJECT_AFTER || one_stall || !may_eject || self.is_ejected(now) {
            return false;
        }
        self.ejections += 1;
        let long = (EJECT_BASE * self.ejections.min(30)).min(EJECT_MAX);
        self.ejected_until = Some(now + long.mul_f64(0.9 + 0.2 * jitter));
        true
    }

    /// Ends an ejection, or a time out, that is over. The endpoint is then on probation: its next failure
    /// ejects it again, for longer. Returns whether that happened now.
    pub fn expire(&mut self, now: Time) -> bool {
        let back = self.outlier.expire(now);
        match self.ejected_until {
            Some(until) if until <= now => {
                self.ejected_until = None;
                self.failures = EJECT_AFTER - 1;
                true
            }
            _ => back,
        }
    }

    /// Whether it was ejected, and has answered nothing since.
    pub fn on_probation(&self) -> bool {
        self.ejections > 0 && self.ejected_until.is_none()
    }

    /// Whether a row of failures goes on that would eject, but for its length.
    pub fn is_failing(&self, now: Time) -> bool {
        let lately = |(_, last)| now.since(last) <= STALL_OF_FEW;
        self.failures >= EJECT_AFTER && self.failing.is_some_and(lately)
    }

    /// Whether it is ejected at `now`.
    pub fn is_ejected(&self, now: Time) -> bool {
        self.ejected_until.is_some_and(|until| until > now)
    }

    /// When the present ejection ends.
    pub fn ejected_until(&self) -> Option<Time> {
        self.ejected_until
    }

    /// When the standing that follows from requests alone is to be looked at again.
    pub fn recheck(&self, now: Time) -> Option<Time> {
        let ejected = self.ejected_until.filter(|until| *until > now);
        ejected.into_iter().chain(self.outlier.out(now).map(|(_, until)| until)).min()
    }

    /// The standing that follows from requests alone.
    pub fn standing(&self, now: Time) -> Standing {
        match self.ejected_until {
            Some(until) if until > now => {
                Standing::Out(Why::Ejected { failures: self.failures, until })
            }
            _ => match self.outlier.out(now) {
                Some((symptom, until)) => Standing::Out(Why::Outlier { symptom, until }),
                None => Standing::Ready,
            },
        }
    }
}

/// The standing of an endpoint, by the first rule that fits: the node's word counts first (revoked,
/// down, silent), then the owner's word (condition), then our own requests, then doubts about the
/// node.
pub fn standing(
    node: &NodeEvidence,
    left: bool,
    condition: Condition,
    endpoint: Option<&EndpointEvidence>,
    now: Time,
) -> Standing {
    let of_node = node.standing(now);
    if let Standing::Out(_) = of_node {
        return of_node;
    }
    if left {
        return Standing::Out(Why::Left);
    }
    if condition != Condition::Serving {
        return Standing::Out(Why::Condition(condition));
    }
    if let Some(out @ Standing::Out(_)) = endpoint.map(|e| e.standing(now)) {
        return out;
    }
    of_node
}

#[cfg(test)]
mod exhaustive;

#[cfg(test)]
mod tests {
    use super::*;

    const T: Time = Time(1_000_000);
    const LATER: Time = Time(2_000_000);

    fn node(swim: Swim, link: LinkState) -> NodeEvidence {
        let mut node = NodeEvidence { swim, ..NodeEvidence::unheard(T) };
        match link {
            LinkState::Silent => node.silence(T, Duration::from_millis(20)),
            link => node.link = link,
        }
        node
    }

    #[test]
    fn local_proof_beats_hearsay_in_both_directions() {
        let mut alive = node(Swim::Down, LinkState::Up);
        alive.heard = Some(T + CONFIRM_SILENCE);
        assert_eq!(alive.standing(LATER), Standing::Ready);
        assert_eq!(
            node(Swim::Alive, LinkState::Silent).standing(LATER),
            Standing::Doubtful(Why::Silent { since: T })
        );
    }

    #[test]
    fn a_link_that_is_merely_up_is_no_proof_against_a_later_accusation() {
        let mut idle = node(Swim::Down, LinkState::Up);
        idle.heard = Some(T - CONFIRM_SILENCE);
        assert!(matches!(idle.standing(LATER), Standing::Out(Why::Down { .. })));
    }

    #[test]
    fn down_is_out_unless_our_own_link_answers() {
        assert!(matches!(node(Swim::Down, LinkState::None).standing(LATER), Standing::Out(_)));
        assert!(matches!(node(Swim::Down, LinkState::Silent).standing(LATER), Standing::Out(_)));
    }

    #[test]
    fn a_silence_calls_nobody_up_before_it_is_confirmed() {
        let n = node(Swim::Alive, LinkState::Silent);
        assert_eq!(n.lost(T), Err(T + CONFIRM_SILENCE));
        assert_eq!(n.lost(T + CONFIRM_SILENCE), Ok(true));
    }

    #[test]
    fn a_silence_on_a_long_path_is_confirmed_in_proportion() {
        let mut n = node(Swim::Alive, LinkState::Up);
        n.silence(T, Duration::from_millis(80));
        assert_eq!(n.lost(T + Duration::from_millis(199)), Err(T + Duration::from_millis(200)));
        assert_eq!(n.lost(T + Duration::from_millis(200)), Ok(true));
    }

    /// Seeds 0 and 3 of the simulator: a host that was cut off holds all others for down, and says so on
    /// its return. Links that are up must not believe it before they have looked.
    #[test]
    fn an_accusation_waits_for_the_answer_to_our_look_while_our_link_is_up() {
        let accused = node(Swim::Down, LinkState::Up);
        assert_eq!(accused.standing(T), Standing::Ready);
        assert_eq!(accused.lost(T), Ok(false));
        assert_eq!(accused.pending(T), Some(T + PROOF_WAIT));
        assert!(matches!(accused.standing(T + PROOF_WAIT), Standing::Out(_)));
        assert!(matches!(node(Swim::Down, LinkState::None).standing(T), Standing::Out(_)));
    }

    /// Hotwarm seed 3039: a moment's silence met the word of a host that was back from being cut off.
    #[test]
    fn an_accusation_confirms_no_silence_of_ours() {
        let mut n = node(Swim::Down, LinkState::Silent);
        let before = Standing::Doubtful(Why::Silent { since: T });
        assert_eq!((n.standing(T), n.lost(T)), (before, Err(T + CONFIRM_SILENCE)));
        let out = Standing::Out(Why::Down { since: T });
        assert_eq!((n.standing(LATER), n.lost(LATER)), (out, Ok(true)));
        (n.link, n.heard) = (LinkState::Up, Some(T + CONFIRM_SILENCE));
        assert_eq!((n.standing(LATER), n.lost(LATER)), (Standing::Ready, Ok(false)));
    }

    #[test]
    fn what_is_known_from_disk_only_is_doubtful_never_ready() {
        assert_eq!(
            node(Swim::Unheard, LinkState::None).standing(LATER),
            Standing::Doubtful(Why::Unheard)
        );
    }

    #[test]
    fn the_third_failure_in_a_row_ejects_and_probation_ejects_for_longer() {
        let mut e = EndpointEvidence::default();
        assert!(!e.observe(Outcome::Refused, T, 0.5, true));
        assert!(!e.observe(Outcome::TimedOut, T, 0.5, true));
        assert!(e.observe(Outcome::Broken, T, 0.5, true));
        let first = e.ejected_until().unwrap();
        assert_eq!(first, T + EJECT_BASE);
        assert!(!e.expire(T));
        assert!(e.expire(first));
        assert_eq!(e.standing(first), Standing::Ready);
        assert!(e.observe(Outcome::Refused, first, 0.5, true));
        assert_eq!(e.ejected_until(), Some(first + EJECT_BASE * 2));
    }

    #[test]
    fn time_outs_that_come_together_are_one_stall_and_eject_nobody() {
        let mut e = EndpointEvidence::default();
        for _ in 0..2 * MANY {
            assert!(!e.observe(Outcome::TimedOut, T, 0.5, true));
        }
        assert!(e.observe(Outcome::TimedOut, T + STALL, 0.5, true), "it goes on: a hang");
    }

    #[test]
    fn a_few_time_outs_are_a_hang_only_after_longer() {
        let mut e = EndpointEvidence::default();
        for ms in [0, 100, 300, 600, 900] {
            let at = T + Duration::from_millis(ms);
            assert!(!e.observe(Outcome::TimedOut, at, 0.5, true), "after {ms} ms");
        }
        assert!(e.observe(Outcome::TimedOut, T + STALL_OF_FEW, 0.5, true));
    }

    #[test]
    fn a_success_between_failures_starts_the_count_anew() {
        let mut e = EndpointEvidence::default();
        for _ in 0..10 {
            assert!(!e.observe(Outcome::ServerError, T, 0.5, true));
            assert!(!e.observe(Outcome::ServerError, T, 0.5, true));
            e.observe(Outcome::Answered { latency: Duration::ZERO }, T, 0.5, true);
        }
    }

    #[test]
    fn the_owners_word_outranks_our_luck_with_requests() {
        let s = standing(&node(Swim::Alive, LinkState::Up), false, Condition::Draining, None, T);
        assert_eq!(s, Standing::Out(Why::Condition(Condition::Draining)));
    }
}
