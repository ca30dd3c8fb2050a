//! Idle connections: each is answered once, then all stay as they are for the window, then each is asked
//! once more: what was closed meanwhile was not kept.

use std::io;
use std::time::{Duration, Instant};

use mio::Events;

use super::lines::{Came, Lines};
use super::{Report, Spec};
use crate::bench::account::{Reading, memory};

/// Requests in flight while the connections are opened and asked again.
const AT_ONCE: usize = 32;
/// Longest time for one pass over all connections.
const PASS: Duration = Duration::from_secs(60);

/// Runs the spec.
pub(super) fn run(spec: &Spec) -> io::Result<Report> {
    let mut idle = Idle {
        lines: Lines::new(spec.target, &spec.say)?,
        events: Events::with_capacity(1024),
        report: Report::default(),
    };
    let opened = idle.pass(spec.connections, true)?;
    idle.rest(spec.warm())?;
    let before = Reading::take(&spec.watched)?;
    idle.rest(spec.window())?;
    let after = Reading::take(&spec.watched)?;
    idle.report.used = after.since(&before);
    idle.report.memory = spec.watched.iter().map(memory).collect::<io::Result<_>>()?;
    idle.report.answered = opened;
    idle.report.alive = idle.pass(spec.connections, false)?;
    Ok(idle.report)
}

struct Idle {
    lines: Lines,
    events: Events,
    report: Report,
}

impl Idle {
    /// One request on each connection, which is opened first if `open`. Returns how many were answered.
    fn pass(&mut self, connections: usize, open: bool) -> io::Result<u64> {
        let limit = Instant::now() + PASS;
        let (mut begun, mut flying, mut answered) = (0, 0, 0);
        while begun < connections || flying > 0 {
            while begun < connections && flying < AT_ONCE {
                if open {
                    self.lines.add()?;
                }
                match self.lines.send(begun, Instant::now()) {
                    Ok(()) => flying += 1,
                    Err(error) => self.fail(&error.to_string()),
                }
                begun += 1;
            }
            if Instant::now() > limit {
                self.fail(&format!("not answered within {PASS:?}"));
                break;
            }
            self.lines.wait(&mut self.events, Duration::from_millis(100))?;
            for event in &self.events {
                match self.lines.receive(event.token().0, event.is_read_closed()) {
                    Came::Some(_) => {}
                    Came::All { .. } => {
                        flying -= 1;
                        answered += 1;
                    }
                    Came::Broken { owed, reason } => {
                        flying -= usize::from(owed);
                        self.report.failed += u64::from(owed);
                        self.report.reason.get_or_insert(reason);
                    }
                }
            }
        }
        Ok(answered)
    }

    /// Does nothing for so long. What is closed meanwhile is found out by the next pass.
    fn rest(&mut self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.lines.wait(&mut self.events, left.max(Duration::from_millis(1)))?;
        }
        Ok(())
    }

    fn fail(&mut self, reason: &str) {
        self.report.failed += 1;
        self.report.reason.get_or_insert_with(|| reason.to_owned());
    }
}
