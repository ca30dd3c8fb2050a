//! serf: started with its LAN profile and nothing else, listened to on its standard output.
//!
//! It logs each change of a member's state (`serf: EventMemberFailed: NAME ADDRESS`) as it takes it in, not when
//! its one-second batches of events are handed out. A thread per agent reads the pipe and stamps each line when it
//! comes. Suspicions it logs only where its own probe failed; what it hears of others' suspicions it does not tell.
//!
//! `-retry-join`, not `-join`: that holds the log back until the join is over, and one that finds the first
//! agent busy ends the program.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write, pipe};
use std::path::PathBuf;
use std::sync::Arc;

use super::kind::{Kind, Names, Shared, now};
use super::views::State;
use crate::bench::BenchError;
use crate::lab::binaries::tool;
use crate::lab::process::Program;
use crate::lab::{Host, LabError, Process};

/// Where each listens.
const PORT: u16 = 7946;

/// All serf agents of a bench.
#[derive(Debug)]
pub struct Serf {
    program: PathBuf,
    hosts: Vec<Arc<Host>>,
    names: Names,
    views: Shared,
}

impl Serf {
    /// On these hosts.
    ///
    /// # Errors
    /// [`LabError::NoBinary`] when it is not installed.
    pub fn new(hosts: &[Arc<Host>], views: &Shared) -> Result<Self, BenchError> {
        let (hosts, names) = (hosts.to_vec(), Names::of(hosts));
        Ok(Self { program: tool("serf")?, hosts, names, views: views.clone() })
    }
}

impl Kind for Serf {
    fn start(&self, n: usize) -> Result<Arc<Process>, LabError> {
        let host = &self.hosts[n];
        let (bind, first) = (host.at(PORT), self.hosts[0].at(PORT));
        let log = host.dir().join("serf.out");
        let refuse = LabError::file("write", &log);
        let opened = File::options().create(true).append(true).open(&log);
        let (log, (lines, out)) = opened.and_then(|log| Ok((log, pipe()?))).map_err(refuse)?;
        let mut program = Program::new("serf", &self.program)
            .args(["agent", "-profile=lan", "-log-level=info"])
            .arg(format!("-node={}", host.name()))
            .arg(format!("-bind={bind}"));
        if n > 0 {
            program = program.arg(format!("-retry-join={first}")).arg("-retry-interval=1s");
        }
        let process = host.spawn(&program.output_to(out))?;
        let (names, views) = (self.names.clone(), self.views.clone());
        // Ends with the pipe, that is with the agent.
        let listening = std::thread::Builder::new()
            .name(format!("ear-{n}"))
            .spawn(move || listen(lines, log, n, &names, &views));
        let failed = |source| LabError::Start {
            program: "a thread that reads its log".to_owned(),
            host: host.name().to_owned(),
            source,
        };
        listening.map_err(failed)?;
        Ok(process)
    }

    /// It has told of itself, which it does once it listens.
    fn up(&self, n: usize) -> bool {
        self.views.lock().holds(n, n)
    }

    /// The views are always up to date.
    fn look(&mut self, _gone: Option<usize>) {}

    fn rejoined(&self, _n: usize) -> Option<u64> {
        None
    }
}

/// Reads the log of member `n` to its end, and keeps it.
fn listen(lines: PipeReader, mut log: File, n: usize, names: &Names, views: &Shared) {
    for line in BufReader::new(lines).lines() {
        let Ok(line) = line else { return };
        let at = now();
        // The log is for reading when something went wrong: one that lacks a line is no reason to stop.
        let _ = writeln!(log, "{line}");
        let Some((said, of)) = heard(&line).and_then(|(said, of)| Some((said, names.number(of)?)))
        else {
            continue;
        };
        let mut views = views.lock();
        match said {
            Said::Is(state) => views.note(n, of, state, at),
            Said::Accused => views.doubt(n, of, at),
        }
    }
}

/// What a line says of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// It is this.
    Is(State),
    /// It did not answer.
    Accused,
}

/// What a line of the log says, and of whom.
fn heard(line: &str) -> Option<(Said, &str)> {
    if let Some((_, rest)) = line.split_once(" memberlist: Suspect ") {
        return Some((Said::Accused, rest.split_once(" has failed")?.0));
    }
    let (_, rest) = line.split_once(" serf: EventMember")?;
    let (what, rest) = rest.split_once(": ")?;
    let state = match what {
        "Join" => State::Alive,
        "Failed" | "Leave" | "Reap" => State::Down,
        _ => return None,
    };
    Some((Said::Is(state), rest.split_whitespace().next()?))
}

#[cfg(test)]
mod tests {
    use super::{Said, State, heard};

    #[test]
    fn changes_and_suspicions_are_heard_and_all_else_is_not() {
        let line = |text: &str| format!("    2026/11/30 14:00:00 [INFO] {text}");
        let said = |text: &str| heard(&line(text)).map(|(said, of)| (said, of.to_owned()));
        let of = |said| Some((said, "node-002".to_owned()));
        let join = "serf: EventMemberJoin: node-002 10.77.1.2";
        assert_eq!(said(join), of(Said::Is(State::Alive)));
        let failed = "serf: EventMemberFailed: node-002 10.77.1.2";
        assert_eq!(said(failed), of(Said::Is(State::Down)));
        let suspect = "memberlist: Suspect node-002 has failed, no acks received";
        assert_eq!(said(suspect), of(Said::Accused));
        for other in [
            "serf: EventMemberUpdate: node-002",
            "agent: Received event: member-failed",
            "memberlist: Marking node-002 as failed, suspect timeout reached",
        ] {
            assert_eq!(said(other), None, "{other}");
        }
    }
}
