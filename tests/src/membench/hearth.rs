//! Hearth: agents without services, started from identities on their disks, asked over their admin sockets.
//!
//! Identities are issued here, by the control plane's own authority, as if each node had joined with a token
//! some time ago. No control plane runs and no policy is in force: membership needs neither.
//!
//! The agents do not log what membership says, so that each is asked for its view, all of them in turn in one
//! second. An answer says since when each member is what it is, by the agent's clock; a look that comes late costs no
//! sharpness, see [`super::views`].

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_control::authority::{Authority, NODE_LIFE, new_root};
use hearth_proto::ids::{NodeName, TrustDomain};
use hearth_proto::time::Wall;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::Deserialize;

use super::kind::{Kind, Names, Shared, now};
use super::views::State;
use crate::bench::BenchError;
use crate::lab::binaries::ours;
use crate::lab::control::DOMAIN;
use crate::lab::http::ask_unix;
use crate::lab::process::Program;
use crate::lab::spec::{AgentSpec, MESH};
use crate::lab::{Host, LabError, Process};

/// All agents are asked once in so long, one after the other.
const ROUND: Duration = Duration::from_secs(1);

/// All Hearth agents of a bench.
#[derive(Debug)]
pub struct Hearth {
    program: PathBuf,
    hosts: Vec<Arc<Host>>,
    sockets: Vec<PathBuf>,
    names: Names,
    views: Shared,
    /// Who is asked next.
    next: usize,
    /// When somebody was last asked.
    asked: Instant,
}

/// A row of an agent's view, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Row {
    node: String,
    state: String,
    since: Wall,
}

impl Hearth {
    /// Issues identities and writes configurations on these hosts.
    ///
    /// # Errors
    /// [`BenchError`] when a certificate cannot be made or a file not be written.
    pub fn new(hosts: &[Arc<Host>], views: &Shared) -> Result<Self, BenchError> {
        let issuer = Issuer::new()?;
        let mut sockets = Vec::with_capacity(hosts.len());
        for (n, host) in hosts.iter().enumerate() {
            let spec = AgentSpec::new(host);
            issuer.issue(host.name(), &spec.state_dir)?;
            let first = [hosts[0].at(MESH)];
            let spec = spec.seeds(&first[..usize::from(n > 0)]);
            host.write("agent.toml", &spec.text())?;
            sockets.push(spec.admin.socket);
        }
        Ok(Self {
            program: ours("hearth-agent")?,
            hosts: hosts.to_vec(),
            sockets,
            names: Names::of(hosts),
            views: views.clone(),
            next: 0,
            asked: Instant::now(),
        })
    }

    /// Asks member `n` for its view. One that does not answer is asked again when its turn comes.
    fn ask(&self, n: usize) {
        let Ok(answer) = ask_unix(&self.sockets[n], "GET", "/v1/members", "") else { return };
        let Ok(rows) = serde_json::from_str::<Vec<Row>>(&answer.body) else { return };
        let mut views = self.views.lock();
        for row in rows {
            if let Some(of) = self.names.number(&row.node) {
                views.note(n, of, state(&row.state), row.since);
            }
        }
    }
}

impl Kind for Hearth {
    fn start(&self, n: usize) -> Result<Arc<Process>, LabError> {
        let host = &self.hosts[n];
        let config = host.dir().join("agent.toml").display().to_string();
        host.spawn(&Program::new("agent", &self.program).args(["run", "--config", &config]))
    }

    fn up(&self, n: usize) -> bool {
        ask_unix(&self.sockets[n], "GET", "/live", "").is_ok_and(|answer| answer.status == 200)
    }

    fn look(&mut self, gone: Option<usize>) {
        let all = self.sockets.len();
        let share = self.asked.elapsed().as_secs_f64() / ROUND.as_secs_f64();
        // At most one round at a time, however long nobody looked.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let due = (share.min(1.0) * all as f64) as usize;
        if due > 0 {
            self.asked = Instant::now();
        }
        for _ in 0..due {
            if Some(self.next) != gone {
                self.ask(self.next);
            }
            self.next = (self.next + 1) % all;
        }
    }

    fn rejoined(&self, n: usize) -> Option<u64> {
        let page = ask_unix(&self.sockets[n], "GET", "/metrics", "").ok()?.body;
        let name = "hearth_gossip_rejoins_total ";
        page.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
    }
}

/// What an agent's word for a member's state means here.
fn state(word: &str) -> State {
    match word {
        // However steady.
        "alive" | "unsteady" => State::Alive,
        "suspect" => State::Suspect,
        "down" | "left" => State::Down,
        _ => State::Unknown,
    }
}

/// The authority of the bench's mesh.
struct Issuer {
    authority: Authority,
    now: Wall,
}

impl Issuer {
    fn new() -> Result<Self, BenchError> {
        let (now, domain) = (now(), TrustDomain::parse(DOMAIN).map_err(failed)?);
        let (key, root) = new_root(&domain, now).map_err(failed)?;
        let authority = Authority::open(&key, &root, NODE_LIFE).map_err(failed)?;
        Ok(Self { authority, now })
    }

    /// Writes an identity into a node's state directory, as joining leaves it there.
    fn issue(&self, name: &str, state_dir: &Path) -> Result<(), BenchError> {
        let node = NodeName::parse(name).map_err(failed)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let request = CertificateParams::default().serialize_request(&key).map_err(failed)?;
        let request = request.pem().map_err(failed)?;
        let issued = self.authority.issue_node(&request, &node, self.now).map_err(failed)?;
        let dir = state_dir.join("identity");
        let identity = format!("{}{}", key.serialize_pem(), issued.pem);
        let write = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            private(&dir.join("bundle.pem"), self.authority.bundle_pem())?;
            private(&dir.join("identity.pem"), &identity)
        };
        write().map_err(LabError::file("write into", &dir))?;
        Ok(())
    }
}

/// Writes a file that only its owner may read.
fn private(path: &Path, text: &str) -> io::Result<()> {
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

// Taken by value: that is how `map_err` hands it over.
#[allow(clippy::needless_pass_by_value)]
fn failed(error: impl std::fmt::Display) -> BenchError {
    BenchError::Certificate(error.to_string())
}
