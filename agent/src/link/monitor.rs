//! Watches for silence: samples what connections sent and heard, and pings where nothing else would.
//!
//! Looks every [`TICK`] at the peers something is outstanding with, and at nobody when nothing is.
//! Peers come onto the list by [`Monitor::look`] (something was sent to them) and leave it when all is
//! answered. Watched peers that are idle get a ping now and then, so that their loss is noticed before a
//! request runs into it.
//!
//! The monitor never waits for anyone: events go out with `try_send` and are tried again at the next
//! tick, as long as they are still true. It measures its own lateness, counts it against nobody and, when late,
//! judges nobody for what was not read meanwhile. If it is aborted, silence is no longer sensed; connections then end by
//! their idle timeout, which is minutes for a mesh link.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::lane::pool::LANE_DEAD;
use super::lateness::Lateness;
use super::patience::Patience;
use super::peer::{Peer, STALE_AFTER, State};
use super::sense::{Sense, Tracked};
use super::silence::{FLOOR, LATE, Sign, Silence, Window};
use super::{CloseCode, Kind, LinkEvent, Shared, dial, lock};

/// Nobody waits for a peer at rest, whose loss is noticed seconds late anyhow: its silence is judged with so much
/// more patience, until a request begins or others accuse it.
const REST_PATIENCE: f64 = 4.0;
/// How often what is outstanding is looked at.
const TICK: Duration = Duration::from_millis(5);
/// A watched peer that nobody calls is pinged so often: at first, a packet each way a second, and at most after a
/// while. The first request after that is a question too.
const PING_WATCHED: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// The wait is a fortieth of the time for which nothing has been asked of it: forty seconds at the first rate.
const WATCHED_SHARE: u32 = 40;
/// A peer that has requests of ours and hears nothing from us is pinged so often: the application may be
/// slow, but is the host still there? Streams that stay quiet for minutes ask ever less.
const PING_BUSY: [Duration; 2] = [Duration::from_millis(25), Duration::from_secs(1)];
const BUSY_SHARE: u32 = 400;
/// Requests are under way on a lane and nothing has been heard on it for so long: ask the mesh link, since
/// TCP itself tells nothing of a frozen agent. While answers flow this costs nothing.
const QUIET_LANE: Duration = Duration::from_millis(4);
/// A path in use is judged anew so often: which lane suits it?
const JUDGE: Duration = Duration::from_secs(1);
/// A peer whose silence is confirmed is pinged so often, so that its return is noticed soon.
const PING_SILENT: Duration = Duration::from_millis(100);
/// A peer stays on the list so long after the last send, since frames leave a moment after they were
/// handed over; after a ping until it has left.
const LINGER: Duration = Duration::from_millis(15);
/// One connection that hears nothing while the peer answers on others belongs to a process that is
/// gone. Far above the threshold for the peer, since closing it cannot be taken back.
const DEAD: Duration = Duration::from_millis(300);
const DEAD_FACTOR: u32 = 5;
/// The mesh link on QUIC, while only lanes answer: UDP is blocked. Longer, since lanes live on other threads
/// than the mesh, which a busy host may keep waiting.
const DEAD_MESH: Duration = Duration::from_secs(1);
/// QUIC connections with a peer that has been silent for so long end; it is dialled beside long before.
const GIVE_UP: Duration = Duration::from_secs(10);
/// A mesh link on a lane is not silent sooner: TCP repeats a lost segment after tens of milliseconds at best,
/// and what is lost is rare where it is used.
const LANE_FLOOR: Duration = Duration::from_millis(50);

/// The list of peers to look at, as others see it.
#[derive(Default)]
pub(crate) struct Monitor {
    fresh: Mutex<Vec<Arc<Peer>>>,
    watched: Mutex<Vec<Arc<Peer>>>,
    bell: Notify,
    off: AtomicBool,
    pub(crate) lateness: Lateness,
    pub(super) patience: Mutex<Patience>,
}

impl Monitor {
    /// Something is or will be outstanding with `peer`.
    pub(crate) fn look(&self, peer: &Arc<Peer>) {
        peer.looks.fetch_add(1, Ordering::AcqRel);
        if !peer.looked_at.swap(true, Ordering::AcqRel) {
            lock(&self.fresh).push(peer.clone());
            self.bell.notify_one();
        }
    }

    /// Replaces the list of peers to ping when idle.
    pub(crate) fn watch(&self, peers: Vec<Arc<Peer>>) {
        *lock(&self.watched) = peers;
        self.bell.notify_one();
    }

    /// Whether anything is sensed.
    pub(crate) fn sense(&self, on: bool) {
        self.off.store(!on, Ordering::Relaxed);
        self.bell.notify_one();
    }

    pub(crate) fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    pub(crate) fn wake(&self) {
        self.bell.notify_one();
    }
}

/// A peer on the list.
struct Entry {
    peer: Arc<Peer>,
    /// It stays at least so long.
    until: Instant,
    /// The asks taken note of.
    looks: usize,
    /// There were new ones.
    stirred: bool,
}

/// What is to be done for one peer after looking at it.
#[derive(Default)]
struct Look {
    /// It stays on the list.
    stay: bool,
    /// Look again no later.
    due: Option<Instant>,
    /// A silence was declared just now.
    declared: bool,
    /// A silence was confirmed just now.
    confirmed: bool,
    /// It has been silent for long: dial beside.
    redial: bool,
}

pub(crate) async fn run(shared: Arc<Shared>) {
    let mut hot: Vec<Entry> = Vec::new();
    let mut next = Instant::now();
    while !shared.is_closed() {
        let off = shared.monitor.off.load(Ordering::Relaxed);
        let idle = off || hot.is_empty() && lock(&shared.monitor.watched).is_empty();
        shared.monitor.lateness.expect((!idle).then_some(next));
        let rung = tokio::select! {
            biased;
            () = tokio::time::sleep_until(next.into()), if !idle => false,
            () = shared.monitor.bell.notified() => true,
        };
        let now = Instant::now();
        for peer in lock(&shared.monitor.fresh).drain(..) {
            // What opened its window before we came was not looked at meanwhile: that wait is ours.
            lock(&peer.state).sense.window.excuse(now);
            hot.push(Entry { peer, until: now + LINGER, looks: 0, stirred: false });
        }
        if rung || off {
            next = after_bell(now, (!idle).then_some(next));
            continue;
        }
        let lag = now.saturating_duration_since(next);
        shared.metrics.lag.set(lag.as_secs_f64());
        if lag > LATE {
            shared.metrics.late.inc();
        }
        shared.monitor.lateness.came(now, lag);
        let patience = lock(&shared.monitor.patience).factor(now);
        shared.metrics.patience.set(patience);
        let pinged = ping_idle(&shared, now);
        let mut due = now + if hot.is_empty() { pinged } else { TICK };
        hot.retain_mut(|entry| {
            let look = look(&shared, entry, now, lag, patience);
            due = due.min(look.due.unwrap_or(due)).max(now + Duration::from_millis(1));
            if !look.stay {
                entry.peer.looked_at.store(false, Ordering::Release);
                // Whoever asked between the look and the store found the flag set.
                if entry.peer.looks.load(Ordering::Acquire) != entry.looks {
                    shared.monitor.look(&entry.peer);
                }
            }
            look.stay
        });
        next = due;
    }
}

/// When to look after somebody rang at `now`, if it had been going to be at `next`: those new on the list are looked
/// at within a tick. A look that is overdue stays so, for whoever rings while we are late must not hide it.
fn after_bell(now: Instant, next: Option<Instant>) -> Instant {
    next.map_or(now, |next| next.min(now + TICK))
}

/// Pings the watched peers that heard nothing from us for a while, and says when to come again.
fn ping_idle(shared: &Arc<Shared>, now: Instant) -> Duration {
    let watched = lock(&shared.monitor.watched).clone();
    let mut soonest = PING_WATCHED[1];
    for peer in watched {
        let mut state = lock(&peer.state);
        let every = paced(state.quiet(now), WATCHED_SHARE, PING_WATCHED);
        let last = state.sense.last_sent.max(state.sense.last_ping);
        let age = last.map_or(every, |t| now.saturating_duration_since(t));
        if age < every {
            soonest = soonest.min(every - age);
            continue;
        }
        let linked = state.ping(now, false);
        drop(state);
        if linked {
            shared.monitor.look(&peer);
        } else {
            dial::want_mesh(shared, &peer);
        }
    }
    soonest
}

/// A share of the time for which all was quiet, within bounds.
fn paced(quiet: Duration, share: u32, [least, most]: [Duration; 2]) -> Duration {
    (quiet / share).clamp(least, most)
}

fn look(
    shared: &Arc<Shared>,
    entry: &mut Entry,
    now: Instant,
    lag: Duration,
    patience: f64,
) -> Look {
    let peer = &entry.peer;
    let looks = peer.looks.load(Ordering::Acquire);
    if looks != entry.looks {
        (entry.looks, entry.until, entry.stirred) = (looks, now + LINGER, true);
    }
    let busy = peer.requests() > 0;
    let mut state = lock(&peer.state);
    state.sense.stirred |= entry.stirred;
    entry.stirred = false;
    let mut look = Look::default();
    let at_rest = !busy && state.is_at_rest(now);
    let sampled = sample(&mut state, now, lag, patience, at_rest);
    let begun = peer.begun.load(Ordering::Relaxed);
    if sampled.worked || begun != state.sense.begun {
        (state.sense.begun, state.sense.used) = (begun, Some(now));
    }
    if sampled.sent {
        state.sense.unsent = false;
        state.sense.last_sent = Some(now);
        entry.until = now + LINGER;
    }
    match sampled.sign {
        Sign::Doubt => {
            // Lanes too: where UDP was blocked a moment ago, they are what answers.
            state.ping(now, true);
        }
        Sign::Silent if state.sense.silence.is_none() => {
            let opened = now - state.sense.window.age(now).unwrap_or_default();
            let floor = state.sense.next_ping;
            let silence = Silence::declared(now, opened, floor, sampled.threshold);
            state.sense.silence = Some(silence);
            state.ping(now, true);
            look.declared = true;
        }
        Sign::Fine | Sign::Silent => {}
    }
    if let Some(silence) = &mut state.sense.silence {
        look.confirmed = silence.lasts(now, lag);
    }
    ping_if_due(&mut state, now, busy);
    if peer.on_lanes.load(Ordering::Relaxed) > 0 {
        ask_for_lanes(&mut state, now, sampled.threshold);
    }
    if state.sense.judged.is_none_or(|t| now.saturating_duration_since(t) >= JUDGE) {
        state.sense.judged = Some(now);
        peer.judge_path(&mut state);
    }
    if let Some(silence) = state.sense.silence
        && now.saturating_duration_since(silence.opened) >= STALE_AFTER
    {
        look.redial = !state.dialling;
        if let Some(data) = state.data.take() {
            data.retire();
        }
        lock(&peer.slots).retire_all();
        // After a stop of ours the answers may lie unread.
        if now.saturating_duration_since(silence.opened) >= GIVE_UP && lag <= LATE {
            let given = state.connections.iter_mut().filter(|tracked| !tracked.given_up);
            given.for_each(Tracked::give_up);
        }
    }
    // Requests under way first; the driver may ask for the health it is told of.
    peer.publish(&state);
    tell(shared, peer, &mut state, now);
    let confirming = state.sense.silence.and_then(|s| s.due());
    let dues = [state.sense.window.due(sampled.threshold), confirming];
    look.due = dues.into_iter().flatten().filter(|t| *t > now).min();
    let waiting = state.sense.window.age(now).is_some()
        || state.sense.silence.is_some()
        || state.sense.probing.is_some()
        || state.sense.unsent
        || state.sense.told
        || state.sense.answered;
    look.stay = state.is_connected() && (busy || waiting || now < entry.until);
    drop(state);
    follow_up(shared, peer, &look);
    look
}

fn follow_up(shared: &Arc<Shared>, peer: &Arc<Peer>, look: &Look) {
    if look.declared {
        shared.metrics.silences.inc();
        tracing::debug!(peer = %peer.name, "link silent");
    }
    if look.confirmed {
        shared.metrics.confirmed.inc();
        tracing::debug!(peer = %peer.name, "its silence is confirmed");
    }
    if look.redial {
        dial::want_mesh(shared, peer);
    }
}

struct Sampled {
    sign: Sign,
    sent: bool,
    /// Something came in for a request.
    worked: bool,
    threshold: Duration,
}

/// Looks at all connections of a peer: a datagram heard on any of them answers for all.
fn sample(state: &mut State, now: Instant, lag: Duration, patience: f64, at_rest: bool) -> Sampled {
    let (mut sent, mut heard, mut worked) = (false, false, false);
    let mut threshold = floor(state);
    let on_tcp = state.is_on_tcp();
    for tracked in &mut state.connections {
        let (s, h, t) = tracked.moved();
        (sent, heard, threshold) = (sent | s, heard | h, threshold.max(t));
        worked |= h && tracked.worked();
        tracked.window.forgive(now, lag);
        let mut dead = DEAD.max(t * DEAD_FACTOR);
        if tracked.kind == Kind::Mesh && !state.lanes.is_empty() {
            dead = dead.max(DEAD_MESH);
        }
        let sign = tracked.window.sample(now, s, h, dead);
        if sign == Sign::Silent && answers(&state.sense, &tracked.window) {
            tracked.give_up();
        }
    }
    let patience = if at_rest { patience * REST_PATIENCE } else { patience };
    let threshold = threshold.mul_f64(patience);
    state.sense.window.pardon(now, lag, threshold);
    let dead = LANE_DEAD.max(threshold * DEAD_FACTOR);
    for tracked in &mut state.lanes {
        let (asked, h) = tracked.moved();
        tracked.window.forgive(now, lag);
        let sign = tracked.window.sample(now, asked, h, dead);
        if sign == Sign::Silent && answers(&state.sense, &tracked.window) {
            tracked.lane.close(CloseCode::Stale, "nothing is answered here");
        }
        sent |= asked && on_tcp;
        worked |= h && tracked.worked();
        if h {
            (state.sense.lane_heard, state.sense.stirred, heard) = (Some(now), true, true);
        }
    }
    if heard {
        state.sense.heard = Some(now);
    }
    let sign = state.sense.window.sample(now, sent, heard, threshold);
    Sampled { sign, sent, worked, threshold }
}

/// No silence of the peer is declared sooner, whatever its connections say.
fn floor(state: &State) -> Duration {
    match &state.mesh {
        Some(mesh) if state.is_on_tcp() => LANE_FLOOR.max(4 * mesh.line.rtt()),
        _ => FLOOR,
    }
}

/// Whether the peer has answered elsewhere since this connection's window opened. How long the peer itself is
/// given, on a busy host or a long path, is no measure of that: it may be called silent later than one connection
/// is called dead.
fn answers(sense: &Sense, window: &Window) -> bool {
    sense.silence.is_none() && sense.heard.zip(window.opened()).is_some_and(|(h, o)| h > o)
}

/// Requests are under way on lanes and no answers flow: is the host still there, and the agent on it? The
/// window opens with this ping, not with the next look, so that a frozen agent is found out within the
/// threshold and a tick.
fn ask_for_lanes(state: &mut State, now: Instant, threshold: Duration) {
    let since = |t: Option<Instant>| t.map_or(Duration::MAX, |t| now.saturating_duration_since(t));
    let due = state.sense.stirred
        && state.sense.silence.is_none()
        && state.sense.window.age(now).is_none()
        && since(state.sense.lane_heard) >= QUIET_LANE
        && since(state.sense.last_ping) >= QUIET_LANE;
    if due && state.ping(now, false) {
        state.sense.window.sample(now, true, false, threshold);
    }
}

fn ping_if_due(state: &mut State, now: Instant, busy: bool) {
    let silence = state.sense.silence;
    let probing = state.sense.probing.is_some();
    let every = match (silence, busy) {
        (Some(silence), _) if silence.due().is_some() => silence.ask_every(),
        (Some(_), _) => PING_SILENT,
        // The question, or its answer, was lost, while what the transport says by itself is acknowledged.
        (None, _) if probing => PING_SILENT,
        (None, true) => paced(state.quiet(now), BUSY_SHARE, PING_BUSY),
        (None, false) => return,
    };
    let last = if silence.is_some() || probing {
        state.sense.last_ping
    } else {
        // While answers flow on lanes nobody needs to be asked.
        state.sense.last_sent.max(state.sense.last_ping).max(state.sense.lane_heard)
    };
    if last.is_none_or(|t| now.saturating_duration_since(t) >= every) {
        // While requests are under way their own connection is asked as well.
        state.ping(now, true);
    }
}

/// Tells the driver what it does not know yet. A full queue is tried again at the next tick.
fn tell(shared: &Shared, peer: &Peer, state: &mut State, now: Instant) {
    let send = |event| match shared.events.try_send(event) {
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => true,
        Err(mpsc::error::TrySendError::Full(_)) => {
            shared.metrics.drop("link_events_delayed");
            false
        }
    };
    let name = || peer.name.clone();
    match state.sense.silence {
        Some(silence) if !state.sense.told => {
            let since = now.saturating_duration_since(silence.opened);
            if send(LinkEvent::Silent { peer: name(), since }) {
                state.sense.told = true;
                state.sense.answered = false;
            }
        }
        None if (state.sense.told || state.sense.answered)
            && send(LinkEvent::Heard { peer: name() }) =>
        {
            state.sense.told = false;
            state.sense.answered = false;
        }
        _ => {}
    }
}

/// The peer's host cut a lane off without a word of its agent. A process that was killed ends so; so does one
/// connection that something in between forgot. Until it answers, which takes a healthy one a round trip, it
/// is taken for silent; it has as long to answer as after any other silence.
pub(crate) fn cut_off(shared: &Arc<Shared>, peer: &Arc<Peer>) {
    let now = Instant::now();
    let patience = lock(&shared.monitor.patience).factor(now);
    let mut state = lock(&peer.state);
    if state.sense.silence.is_some() || state.mesh.is_none() {
        return;
    }
    let paths = state.connections.iter().map(Tracked::threshold);
    let threshold = paths.fold(floor(&state), Duration::max).mul_f64(patience);
    let first = state.sense.next_ping;
    if !state.ping(now, true) {
        return;
    }
    state.sense.silence = Some(Silence::assumed(now, first, threshold));
    peer.publish(&state);
    tell(shared, peer, &mut state, now);
    drop(state);
    follow_up(shared, peer, &Look { declared: true, ..Look::default() });
    shared.monitor.look(peer);
}

/// A pong came in: what follows from it is told at once, not at the next tick.
pub(crate) fn pong(shared: &Arc<Shared>, peer: &Arc<Peer>, number: u64) {
    let now = Instant::now();
    let ponged = peer.pong(number, now);
    if ponged.false_alarm {
        lock(&shared.monitor.patience).was_wrong(now);
    }
    if ponged.news {
        tell(shared, peer, &mut lock(&peer.state), now);
        shared.monitor.look(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_rings_is_looked_at_within_a_tick_and_hides_no_lateness() {
        let now = Instant::now() + Duration::from_secs(1);
        assert_eq!(after_bell(now, None), now);
        assert_eq!(after_bell(now, Some(now + Duration::from_secs(3))), now + TICK);
        let overdue = now - Duration::from_millis(50);
        assert_eq!(after_bell(now, Some(overdue)), overdue);
    }

    #[test]
    fn who_is_not_called_is_asked_ever_less_and_so_are_streams_that_stay_quiet() {
        let every = |quiet: u64, share, bounds| {
            paced(Duration::from_secs(quiet), share, bounds).as_millis()
        };
        let idle = [0, 10, 40, 120, 3600].map(|s| every(s, WATCHED_SHARE, PING_WATCHED));
        assert_eq!(idle, [1000, 1000, 1000, 3000, 3000]);
        let busy = [0, 10, 60, 400, 3600].map(|s| every(s, BUSY_SHARE, PING_BUSY));
        assert_eq!(busy, [25, 25, 150, 1000, 1000]);
    }
}
