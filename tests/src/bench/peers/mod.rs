//! The peers: which programs, with which configuration, as which pair.
//!
//! The configurations are files beside this one, with `%NAME%` where a run differs from another. They are
//! tuned to win: whoever knows a faster honest setting is invited to put it there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use serde::Serialize;

use super::authority::Authority;
use super::error::BenchError;
use super::speech::Speech;
use crate::lab::binaries::{target_dir, tool};
use crate::lab::{LabError, Process, Program};
use crate::loopback::Place;

/// What is measured. A pair is two sidecars with mutual TLS between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// No sidecar: the client calls the application.
    Direct,
    /// Hearth, all features on.
    Hearth,
    /// An earlier build of Hearth, to see what a change did.
    HearthBefore,
    /// Envoy, HTTP/2 between the two, 2 threads.
    EnvoyH2,
    /// Envoy, HTTP/1.1 between the two, 2 threads.
    EnvoyH1,
    /// `HAProxy`, HTTP/1.1 between the two, 1 thread.
    HaproxyH1,
    /// `HAProxy`, HTTP/2 between the two, 2 threads.
    HaproxyH2,
    /// nginx, HTTP/1.1 between the two, 1 process.
    NginxH1,
    /// The same with 2 processes.
    NginxH1Twice,
}

impl Subject {
    /// What a run without a choice measures.
    pub const USUAL: [Self; 8] = [
        Self::Direct,
        Self::Hearth,
        Self::EnvoyH2,
        Self::EnvoyH1,
        Self::HaproxyH1,
        Self::HaproxyH2,
        Self::NginxH1,
        Self::NginxH1Twice,
    ];

    /// As it is printed.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Direct => "no sidecar",
            Self::Hearth => "Hearth",
            Self::HearthBefore => "Hearth, before",
            Self::EnvoyH2 => "Envoy h2, 2 threads",
            Self::EnvoyH1 => "Envoy h1, 2 threads",
            Self::HaproxyH1 => "HAProxy h1, 1 thread",
            Self::HaproxyH2 => "HAProxy h2, 2 threads",
            Self::NginxH1 => "nginx h1, 1 process",
            Self::NginxH1Twice => "nginx h1, 2 processes",
        }
    }

    /// One of those that Hearth is held against.
    #[must_use]
    pub fn is_peer(self) -> bool {
        !matches!(self, Self::Direct | Self::Hearth | Self::HearthBefore)
    }

    /// One of Envoy's profiles.
    #[must_use]
    pub fn is_envoy(self) -> bool {
        matches!(self, Self::EnvoyH2 | Self::EnvoyH1)
    }

    /// Whether this pair can carry it at all. gRPC needs HTTP/2 between the two; nginx speaks that for
    /// gRPC, and only for it.
    #[must_use]
    pub fn carries(self, speech: Speech) -> bool {
        speech != Speech::Grpc || !matches!(self, Self::EnvoyH1 | Self::HaproxyH1)
    }

    /// What its sidecars say to each other for plain requests, by ALPN. `None`: not TLS over TCP.
    #[must_use]
    pub fn alpn(self) -> Option<&'static str> {
        match self {
            Self::Direct | Self::Hearth | Self::HearthBefore => None,
            Self::EnvoyH2 | Self::HaproxyH2 => Some("h2"),
            Self::EnvoyH1 | Self::HaproxyH1 | Self::NginxH1 | Self::NginxH1Twice => {
                Some("http/1.1")
            }
        }
    }

    /// Processes that make up one side, and threads of each.
    fn shape(self) -> (usize, usize) {
        match self {
            Self::NginxH1Twice => (2, 1),
            Self::EnvoyH2 | Self::EnvoyH1 | Self::HaproxyH2 => (1, 2),
            _ => (1, 1),
        }
    }
}

/// Which pair, for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The pair.
    pub subject: Subject,
    /// What client and application speak.
    pub speech: Speech,
}

/// Which sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The caller's.
    Out,
    /// The application's.
    In,
}

/// Where everything listens.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// The caller's sidecar, for the client.
    pub a: SocketAddr,
    /// The application's sidecar, for the other one.
    pub b: SocketAddr,
    /// The application.
    pub app: SocketAddr,
}

/// Starts one side of a peer's pair. It is not waited for.
///
/// # Errors
/// [`BenchError`] when the program is not installed or cannot be started.
pub fn start(
    place: &Place,
    authority: &Authority,
    kind: Kind,
    side: Side,
    ports: Ports,
) -> Result<Vec<Arc<Process>>, BenchError> {
    let (processes, threads) = kind.subject.shape();
    let way = match side {
        Side::Out => "out",
        Side::In => "in",
    };
    let mut started = Vec::new();
    for worker in 0..processes {
        let values = values(place, authority, kind, ports, (worker, threads));
        let program = match kind.subject {
            Subject::EnvoyH2 | Subject::EnvoyH1 => envoy(place, way, &values, threads)?,
            Subject::HaproxyH1 | Subject::HaproxyH2 => haproxy(place, way, &values)?,
            Subject::NginxH1 | Subject::NginxH1Twice => {
                let template = match side {
                    Side::Out => include_str!("nginx-out.conf"),
                    Side::In => include_str!("nginx-in.conf"),
                };
                nginx(place, &format!("nginx-{way}-{worker}"), template, &values)?
            }
            Subject::Direct | Subject::Hearth | Subject::HearthBefore => continue,
        };
        started.push(place.start(program)?);
    }
    Ok(started)
}

/// Starts the application: nginx with the files below `root`.
///
/// # Errors
/// As [`start`].
pub fn application(
    place: &Place,
    listen: SocketAddr,
    root: &Path,
) -> Result<Arc<Process>, BenchError> {
    let values = [
        ("USER", user()),
        ("FILES", open_files().to_string()),
        ("APP_PORT", listen.port().to_string()),
        ("ROOT", root.display().to_string()),
    ];
    let template = include_str!("application.conf");
    let program = nginx(place, "application", template, &values)?;
    Ok(place.start(program)?)
}

/// Envoy, as `tests/bench-setup` installs it: the program inside the Python package, without the script
/// that starts it.
///
/// # Errors
/// [`LabError::NoBinary`].
pub fn envoy_path() -> Result<PathBuf, LabError> {
    let venv = target_dir().join("tools/venv-bench/lib");
    let inside = std::fs::read_dir(&venv).into_iter().flatten().flatten();
    let mut paths = inside.map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    paths.find(|path| path.is_file()).ok_or_else(|| LabError::NoBinary {
        name: "envoy".to_owned(),
        looked: venv.display().to_string(),
        hint: "install it with tests/bench-setup",
    })
}

/// Files that a process may have open here, from `/proc/self/limits`: every sidecar is told, because 10,000
/// idle connections need as many, and not every machine allows more.
#[must_use]
pub fn open_files() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let hard = line.and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
    hard.unwrap_or(1024).min(65_536)
}

/// A placeholder and what it stands for.
pub(crate) type Value = (&'static str, String);

fn values(
    place: &Place,
    authority: &Authority,
    kind: Kind,
    ports: Ports,
    (worker, threads): (usize, usize),
) -> Vec<Value> {
    let file = |path: &Path| path.display().to_string();
    let (client, server) = (&authority.client, &authority.server);
    let files = open_files();
    let alpn = kind.subject.alpn().unwrap_or_default();
    let grpc = kind.speech == Speech::Grpc;
    let (codec, options) = envoy_codec(alpn == "h2");
    let (edge, application) = envoy_codec(grpc);
    let only_grpc = |text: &str| if grpc { text.to_owned() } else { String::new() };
    vec![
        ("A_PORT", ports.a.port().to_string()),
        ("B_HOST", ports.b.ip().to_string()),
        ("B_PORT", ports.b.port().to_string()),
        ("APP_PORT", ports.app.port().to_string()),
        ("CA", file(&authority.root_file)),
        ("A_CERT", file(&client.certificate_file)),
        ("A_KEY", file(&client.key_file)),
        ("A_PEM", file(&client.both_file)),
        ("B_CERT", file(&server.certificate_file)),
        ("B_KEY", file(&server.key_file)),
        ("B_PEM", file(&server.both_file)),
        ("ALPN", alpn.to_owned()),
        ("CODEC", codec.to_owned()),
        ("UPSTREAM_OPTIONS", options.to_owned()),
        // One other sidecar that never fails: no checks, no second try.
        ("ROUTES", ENVOY_ROUTES.to_owned()),
        ("CONNECT", "5s".to_owned()),
        ("CLUSTER", String::new()),
        ("ENDPOINTS", format!("[{{ lb_endpoints: [{}] }}]", envoy_endpoint(ports.b))),
        ("APPLICATION", String::new()),
        ("BACKEND", String::new()),
        ("SERVERS", format!("    server b {}", ports.b)),
        ("EDGE_CODEC", edge.to_owned()),
        ("APPLICATION_OPTIONS", application.to_owned()),
        // Of HAProxy and of nginx: HTTP/2 without TLS where the application is, by prior knowledge.
        ("PROTO", only_grpc(" proto h2")),
        ("HTTP2", only_grpc(" http2")),
        ("THREADS", threads.to_string()),
        ("WORKER", worker.to_string()),
        ("FILES", files.to_string()),
        // A connection in flight takes two files; idle ones take one, and those are the many.
        ("CONNECTIONS", files.saturating_sub(1000).max(100).to_string()),
        ("USER", user()),
        ("DIR", file(place.dir())),
    ]
}

/// Every request to the one cluster, however long it takes.
const ENVOY_ROUTES: &str = "[{ match: { prefix: \"/\" }, route: { cluster: peer, timeout: 0s } }]";

/// An endpoint of a cluster of Envoy's.
pub(crate) fn envoy_endpoint(at: SocketAddr) -> String {
    let (ip, port) = (at.ip(), at.port());
    format!(
        "{{ endpoint: {{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }} }}"
    )
}

/// Envoy's name for a codec, and the options of a cluster that speaks it.
pub(crate) fn envoy_codec(h2: bool) -> (&'static str, &'static str) {
    match h2 {
        true => (
            "HTTP2",
            "http2_protocol_options: { max_concurrent_streams: 1000, \
             initial_stream_window_size: 16777216, initial_connection_window_size: 33554432, \
             allow_connect: true }",
        ),
        false => ("HTTP1", "http_protocol_options: {}"),
    }
}

/// As root nginx would become another user, who cannot read the bench's directory.
fn user() -> String {
    if nix::unistd::geteuid().is_root() { "user root root;".to_owned() } else { String::new() }
}

fn envoy(
    place: &Place,
    way: &str,
    values: &[Value],
    threads: usize,
) -> Result<Program, BenchError> {
    let (name, text) = envoy_config(way, values)?;
    envoy_program(way, &place.write(&name, &text)?, threads)
}

/// A side of Envoy's (`in` or `out`): the name of its file and what is to be in it.
pub(crate) fn envoy_config(way: &str, values: &[Value]) -> Result<(String, String), BenchError> {
    let template = match way {
        "out" => include_str!("envoy-out.yaml"),
        _ => include_str!("envoy-in.yaml"),
    };
    let name = format!("envoy-{way}.yaml");
    let text = fill(&name, template, values)?;
    Ok((name, text))
}

/// Envoy with this file.
pub(crate) fn envoy_program(way: &str, file: &Path, threads: usize) -> Result<Program, BenchError> {
    Ok(Program::new(&format!("envoy-{way}"), envoy_path()?)
        .args(["--disable-hot-restart", "--log-level", "error", "--concurrency"])
        .arg(threads.to_string())
        .args(["-c".to_owned(), file.display().to_string()]))
}

fn haproxy(place: &Place, way: &str, values: &[Value]) -> Result<Program, BenchError> {
    let (name, text) = haproxy_config(way, values)?;
    haproxy_program(way, &place.write(&name, &text)?)
}

/// A side of `HAProxy`'s (`in` or `out`): the name of its file and what is to be in it.
pub(crate) fn haproxy_config(way: &str, values: &[Value]) -> Result<(String, String), BenchError> {
    let template = match way {
        "out" => include_str!("haproxy-out.cfg"),
        _ => include_str!("haproxy-in.cfg"),
    };
    let name = format!("haproxy-{way}.cfg");
    let text = fill(&name, template, values)?;
    Ok((name, text))
}

/// `HAProxy` with this file.
pub(crate) fn haproxy_program(way: &str, file: &Path) -> Result<Program, BenchError> {
    Ok(Program::new(&format!("haproxy-{way}"), tool("haproxy")?).args([
        "-db".to_owned(),
        "-f".to_owned(),
        file.display().to_string(),
    ]))
}

fn nginx(
    place: &Place,
    name: &str,
    template: &str,
    values: &[Value],
) -> Result<Program, BenchError> {
    let config = format!("{name}.conf");
    let file = place.write(&config, &fill(&config, template, values)?)?;
    let (prefix, file) = (place.dir().display().to_string(), file.display().to_string());
    Ok(Program::new(name, tool("nginx")?).args([
        "-p",
        prefix.as_str(),
        "-c",
        file.as_str(),
        "-e",
        "stderr",
    ]))
}

/// The template with every placeholder replaced.
fn fill(file: &str, template: &str, values: &[Value]) -> Result<String, BenchError> {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("%{name}%"), value);
    }
    let is_name = |s: &&str| !s.is_empty() && s.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    match text.split('%').skip(1).find(is_name) {
        None => Ok(text),
        Some(name) => {
            Err(BenchError::Template { file: file.to_owned(), placeholder: format!("%{name}%") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn what_is_not_filled_in_is_an_error_and_not_sent_to_a_peer() {
        let values = [("PORT", "80".to_owned())];
        assert_eq!(fill("x", "listen %PORT%; at 100%", &values).unwrap(), "listen 80; at 100%");
        assert!(
            fill("x", "listen %PORT% %HOST%;", &values).unwrap_err().to_string().contains("%HOST%")
        );
    }
}
