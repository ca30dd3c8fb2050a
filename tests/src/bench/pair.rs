//! A pair that runs and answers: how it comes up, what it consists of, how it ends.
//!
//! Owns the processes of both sides; dropping the pair kills them. A pair exists only once something came
//! through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::account::Watched;
use super::error::BenchError;
use super::peers::{self, Kind, Ports, Side, Subject};
use super::speech::Speech;
use super::world::World;
use crate::lab::Process;
use crate::lab::process::tail;
use crate::lab::wait::wait_for;
use crate::loopback::{LocalAgent, free_ports};

const UP: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(2);

/// A running pair.
#[derive(Debug)]
pub struct Pair {
    /// Where the client calls.
    pub entry: SocketAddr,
    /// Where the application's sidecar is called by the other; none without sidecars.
    pub inbound: Option<SocketAddr>,
    /// Its two sides (`a`, `b`); none without sidecars.
    pub sides: Vec<Watched>,
    /// The application behind it.
    pub application: Arc<Process>,
    running: Running,
}

/// What runs for a pair, and is killed with it.
#[derive(Debug, Default)]
struct Running {
    processes: Vec<Arc<Process>>,
    agents: Vec<LocalAgent>,
}

impl Pair {
    /// Starts both sides and waits until something comes through.
    ///
    /// # Errors
    /// [`BenchError`] with the end of both logs.
    pub fn start(world: &World, subject: Subject, speech: Speech) -> Result<Self, BenchError> {
        let app = world.application(speech)?;
        let none = Self {
            entry: app.address,
            inbound: None,
            sides: Vec::new(),
            application: Arc::clone(&app.process),
            running: Running::default(),
        };
        let pair = match subject {
            Subject::Direct => none,
            Subject::Hearth | Subject::HearthBefore => none.hearth(world, subject, speech)?,
            peer => none.peer(world, peer, speech)?,
        };
        wait_for(&format!("{} to answer {}", subject.title(), speech.title()), UP, || {
            let answered = speech.probe(pair.entry, PATIENCE);
            answered.map_err(|seen| format!("{seen}; {}", pair.logs()))
        })?;
        Ok(pair)
    }

    fn hearth(self, world: &World, subject: Subject, speech: Speech) -> Result<Self, BenchError> {
        let mesh = world.mesh(subject)?;
        let agents = mesh.start(self.entry, speech)?;
        let side = |label: &str, agent: &LocalAgent| Watched {
            label: label.to_owned(),
            pids: vec![agent.process().pid()],
        };
        Ok(Self {
            entry: mesh.entry,
            inbound: Some(mesh.inbound()),
            sides: vec![side("a", &agents[0]), side("b", &agents[1])],
            running: Running { processes: Vec::new(), agents: agents.into() },
            ..self
        })
    }

    fn peer(self, world: &World, subject: Subject, speech: Speech) -> Result<Self, BenchError> {
        let [a, b] = free_ports();
        let ports = Ports { a, b, app: self.entry };
        let kind = Kind { subject, speech };
        let start = |side| peers::start(&world.place, &world.authority, kind, side, ports);
        let mut pair = Self { entry: a, inbound: Some(b), ..self };
        // The application's side first: a caller's sidecar that found nobody might back off.
        for (label, side) in [("b", Side::In), ("a", Side::Out)] {
            let started = start(side)?;
            let pids = started.iter().map(|process| process.pid()).collect();
            pair.running.processes.extend(started);
            pair.sides.insert(0, Watched { label: label.to_owned(), pids });
            if side == Side::In {
                wait_for(&format!("{} to listen", subject.title()), UP, || {
                    let dialled = std::net::TcpStream::connect_timeout(&b, PATIENCE);
                    dialled.map(drop).map_err(|e| format!("{e}; {}", pair.logs()))
                })?;
            }
        }
        Ok(pair)
    }

    /// The ends of its logs, for messages.
    #[must_use]
    pub fn logs(&self) -> String {
        let agents = self.running.agents.iter().map(LocalAgent::process);
        let all = self.running.processes.iter().map(AsRef::as_ref).chain(agents);
        let ends = all.map(|p| format!("{}: {}", p.label(), tail(&p.stderr(), 3)));
        ends.collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that ended already needs no signal; one that cannot be signalled dies with this program.
        for process in &self.processes {
            let _ = process.kill();
        }
        for agent in &self.agents {
            let _ = agent.process().kill();
        }
    }
}
