//! Hearth as a pair: a control plane made by `hearth-control init`, two agents that joined with tokens, a
//! policy in force, the defaults everywhere else.
//!
//! The control plane is needed for that once. While anything is measured it does not run, so that its cost
//! cannot be mistaken for the agents' (it would be next to nothing) and the agents show that they need it
//! for nothing. Each round starts the agents again from what is on their disks.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hearth_proto::view::StatusView;

use super::error::BenchError;
use super::probe::fetch;
use super::speech::Speech;
use crate::lab::wait::wait_for;
use crate::lab::{LabError, Program};
use crate::loopback::{ControlPlane, LocalAgent, Place, agent_config, free_ports, join_table};

const POLICY: &str = "[services.bench]\nallow = [\"bench-a\"]\n";
const SOON: Duration = Duration::from_secs(20);
const NAMES: [&str; 2] = ["bench-a", "bench-b"];

/// Two agents' configurations and states, and the place in which they are.
#[derive(Debug)]
pub struct Mesh {
    place: Place,
    /// The agent, as a program.
    agent: PathBuf,
    /// Without the endpoint.
    configs: [String; 2],
    mesh: [SocketAddr; 2],
    environment: Vec<(String, String)>,
    /// Where the client calls.
    pub entry: SocketAddr,
}

impl Mesh {
    /// Joins both agents, puts the policy into force, and stops everything again.
    ///
    /// # Errors
    /// [`BenchError::Lab`] with what was last seen.
    pub fn join(
        place: Place,
        agent: PathBuf,
        app: SocketAddr,
        policy: &[String],
    ) -> Result<Self, BenchError> {
        let control = ControlPlane::init(&place)?;
        control.serve(&place)?;
        let [a, b, entry] = free_ports();
        let upstream = format!("[[upstream]]\nservice = \"bench\"\nlisten = \"{entry}\"\n");
        let config = |name, mesh, tables: &str| agent_config(&place, name, mesh, &[a, b]) + tables;
        let configs = [config(NAMES[0], a, &upstream), config(NAMES[1], b, "")];
        let environment = Vec::new();
        let mesh = Self { place, agent, configs, mesh: [a, b], environment, entry };
        let place = &mesh.place;
        let joined = {
            let join = |name: &str| -> Result<String, BenchError> {
                Ok(join_table(control.address(), &control.token(place, name)?))
            };
            let endpoint = endpoint(app, Speech::Http);
            mesh.start_with(&[join(NAMES[0])?, join(NAMES[1])? + &endpoint])?
        };
        control.apply(place, &format!("{POLICY}{}\n", policy.join("\n")))?;
        let status = |agent: &LocalAgent| -> Result<StatusView, String> {
            agent.get("/v1/status").map_err(|e| e.to_string())
        };
        wait_for("the policy to be in force on both agents", SOON, || {
            let versions = [status(&joined[0])?.policy_version, status(&joined[1])?.policy_version];
            if versions.iter().all(|&version| version > 0) {
                fetch(entry, super::SMALL, SOON).map(drop)
            } else {
                Err(format!("versions {versions:?}"))
            }
        })?;
        for agent in &joined {
            agent.process().term()?;
        }
        for agent in &joined {
            agent.process().wait(SOON)?;
        }
        control.process().kill()?;
        Ok(mesh)
    }

    /// Starts of both agents get this variable too.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Starts both agents from their disks, the caller's first, with this application as the endpoint.
    ///
    /// # Errors
    /// [`BenchError::Lab`] with the end of the log.
    pub fn start(&self, app: SocketAddr, speech: Speech) -> Result<[LocalAgent; 2], BenchError> {
        self.start_with(&[String::new(), endpoint(app, speech)])
    }

    fn start_with(&self, extra: &[String; 2]) -> Result<[LocalAgent; 2], BenchError> {
        let start = |n: usize| -> Result<LocalAgent, BenchError> {
            let config = format!("{}{}", self.configs[n], extra[n]);
            let file = &self.config_files()[n];
            std::fs::write(file, config).map_err(LabError::file("write", file))?;
            let program = Program::new(NAMES[n], &self.agent).args(["run", "--config"]);
            let program = program.arg(file.display().to_string());
            let set = |program: Program, (key, value): &(String, String)| program.env(key, value);
            let program = self.environment.iter().fold(program, set);
            Ok(LocalAgent::start(&self.place, NAMES[n], self.mesh[n], program)?)
        };
        let a = start(0)?;
        match start(1) {
            Ok(b) => Ok([a, b]),
            Err(error) => {
                a.process().kill()?;
                Err(error)
            }
        }
    }

    /// Where the agents' configurations are written when they start.
    #[must_use]
    pub fn config_files(&self) -> [PathBuf; 2] {
        NAMES.map(|name| self.place.path(&format!("{name}.toml")))
    }

    /// The mesh port of the application's agent.
    #[must_use]
    pub fn inbound(&self) -> SocketAddr {
        self.mesh[1]
    }
}

fn endpoint(app: SocketAddr, speech: Speech) -> String {
    let protocol = match speech {
        Speech::Grpc => "protocol = \"grpc\"\n",
        // A WebSocket begins as a request.
        Speech::Http | Speech::WebSocket => "",
    };
    format!("[[endpoint]]\nservice = \"bench\"\naddress = \"{app}\"\nrole = \"hot\"\n{protocol}")
}
