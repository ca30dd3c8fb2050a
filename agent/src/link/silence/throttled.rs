//! A host whose CPU is throttled (a quota, in periods of 100 ms): it stands still in each period, and all of its looks
//! after that come late. By the real judgement, over a made-up clock that stops.

use super::*;

const MS: Duration = Duration::from_millis(1);
const TICK: Duration = Duration::from_millis(5);
const PERIOD: Duration = Duration::from_millis(100);
/// After it stood still it takes so long until what lies unread is read.
const READS: Duration = Duration::from_millis(4);
/// For how much of each period it runs, in milliseconds.
const RUNS: [u32; 5] = [80, 50, 30, 20, 12];
const THRESHOLDS: [u32; 5] = [20, 30, 60, 100, 150];

/// A host that runs at the beginning of each period.
struct Host {
    start: Instant,
    runs: Duration,
}

impl Host {
    fn begins(&self, at: Instant) -> (Instant, Duration) {
        let into = (at - self.start).as_micros() % PERIOD.as_micros();
        let into = Duration::from_micros(u64::try_from(into).unwrap());
        (at - into, into)
    }

    /// When it does what it means to do at `at`.
    fn wakes(&self, at: Instant) -> Instant {
        let (begin, into) = self.begins(at);
        if into < self.runs { at } else { begin + PERIOD }
    }

    /// When it reads what comes at `at`.
    fn reads(&self, at: Instant) -> Instant {
        let woken = self.wakes(at);
        woken.max(self.begins(woken).0 + READS)
    }
}

/// When a peer was called silent, and when that was confirmed.
#[derive(Debug, Default)]
struct Judged {
    silent: Option<Duration>,
    confirmed: Option<Duration>,
}

/// Looks at a peer of which something is wanted all the time, from `from` on, and that answers within `answers`, if
/// it does.
fn judge(host: &Host, from: Instant, threshold: Duration, answers: Option<Duration>) -> Judged {
    let (mut window, mut silence) = (Window::default(), None::<Silence>);
    let (mut unread, mut judged) = (Vec::<Instant>::new(), Judged::default());
    let (mut due, mut asked) = (from, from);
    while due < from + Duration::from_secs(5) {
        let now = host.wakes(due);
        let lag = now - due;
        let heard = unread.iter().any(|read| *read <= now);
        unread.retain(|read| *read > now);
        window.pardon(now, lag, threshold);
        let closed = window.opened().is_none();
        let sign = window.sample(now, true, heard, threshold);
        let mut asks = sign == Sign::Doubt || closed && window.opened().is_some();
        match &mut silence {
            None if sign == Sign::Silent => {
                judged.silent = Some(now - from);
                silence = Some(Silence::declared(now, window.opened().unwrap(), 0, threshold));
                asks = true;
            }
            None => {}
            Some(_) if heard => silence = None,
            Some(declared) => {
                if declared.lasts(now, lag) {
                    judged.confirmed = Some(now - from);
                    return judged;
                }
                asks |= now - asked >= declared.ask_every();
            }
        }
        if asks {
            asked = now;
            unread.extend(answers.map(|within| host.reads(now + within)));
        }
        let tells = match &silence {
            Some(silence) => silence.due(),
            None => window.due(threshold),
        };
        let wanted = tells.filter(|t| *t > now).map_or(now + TICK, |t| t.min(now + TICK));
        due = wanted.max(now + MS);
    }
    judged
}

/// Every such host, threshold and moment of the period at which it is first asked.
fn all(mut check: impl FnMut(&Host, Instant, Duration)) {
    let start = Instant::now();
    for runs in RUNS {
        for threshold in THRESHOLDS {
            for offset in 0..runs {
                let host = Host { start, runs: runs * MS };
                check(&host, start + offset * MS, threshold * MS);
            }
        }
    }
}

#[test]
fn who_is_dead_is_found_however_often_we_stand_still() {
    all(|host, from, threshold| {
        let judged = judge(host, from, threshold, None);
        // What it takes is time in which we run. Once we are late for the first time each judgement has more of it.
        let within = |needs: Duration| {
            let periods = needs.as_micros().div_ceil(host.runs.as_micros()) + 1;
            PERIOD * u32::try_from(periods).unwrap()
        };
        let declares = threshold + FLOOR + TICK;
        let confirms = 2 * confirmed_after(threshold) + TICK;
        let (runs, offset) = (host.runs, from - host.start);
        let found = (judged.silent, judged.confirmed);
        let (Some(silent), Some(confirmed)) = found else {
            panic!("{threshold:?}, runs {runs:?} from {offset:?} on: {judged:?}");
        };
        assert!(silent <= within(declares), "{threshold:?}, runs {runs:?}: {judged:?}");
        assert!(confirmed - silent <= within(confirms), "{threshold:?}, runs {runs:?}: {judged:?}");
    });
}

#[test]
fn who_lives_is_never_silent_however_often_we_stand_still() {
    all(|host, from, threshold| {
        for tenths in [1, 3, 6] {
            let answers = threshold * tenths / 10;
            let judged = judge(host, from, threshold, Some(answers));
            assert_eq!(
                judged.silent, None,
                "{threshold:?}, runs {:?}, answers in {answers:?}",
                host.runs
            );
        }
    });
}
