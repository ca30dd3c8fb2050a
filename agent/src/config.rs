//! What the operator wrote, checked once: a [`Config`] that exists is a valid one.
//!
//! Text and environment go in, a value or *all* mistakes that can be found come out, each with file, line,
//! column and what to do. (A text that is not TOML, an unknown key and a value of a wrong kind end the
//! reading, so of those only the first is told.) Defaults are here and nowhere else. Reads the config
//! file and nothing more: whether a port is free or a host answers is found out by who uses it.

mod dns;
mod endpoint;
mod environment;
mod ingress;
mod raw;
mod reload;
#[cfg(test)]
mod tests;
mod validate;
mod value;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::link::LaneChoice;
use crate::pipe::AppAddress;
use hearth_proto::advert::{Protocol, Role};
use hearth_proto::ids::{NodeName, ServiceName};
use hearth_proto::settings::SettingsError;

pub use dns::{Dns, Resolvers};
pub use ingress::{HostPattern, Ingress, IngressRoute, IngressTls, Network};
pub use reload::{Changes, NeedsRestart};

/// The agent's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from, for messages.
    pub file: String,
    /// This node.
    pub name: NodeName,
    /// Its zone; may be empty.
    pub zone: String,
    /// Its region; may be empty.
    pub region: String,
    /// Where identity, generation, table and documents live.
    pub state_dir: PathBuf,
    /// Which events are logged, in the syntax of tracing's `EnvFilter`.
    pub log: String,
    /// The mesh port.
    pub mesh: Mesh,
    /// How to become a member; needed only while `state_dir` holds no identity.
    pub join: Option<Join>,
    /// The admin API.
    pub admin: Admin,
    /// The shared outbound HTTP port; `None` when switched off.
    pub outbound: Option<SocketAddr>,
    /// The port for programs that speak SOCKS; `None` unless given.
    pub socks: Option<SocketAddr>,
    /// Names of services, for programs that look them up; `None` unless given.
    pub dns: Option<Dns>,
    /// One port per upstream service.
    pub upstreams: Vec<Upstream>,
    /// Ports for clients outside the mesh.
    pub ingresses: Vec<Ingress>,
    /// What this host offers, ordered by service and instance.
    pub endpoints: Vec<Endpoint>,
    /// Where traces go: an OTLP/gRPC endpoint.
    pub otlp: Option<String>,
    /// Bytes of disk for the flight recorder; `None` when switched off.
    pub flight: Option<u64>,
}

/// The mesh port and whom to call first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// What is bound.
    pub listen: SocketAddr,
    /// What peers dial.
    pub advertise: SocketAddr,
    /// Any few agents.
    pub seeds: Vec<HostPort>,
    /// What carries requests to peers.
    pub lane: LaneChoice,
    /// Whether the silence of peers is sensed on links.
    pub sensing: bool,
    /// Whether bytes are relayed between two other members, one of which cannot reach the other.
    pub relay: bool,
}

/// The control plane and the token it gave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The control API.
    pub control: HostPort,
    /// The one-time token; absent where a node only renews.
    pub token: Option<Token>,
}

/// A join token, or where it stands.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// The token itself.
    Text(String),
    /// A file that holds it.
    File(PathBuf),
}

/// Never prints the token: configurations end up in logs.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(<hidden>)"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// The admin API's listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Unix socket, everything.
    pub socket: PathBuf,
    /// HTTP, read only; `None` when switched off.
    pub http: Option<SocketAddr>,
}

/// A port for one upstream service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The service called through it.
    pub service: ServiceName,
    /// What applications on this host dial.
    pub listen: SocketAddr,
    /// What carries them there.
    pub transport: Transport,
}

/// What an upstream's port is a port of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP; what is spoken over it, the service's endpoints say.
    Tcp,
    /// UDP: each client's datagrams are a session.
    Udp {
        /// A session ends when nothing was sent either way for so long.
        idle: Duration,
    },
}

/// One instance of a service on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The service.
    pub service: ServiceName,
    /// Tells instances of one service apart: their order in the file, from 0.
    pub instance: u16,
    /// Where the application listens.
    pub address: AppAddress,
    /// Hot, or warm with its priority.
    pub role: Role,
    /// What it speaks.
    pub protocol: Protocol,
    /// The version of HTTP it is spoken to in, by prior knowledge; of no meaning where it speaks none.
    pub http: HttpVersion,
    /// Where the application's process id is written: its exit is noticed at once, not by the next check.
    pub pid_file: Option<PathBuf>,
    /// How its health is checked.
    pub check: Check,
    /// What makes it serve; only of a warm one.
    pub activate: Option<Hook>,
    /// What makes it stand by again; only of a warm one.
    pub deactivate: Option<Hook>,
    /// Attempts of `activate`, as far as the deadline has room for them.
    pub attempts: u32,
    /// Bounds its activation as a whole: hook, readiness and warm-up.
    pub activation_deadline: Duration,
    /// Requests made before it serves; only of a warm one that speaks HTTP.
    pub warm_up: Option<WarmUp>,
    /// Its capacity, 100 for a usual endpoint.
    pub weight: u16,
}

/// Requests that warm an application up before the first real one. Always `GET`: they must change nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// Begins with `/`.
    pub path: String,
    /// How many, one after the other.
    pub requests: u32,
}

/// A version of HTTP that an application is spoken to in. It is written down, not negotiated: without TLS
/// there is nothing to negotiate with, and asking for an upgrade costs a round trip that few servers answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[default]
    One,
    /// HTTP/2 with prior knowledge.
    Two,
}

impl HttpVersion {
    /// What an endpoint of `protocol` speaks when nobody says otherwise: gRPC is HTTP/2.
    pub fn of(protocol: Protocol) -> Self {
        if protocol == Protocol::Grpc { Self::Two } else { Self::One }
    }
}

/// How an endpoint's health is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is tried.
    pub kind: CheckKind,
    /// Time from the start of one to the start of the next.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// So many failures in a row make it unready.
    pub fall: u32,
    /// So many successes in a row make it ready.
    pub rise: u32,
}

/// What one health check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// A connection is accepted.
    Tcp,
    /// `GET path` is answered 2xx or 3xx.
    Http {
        /// Begins with `/`.
        path: String,
    },
    /// `grpc.health.v1.Health/Check` of the server as a whole is answered SERVING.
    Grpc,
    /// An empty datagram is not answered by the system that the port is closed.
    Udp,
}

impl CheckKind {
    /// What is tried when nobody says what: a connection, where there are connections.
    pub fn of(protocol: Protocol) -> Self {
        if protocol == Protocol::Udp { Self::Udp } else { Self::Tcp }
    }
}

impl Default for Check {
    /// TCP every second: one accepted connection per second costs an application nothing, and two
    /// failures are seen before a person would notice.
    fn default() -> Self {
        Self {
            kind: CheckKind::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            fall: 2,
            rise: 1,
        }
    }
}

/// What is run to activate or deactivate an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// What is done.
    pub action: Action,
    /// The time that one attempt to activate has; of a deactivation all attempts together.
    pub deadline: Duration,
}

/// What a hook does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `POST`; 2xx is success.
    Http(http::Uri),
    /// A program and its arguments, no shell; exit 0 is success. Never empty.
    Exec(Vec<String>),
}

/// A host, by name or address, and a port. Looked up when it is used, so that a name may move.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// Reads `host:port`, `192.0.2.1:7940` or `[2001:db8::1]:7940`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("{text:?} lacks a port; write host:port"))?;
        let port = match port.parse() {
            Ok(port) if port != 0 => port,
            _ => return Err(format!("{text:?} has no port from 1 to 65535 behind its last ':'")),
        };
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let is_name = !bare.is_empty()
            && bare.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if !is_name && bare.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("{host:?} in {text:?} is neither a host name nor an address"));
        }
        Ok(Self { host: bare.to_owned(), port })
    }

    /// All addresses it stands for now; at least one.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<_> =
            tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(found)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}: {source}\n  hint: {}", path.display(), read_hint(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has mistakes: at least one, in the order of the text.
    #[error("{}", mistakes_text(.0))]
    Mistakes(Vec<SettingsError>),
}

fn read_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "write it, or name another with --config FILE",
        io::ErrorKind::PermissionDenied => "it must be readable by the user the agent runs as",
        io::ErrorKind::InvalidData => "it must be UTF-8 text",
        _ => "name another with --config FILE",
    }
}

fn mistakes_text(mistakes: &[SettingsError]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads `path`, with `environment` (name and value) over it.
    pub fn load(
        path: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &text, environment)
    }

    /// Reads `text`, which stands in `file`.
    pub fn parse(
        file: &str,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut raw: raw::Config = hearth_proto::settings::parse(file, text)
            .map_err(|mistake| ConfigError::Mistakes(vec![mistake]))?;
        let mut mistakes = validate::Mistakes::new(file, text);
        environment::apply(&mut raw, environment, &mut mistakes);
        validate::config(&raw, mistakes).map_err(ConfigError::Mistakes)
    }

    /// The `[join]` section, for a node without an identity.
    pub fn join_required(&self) -> Result<&Join, SettingsError> {
        self.join.as_ref().ok_or_else(|| SettingsError {
            file: self.file.clone(),
            place: None,
            what: format!(
                "section [join] is missing, and {} holds no identity of an earlier join",
                self.state_dir.display()
            ),
            hint: Some(format!(
                "make a token on the control host (hearth token create {}) and write [join] with \
                 control = \"HOST:7945\" and token = \"…\"",
                self.name
            )),
        })
    }

    /// For a node without an identity whose `[join]` names no token.
    pub fn token_required(&self) -> SettingsError {
        SettingsError {
            file: self.file.clone(),
            place: None,
            what: format!(
                "join.token is missing, and {} holds no identity of an earlier join",
                self.state_dir.display()
            ),
            hint: Some(format!(
                "make one on the control host (hearth token create {}) and write join.token or \
                 join.token_file",
                self.name
            )),
        }
    }
}
