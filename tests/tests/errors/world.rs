//! A control plane and one node that has joined: what mistakes are made against.

use std::net::SocketAddr;
use std::time::Duration;

use hearth_tests::lab::process::{Process, Program};
use hearth_tests::lab::wait::wait_for;
use hearth_tests::loopback::{
    ControlPlane, Done, LocalAgent, Place, agent_config, agent_program, free_ports, join_table,
    log_lines,
};

use crate::book::Book;

/// A program that ends by itself does so within this; one that tries to reach something tries for a
/// minute.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) control: ControlPlane,
    pub(crate) book: Book,
}

impl World {
    /// A control plane that serves, and an empty book.
    pub(crate) fn new(name: &str) -> Self {
        let place = Place::new(name).unwrap();
        let control = ControlPlane::init(&place).unwrap();
        control.serve(&place).unwrap();
        let mut book = Book::open(name, place.dir());
        book.port(control.address().port(), "CONTROL");
        Self { place, control, book }
    }

    /// The configuration of the node `name`, which joins with `token`.
    pub(crate) fn joining(&mut self, name: &str, token: &str) -> String {
        let mesh = self.mesh_port();
        agent_config(&self.place, name, mesh, &[]) + &join_table(self.control.address(), token)
    }

    pub(crate) fn mesh_port(&mut self) -> SocketAddr {
        let [mesh] = free_ports();
        self.book.port(mesh.port(), "MESH");
        mesh
    }

    pub(crate) fn token(&self, node: &str) -> String {
        self.control.token(&self.place, node).unwrap()
    }

    /// Joins `name` and stops it again: its identity is on disk, its ports are free.
    pub(crate) fn joined(&mut self, name: &str) -> SocketAddr {
        let token = self.token(name);
        self.joining_with(name, &token)
    }

    /// [`Self::joined`] with this token.
    pub(crate) fn joining_with(&mut self, name: &str, token: &str) -> SocketAddr {
        let mesh = self.mesh_port();
        let config =
            agent_config(&self.place, name, mesh, &[]) + &join_table(self.control.address(), token);
        let program = agent_program(&self.place, name, &config).unwrap();
        let agent = LocalAgent::start(&self.place, name, mesh, program).unwrap();
        agent.process().kill().unwrap();
        mesh
    }

    /// Runs an agent that ends with an error, and notes it.
    pub(crate) fn fails(&mut self, case: &str, name: &str, config: &str, place: &str) -> Done {
        let program = agent_program(&self.place, name, config).unwrap();
        let done = self.place.run(program, SOON).unwrap();
        self.note(case, name, &done, place);
        done
    }

    pub(crate) fn note(&mut self, case: &str, name: &str, done: &Done, place: &str) {
        let command = format!("hearth-agent run --config /D/{name}.toml");
        self.book.error(case, &command, done, place);
    }

    /// Starts an agent that will not end with an error soon, or not at all.
    pub(crate) fn agent(&self, name: &str, config: &str) -> std::sync::Arc<Process> {
        self.place.start(agent_program(&self.place, name, config).unwrap()).unwrap()
    }
}

/// Waits for a line with this event in a program's log.
pub(crate) fn until_logged(process: &Process, event: &str) -> String {
    wait_for(&format!("the log line {event:?}"), SOON, || {
        let stderr = process.stderr();
        let there = log_lines(&stderr).iter().any(|line| line["event"] == event);
        if there { Ok(stderr) } else { Err(stderr) }
    })
    .unwrap()
}

/// A program that lives at another time.
pub(crate) fn at_another_time(program: Program, library: &str, offset: &str) -> Program {
    program
        .env("LD_PRELOAD", library)
        .env("FAKETIME", offset)
        // Timers run as they do: only the wall clock is wrong.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
}
