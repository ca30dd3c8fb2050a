//! A real agent on a host, and its admin socket.
//!
//! Owns the process and the configuration it was started with. Questions go to the unix socket
//! directly (the same JSON that `hearth -o json` prints), or through the command line itself.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hearth_proto::view::{ExplainView, IncidentView, MemberView, StatusView};
use serde::de::DeserializeOwned;

use super::binaries::ours;
use super::error::LabError;
use super::host::Host;
use super::http::ask_unix;
use super::process::{Process, Program, tail};
use super::run::Outcome;
use super::spec::AgentSpec;
use super::wait::wait_for;

/// From start to an answering admin socket.
const UP: Duration = Duration::from_secs(15);

/// An agent.
#[derive(Debug)]
pub struct Agent {
    host: Arc<Host>,
    spec: AgentSpec,
    process: Mutex<Arc<Process>>,
}

impl Agent {
    /// Writes the configuration, starts the agent and waits for its admin socket.
    ///
    /// # Errors
    /// [`LabError`] with the end of its log when it does not come up.
    pub fn start(host: &Arc<Host>, spec: AgentSpec) -> Result<Self, LabError> {
        host.write("agent.toml", &spec.text())?;
        let process = spawn(host)?;
        let agent = Self { host: Arc::clone(host), spec, process: Mutex::new(process) };
        agent.wait_up()?;
        Ok(agent)
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Its admin socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.spec.admin.socket
    }

    /// Its process as it is now.
    #[must_use]
    pub fn process(&self) -> Arc<Process> {
        Arc::clone(&self.process.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts it again from what is on its disk, after it ended or was killed. The join section is
    /// taken out of the configuration: an agent that has once joined needs nobody's permission.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn restart(&self) -> Result<(), LabError> {
        let known = AgentSpec { join: None, ..self.spec.clone() };
        self.host.write("agent.toml", &known.text())?;
        let process = spawn(&self.host)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = process;
        self.wait_up()
    }

    /// `GET path` from the admin socket, decoded.
    ///
    /// # Errors
    /// [`LabError::Admin`] with what came instead.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, LabError> {
        let fail = |reason: String| LabError::Admin {
            socket: self.socket().to_path_buf(),
            path: path.to_owned(),
            reason,
        };
        let answer = ask_unix(self.socket(), "GET", path, "").map_err(|e| fail(e.to_string()))?;
        if answer.status != 200 {
            return Err(fail(format!("{}: {}", answer.status, answer.body)));
        }
        serde_json::from_str(&answer.body).map_err(|e| fail(format!("{e} in {}", answer.body)))
    }

    /// Its view of itself.
    ///
    /// # Errors
    /// [`LabError::Admin`].
    pub fn status(&self) -> Result<StatusView, LabError> {
        self.get("/v1/status")
    }

    /// Its view of the members.
    ///
    /// # Errors
    /// [`LabError::Admin`].
    pub fn members(&self) -> Result<Vec<MemberView>, LabError> {
        self.get("/v1/members")
    }

    /// Its view of a service.
    ///
    /// # Errors
    /// [`LabError::Admin`].
    pub fn explain(&self, service: &str) -> Result<ExplainView, LabError> {
        self.get(&format!("/v1/explain/{service}"))
    }

    /// The incidents it knows.
    ///
    /// # Errors
    /// [`LabError::Admin`].
    pub fn incidents(&self) -> Result<Vec<IncidentView>, LabError> {
        self.get("/v1/incidents")
    }

    /// Its metrics page.
    ///
    /// # Errors
    /// [`LabError::Admin`].
    pub fn metrics(&self) -> Result<String, LabError> {
        let fail = |e: std::io::Error| LabError::Admin {
            socket: self.socket().to_path_buf(),
            path: "/metrics".to_owned(),
            reason: e.to_string(),
        };
        ask_unix(self.socket(), "GET", "/metrics", "").map(|answer| answer.body).map_err(fail)
    }

    /// Runs `hearth` against it.
    ///
    /// # Errors
    /// [`LabError`] when the program cannot be started.
    pub fn hearth(&self, args: &[&str]) -> Result<Outcome, LabError> {
        let socket = self.socket().display().to_string();
        let mut all = vec!["--socket", socket.as_str()];
        all.extend(args);
        self.host.run(ours("hearth")?, &all)
    }

    fn wait_up(&self) -> Result<(), LabError> {
        let process = self.process();
        let what = format!("agent `{}` to answer at its socket", self.host.name());
        let mut ended = false;
        let up = wait_for(&what, UP, || {
            ended = !process.running();
            match self.status() {
                Ok(_) => Ok(true),
                Err(_) if ended => Ok(false),
                Err(error) => Err(format!("{error}; log: {}", tail(&process.stderr(), 3))),
            }
        })?;
        if up {
            return Ok(());
        }
        let status = process.wait(Duration::ZERO)?;
        Err(LabError::Failed {
            command: "hearth-agent run".to_owned(),
            host: self.host.name().to_owned(),
            status: status.to_string(),
            output: tail(&process.stderr(), 8),
        })
    }
}

fn spawn(host: &Host) -> Result<Arc<Process>, LabError> {
    let config = host.dir().join("agent.toml").display().to_string();
    let program = Program::new("agent", ours("hearth-agent")?)
        .args(["run", "--config", &config])
        .env("RUST_BACKTRACE", "1");
    host.spawn(&program)
}
