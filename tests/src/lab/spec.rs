//! An agent's configuration, typed, as the lab writes it.
//!
//! Knows the names of the configuration file and nothing of what the agent does with them. Anything
//! not listed here can be had through [`AgentSpec::extra`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::host::Host;

/// Port of the mesh on every host.
pub const MESH: u16 = 7940;
/// Port of the control API.
pub const CONTROL: u16 = 7945;
/// Longest path a unix socket may have (`sun_path`, less its terminator).
const SOCKET_PATH: usize = 107;

/// `agent.toml`.
#[derive(Debug, Clone, Serialize)]
pub struct AgentSpec {
    /// Node name.
    pub name: String,
    /// Zone; empty for none.
    pub zone: String,
    /// Where identity, table and policy live.
    pub state_dir: PathBuf,
    /// Log filter.
    pub log: String,
    /// Membership and links.
    pub mesh: MeshSection,
    /// How to get an identity, on the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<JoinSection>,
    /// Admin interfaces.
    pub admin: AdminSection,
    /// One port per upstream.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstream: Vec<Upstream>,
    /// What the host offers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoint: Vec<Endpoint>,
    /// Where traces go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Telemetry>,
    /// Lines put before everything else, as they are.
    #[serde(skip)]
    pub extra: String,
}

/// `[mesh]`
#[derive(Debug, Clone, Serialize)]
pub struct MeshSection {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What peers dial.
    pub advertise: SocketAddr,
    /// Any few agents.
    pub seeds: Vec<SocketAddr>,
    /// Whether silence is sensed: "on" or "off".
    pub sensing: &'static str,
}

/// `[join]`
#[derive(Debug, Clone, Serialize)]
pub struct JoinSection {
    /// The control plane.
    pub control: SocketAddr,
    /// One-time token.
    pub token: String,
}

/// `[admin]`
#[derive(Debug, Clone, Serialize)]
pub struct AdminSection {
    /// Unix socket.
    pub socket: PathBuf,
}

/// `[[upstream]]`
#[derive(Debug, Clone, Serialize)]
pub struct Upstream {
    /// Service called.
    pub service: String,
    /// Local port for it.
    pub listen: SocketAddr,
}

/// `[[endpoint]]`
#[derive(Debug, Clone, Serialize)]
pub struct Endpoint {
    /// Service offered.
    pub service: String,
    /// Where the application listens.
    pub address: SocketAddr,
    /// `hot` or `warm`.
    pub role: String,
    /// Order among the warm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Where the application's process id is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid_file: Option<PathBuf>,
    /// Health check.
    pub check: Check,
    /// How a warm one is woken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activate: Option<Hook>,
    /// How it is put back to sleep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deactivate: Option<Hook>,
}

/// `[endpoint.check]`
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// `http` or `tcp`.
    pub kind: String,
    /// Path of an `http` check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How often; the agent's default if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// How long an answer may take; the agent's default if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Failures until unready; the agent's default if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fall: Option<u32>,
    /// Successes until ready; the agent's default if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<u32>,
}

impl Check {
    /// `GET path` every 500 ms.
    #[must_use]
    pub fn http(path: &str) -> Self {
        Self {
            kind: "http".to_owned(),
            path: Some(path.to_owned()),
            interval: Some("500ms".to_owned()),
            timeout: Some("500ms".to_owned()),
            fall: Some(2),
            rise: Some(1),
        }
    }

    /// `GET path`, all else as the agent does it by default.
    #[must_use]
    pub fn usual(path: &str) -> Self {
        let usual = Self::http(path);
        Self { interval: None, timeout: None, fall: None, rise: None, ..usual }
    }
}

/// `[endpoint.activate]`, `[endpoint.deactivate]`
#[derive(Debug, Clone, Serialize)]
pub struct Hook {
    /// `http` or `exec`.
    pub kind: String,
    /// URL to POST to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Command to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// How long it may take.
    pub deadline: String,
}

impl Hook {
    /// POST to a URL, at most 10 s.
    #[must_use]
    pub fn http(url: String) -> Self {
        Self { kind: "http".to_owned(), url: Some(url), command: None, deadline: "10s".to_owned() }
    }

    /// Run a command, at most 10 s.
    #[must_use]
    pub fn exec(command: &[&str]) -> Self {
        Self {
            kind: "exec".to_owned(),
            url: None,
            command: Some(command.iter().map(|&word| word.to_owned()).collect()),
            deadline: "10s".to_owned(),
        }
    }
}

/// `[telemetry]`
#[derive(Debug, Clone, Serialize)]
pub struct Telemetry {
    /// OTLP/gRPC.
    pub otlp: String,
}

impl AgentSpec {
    /// An agent named as its host, with state and socket in the host's directory.
    #[must_use]
    pub fn new(host: &Host) -> Self {
        let mut socket = host.dir().join("agent.sock");
        if socket.as_os_str().len() > SOCKET_PATH {
            // A deep build directory: a unix socket cannot be named that long.
            let lab = host.dir().parent().and_then(|dir| dir.file_name());
            let lab = lab.unwrap_or_default().to_string_lossy();
            socket = std::env::temp_dir().join(format!("{lab}-{}.sock", host.name()));
        }
        Self {
            name: host.name().to_owned(),
            zone: String::new(),
            state_dir: host.dir().join("state"),
            log: std::env::var("HEARTH_LAB_LOG").unwrap_or_else(|_| "info".to_owned()),
            mesh: MeshSection {
                listen: SocketAddr::from(([0, 0, 0, 0], MESH)),
                advertise: host.at(MESH),
                seeds: Vec::new(),
                sensing: "on",
            },
            join: None,
            admin: AdminSection { socket },
            upstream: Vec::new(),
            endpoint: Vec::new(),
            telemetry: None,
            extra: String::new(),
        }
    }

    /// Stands in this zone.
    #[must_use]
    pub fn zone(mut self, zone: &str) -> Self {
        zone.clone_into(&mut self.zone);
        self
    }

    /// Joins through this control plane with this token.
    #[must_use]
    pub fn join(mut self, control: SocketAddr, token: &str) -> Self {
        let token = token.to_owned();
        self.join = Some(JoinSection { control, token });
        self
    }

    /// Looks for the mesh there.
    #[must_use]
    pub fn seeds(mut self, seeds: &[SocketAddr]) -> Self {
        self.mesh.seeds = seeds.to_vec();
        self
    }

    /// Offers a way to `service` on this loopback port.
    #[must_use]
    pub fn upstream(mut self, service: &str, port: u16) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        let service = service.to_owned();
        self.upstream.push(Upstream { service, listen });
        self
    }

    /// Serves `service` from this loopback port, checked at `/healthz`.
    #[must_use]
    pub fn hot(mut self, service: &str, port: u16) -> Self {
        self.endpoint.push(endpoint(service, port, "hot"));
        self
    }

    /// Its endpoints are checked at the start and then hardly ever: what becomes of one at once is no check's
    /// doing.
    #[must_use]
    pub fn seldom_checked(mut self) -> Self {
        for endpoint in &mut self.endpoint {
            endpoint.check.interval = Some("1h".to_owned());
        }
        self
    }

    /// Watches the process whose id stands in this file.
    #[must_use]
    pub fn watching(mut self, pid_file: &Path) -> Self {
        for endpoint in &mut self.endpoint {
            endpoint.pid_file = Some(pid_file.to_path_buf());
        }
        self
    }

    /// Stands by for `service`, with hooks at `/activate` and `/deactivate`.
    #[must_use]
    pub fn warm(mut self, service: &str, port: u16, priority: u8) -> Self {
        let hook = |path| Some(Hook::http(format!("http://127.0.0.1:{port}/{path}")));
        self.endpoint.push(Endpoint {
            activate: hook("activate"),
            deactivate: hook("deactivate"),
            priority: Some(priority),
            ..endpoint(service, port, "warm")
        });
        self
    }

    /// Wakes every endpoint that it has so far with `activate`, and puts it to sleep with `deactivate`.
    #[must_use]
    pub fn hooks(mut self, activate: &Hook, deactivate: &Hook) -> Self {
        for endpoint in &mut self.endpoint {
            endpoint.activate = Some(activate.clone());
            endpoint.deactivate = Some(deactivate.clone());
        }
        self
    }

    /// Checks every endpoint that it has so far in this way.
    #[must_use]
    pub fn checked(mut self, check: &Check) -> Self {
        self.endpoint.iter_mut().for_each(|endpoint| endpoint.check = check.clone());
        self
    }

    /// Sends traces there.
    #[must_use]
    pub fn otlp(mut self, url: &str) -> Self {
        let otlp = url.to_owned();
        self.telemetry = Some(Telemetry { otlp });
        self
    }

    /// The file's text.
    ///
    /// # Panics
    /// Never: every field is a plain value that TOML can hold.
    #[must_use]
    pub fn text(&self) -> String {
        let body = toml::to_string(self).unwrap_or_else(|e| panic!("agent configuration: {e}"));
        format!("{}{body}", self.extra)
    }
}

fn endpoint(service: &str, port: u16, role: &str) -> Endpoint {
    Endpoint {
        service: service.to_owned(),
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        role: role.to_owned(),
        priority: None,
        pid_file: None,
        check: Check::http("/healthz"),
        activate: None,
        deactivate: None,
    }
}
