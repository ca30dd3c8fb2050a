//! One side of the comparison, running in a lab: caller → sidecar A → mutual TLS → sidecar B → application.
//!
//! Owns everything that runs; each host is a network namespace of its own. All sides have the same
//! applications on the same hosts, three hot and two warm; what differs is the sidecars. Hearth's warm
//! applications sleep until they are called up, its peers' are awake all the time, because no peer could
//! wake them. Where a zone is lost, Hearth's agents know theirs, two hot ones that of the caller: by default its
//! requests stay there, so that all of them meet the fault. Its peers' profiles know no zones; of theirs two thirds do.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::peers;
use super::plan::Plan;
use super::subject::Subject;
use crate::bench::BenchError;
use crate::bench::authority::Authority;
use crate::bench::probe::fetch;
use crate::lab::mesh::{Mesh, MeshSpec, Node, UPSTREAM};
use crate::lab::process::tail;
use crate::lab::spec::Check;
use crate::lab::wait::wait_for;
use crate::lab::web::{Kind, Web};
use crate::lab::{Host, Lab, LabError, Link, Process, Weather};

/// Hosts that serve, and that stand by.
const HOT: usize = 3;
const WARM: usize = 2;
/// Hot hosts stand in so many zones, if in any; so many of them in the first, which is the caller's.
const ZONES: usize = 2;
pub(super) const ZONE: usize = 2;
/// What the applications are checked by, on every side.
pub(super) const HEALTH: &str = "/healthz";
/// All that must be said: that there are warm endpoints.
const POLICY: &str = "[services.ledger]\nmode = \"hot-warm\"\n";
const SOON: Duration = Duration::from_secs(30);
/// When nothing was executed for so long, nothing is under way.
const QUIET: Duration = Duration::from_secs(3);

/// A host that offers the service.
#[derive(Debug)]
pub struct Station {
    /// The host.
    pub host: Arc<Host>,
    /// The application's process.
    pub app: Arc<Process>,
    /// Its sidecar's.
    pub sidecar: Arc<Process>,
}

/// Everything.
#[derive(Debug)]
pub struct Field {
    /// Whose application calls.
    pub caller: Arc<Host>,
    /// Hosts that serve.
    pub hot: Vec<Station>,
    /// Hosts that stand by.
    pub warm: Vec<Station>,
    /// So many of the hot ones, from the first, have requests while nothing is wrong.
    serving: usize,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Hearth(Box<Mesh>),
    Peer(Vec<Web>),
}

impl Field {
    /// Starts one side as this fault needs it, and waits until it answers.
    ///
    /// # Errors
    /// [`BenchError`] with the step that failed and the end of a log.
    pub fn start(
        lab: &Lab,
        authority: &Authority,
        subject: Subject,
        fault: Fault,
        plan: &Plan,
    ) -> Result<Self, BenchError> {
        let field = match subject {
            Subject::Hearth => Self::hearth(lab, plan, fault == Fault::ZoneLost)?,
            _ => Self::peer(lab, plan, authority, subject)?,
        };
        wait_for(&format!("{} to answer", subject.title()), SOON, || {
            let ask = || fetch(entry(), "/", Duration::from_secs(2));
            let answered = field.caller.space().call(ask).map_err(|e| e.to_string())?;
            answered.map(drop).map_err(|seen| format!("{seen}; {}", field.log()))
        })?;
        Ok(field)
    }

    /// Where the caller's application calls, on its own loopback.
    #[must_use]
    pub fn entry(&self) -> SocketAddr {
        entry()
    }

    /// What is wrong with who served while nothing should be wrong, by their names: all who are to serve do, and
    /// nobody who stands by.
    ///
    /// # Errors
    /// That, in words.
    pub fn served_well<'a>(&self, by: impl IntoIterator<Item = &'a String>) -> Result<(), String> {
        let by: BTreeSet<&str> = by.into_iter().map(String::as_str).collect();
        let names = |stations: &[Station]| -> BTreeSet<String> {
            stations.iter().map(|station| station.host.name().to_owned()).collect()
        };
        let (hot, serving) = (names(&self.hot), names(&self.hot[..self.serving]));
        let lacking: Vec<_> = serving.iter().filter(|name| !by.contains(name.as_str())).collect();
        let strange: Vec<_> = by.iter().filter(|name| !hot.contains(**name)).collect();
        match lacking.is_empty() && strange.is_empty() {
            true => Ok(()),
            false => Err(format!("none by {lacking:?}, some by {strange:?}")),
        }
    }

    /// Every id that an application has executed, once for each time.
    #[must_use]
    pub fn executed(&self) -> Vec<String> {
        match &self.running {
            Running::Hearth(mesh) => {
                let nodes = mesh.hot.iter().chain(&mesh.warm);
                nodes.flat_map(|node| node.app().executed()).collect()
            }
            Running::Peer(webs) => webs.iter().flat_map(Web::executed).collect(),
        }
    }

    /// The same when nobody executes anything any more, `least` from now at the earliest. Nobody sends by now.
    ///
    /// # Errors
    /// [`BenchError::Lab`] when somebody goes on executing.
    pub fn executed_at_last(&self, least: Duration) -> Result<Vec<String>, BenchError> {
        let (begun, mut executed, mut since) = (Instant::now(), self.executed(), Instant::now());
        let settled = wait_for("nobody to execute anything any more", least + QUIET + SOON, || {
            let now = self.executed();
            if now.len() > executed.len() {
                (executed, since) = (now, Instant::now());
            }
            if begun.elapsed() >= least && since.elapsed() >= QUIET {
                return Ok(());
            }
            Err(format!("{} executed, the last {:?} ago", executed.len(), since.elapsed()))
        });
        settled?;
        Ok(executed)
    }

    fn hearth(lab: &Lab, plan: &Plan, zoned: bool) -> Result<Self, BenchError> {
        let (caller_link, caller_weather) = path(plan);
        let mesh = Mesh::start(
            lab,
            &MeshSpec {
                hot: HOT,
                warm: WARM,
                kind: Kind::App,
                activate: plan.hook(),
                policy: POLICY.to_owned(),
                check: Check::usual(HEALTH),
                caller_link,
                caller_weather,
                zones: if zoned { ZONES } else { 0 },
                ..MeshSpec::default()
            },
        )?;
        let station = |node: &Node| Station {
            host: Arc::clone(&node.host),
            app: node.app().process(),
            sidecar: node.agent.process(),
        };
        Ok(Self {
            caller: Arc::clone(&mesh.caller.host),
            hot: mesh.hot.iter().map(station).collect(),
            warm: mesh.warm.iter().map(station).collect(),
            serving: if zoned { ZONE } else { HOT },
            running: Running::Hearth(Box::new(mesh)),
        })
    }

    fn peer(
        lab: &Lab,
        plan: &Plan,
        authority: &Authority,
        subject: Subject,
    ) -> Result<Self, BenchError> {
        let (link, weather) = path(plan);
        let caller = lab.host_on("caller", link)?;
        if plan.rtt().is_some() {
            caller.weather(weather)?;
        }
        let hosts = |what: &str, count: usize| -> Result<Vec<Arc<Host>>, LabError> {
            (1..=count).map(|n| lab.host(&format!("{what}-{n}"))).collect()
        };
        let (hot, warm) = (hosts("hot", HOT)?, hosts("warm", WARM)?);
        let mut webs = Vec::new();
        let mut station = |host: &Arc<Host>| -> Result<Station, BenchError> {
            let web = Web::start(host, Kind::App)?;
            let app = web.process();
            webs.push(web);
            let sidecar = peers::inbound(subject, host, authority)?;
            Ok(Station { host: Arc::clone(host), app, sidecar })
        };
        let stations = [&hot, &warm]
            .map(|hosts| hosts.iter().map(&mut station).collect::<Result<Vec<_>, _>>());
        let [stations_hot, stations_warm] = stations;
        peers::outbound(subject, &caller, authority, &hot, &warm)?;
        let (hot, warm, running) = (stations_hot?, stations_warm?, Running::Peer(webs));
        Ok(Self { caller, hot, warm, serving: HOT, running })
    }

    fn log(&self) -> String {
        let sides = self.hot.iter().chain(&self.warm);
        let logs = sides.map(|station| tail(&station.sidecar.stderr(), 1));
        logs.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
    }
}

/// How the caller is connected. Each frame passes its link once; it is so long from the start, for a path that
/// grows by 50 ms under their hands would be another fault.
fn path(plan: &Plan) -> (Link, Weather) {
    match plan.rtt() {
        Some(rtt) => (Link::Relay, Weather { delay: rtt / 2, ..Weather::default() }),
        None => (Link::Cable, Weather::default()),
    }
}

fn entry() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], UPSTREAM))
}
