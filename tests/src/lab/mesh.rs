//! A whole mesh in a lab: control plane, trace receiver, one caller, hot and warm hosts.
//!
//! Knows how a mesh is put together the way an operator would do it: tokens, joins, seeds, policy.
//! Waits on what agents *say*, with deadlines. Faults are the hosts' affair, judgements the tests'.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::view::{ExplainView, IncidentView};

use super::agent::Agent;
use super::control::Control;
use super::error::LabError;
use super::hooked;
use super::host::Host;
use super::spec::{AgentSpec, Check, MESH};
use super::wait::wait_for;
use super::web::{Kind, PORT, Web};
use super::{Lab, Link, Weather, process::tail};
use crate::load::{Load, LoadSpec};
use crate::otlp::Receiver;

/// The service of every lab mesh.
pub const SERVICE: &str = "ledger";
/// The caller's port for it.
pub const UPSTREAM: u16 = 8001;

/// Policy of a lab mesh: the defaults, but a failback one can wait for.
pub const POLICY: &str = "[services.ledger]\nmode = \"hot-warm\"\nfailback = \"3s\"\n";

/// How large a mesh.
#[derive(Debug, Clone)]
pub struct MeshSpec {
    /// Hosts that serve.
    pub hot: usize,
    /// Hosts that stand by.
    pub warm: usize,
    /// Application of the hot ones.
    pub kind: Kind,
    /// How long a warm one's activation hook takes.
    pub activate: Duration,
    /// Policy applied at start.
    pub policy: String,
    /// How every application is checked.
    pub check: Check,
    /// How the caller's host is connected.
    pub caller_link: Link,
    /// What that connection does to frames, from before the first agent starts. Any but the default asks for
    /// [`Link::Relay`].
    pub caller_weather: Weather,
    /// Whether agents sense the silence of their peers.
    pub sensing: bool,
    /// No UDP reaches or leaves the caller's host, from before the first agent starts.
    pub udp_blocked: bool,
    /// Applications of the hot ones are checked at the start, and then hardly ever.
    pub seldom_checked: bool,
    /// Agents of the hot ones watch the process of their application.
    pub watched: bool,
    /// Hot hosts stand in so many zones, as many in each; the caller is in the first. 0: in none.
    pub zones: usize,
    /// Nothing runs on the warm ones until their hook starts it.
    pub hooked: bool,
    /// Hot hosts call the service as well, at the caller's port.
    pub calling: bool,
}

/// Where a host's application has its process id.
const PID_FILE: &str = "app.pid";

impl Default for MeshSpec {
    fn default() -> Self {
        Self {
            hot: 3,
            warm: 2,
            kind: Kind::best(),
            activate: Duration::from_millis(200),
            policy: POLICY.to_owned(),
            check: Check::http("/healthz"),
            caller_link: Link::Cable,
            caller_weather: Weather::default(),
            sensing: true,
            udp_blocked: false,
            seldom_checked: false,
            watched: false,
            zones: 0,
            hooked: false,
            calling: false,
        }
    }
}

impl MeshSpec {
    /// The zone of the hot host with this number, from 0; empty for none.
    fn zone(&self, hot: usize) -> String {
        match self.zones {
            0 => String::new(),
            zones => format!("zone-{}", hot * zones / self.hot.max(1) + 1),
        }
    }

    /// What runs on a warm host from the start.
    fn asleep(&self) -> Option<Kind> {
        (!self.hooked).then_some(Kind::Warm { activate: self.activate })
    }
}

fn hot_spec(mesh: &MeshSpec, host: &Host, spec: AgentSpec) -> AgentSpec {
    let spec = spec.hot(SERVICE, PORT).checked(&mesh.check);
    let spec = if mesh.seldom_checked { spec.seldom_checked() } else { spec };
    let spec = if mesh.calling { spec.upstream(SERVICE, UPSTREAM) } else { spec };
    if mesh.watched { spec.watching(&host.dir().join(PID_FILE)) } else { spec }
}

fn warm_spec(
    mesh: &MeshSpec,
    host: &Host,
    spec: AgentSpec,
    priority: u8,
) -> Result<AgentSpec, LabError> {
    let spec = spec.warm(SERVICE, PORT, priority).checked(&mesh.check);
    if !mesh.hooked {
        return Ok(spec);
    }
    let (start, stop) = hooked::hooks(host, mesh.kind)?;
    Ok(spec.hooks(&start, &stop))
}

/// A host with an agent, and an application if it offers the service.
#[derive(Debug)]
pub struct Node {
    /// The host.
    pub host: Arc<Host>,
    /// Its agent.
    pub agent: Agent,
    /// Its application.
    pub web: Option<Web>,
}

impl Node {
    /// Its endpoint of the service, as agents write it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{SERVICE}@{}", self.host.name())
    }

    /// Its application's process.
    ///
    /// # Panics
    /// On the caller, which has none.
    #[must_use]
    pub fn app(&self) -> &Web {
        self.web.as_ref().unwrap_or_else(|| panic!("{} offers nothing", self.host.name()))
    }
}

/// The mesh.
#[derive(Debug)]
pub struct Mesh {
    /// The control plane.
    pub control: Control,
    /// Where traces arrive.
    pub otlp: Receiver,
    /// The host whose agent is called through.
    pub caller: Node,
    /// Hosts that serve.
    pub hot: Vec<Node>,
    /// Hosts that stand by.
    pub warm: Vec<Node>,
}

impl Mesh {
    /// Starts everything and waits until it is [steady](Mesh::steady) under the policy.
    ///
    /// # Errors
    /// [`LabError`] with the step that failed and what was seen.
    pub fn start(lab: &Lab, spec: &MeshSpec) -> Result<Self, LabError> {
        let control = Control::init(&lab.host("control")?)?;
        let otlp = Receiver::start(&*lab.host("otlp")?)?;
        let caller = lab.host_on("caller", spec.caller_link)?;
        if spec.caller_weather != Weather::default() {
            caller.weather(spec.caller_weather)?;
        }
        if spec.udp_blocked {
            caller.block_udp()?;
        }
        let names = |what: &str, count: usize| -> Vec<String> {
            (1..=count).map(|n| format!("{what}-{n}")).collect()
        };
        let make = |names: Vec<String>| -> Result<Vec<Arc<Host>>, LabError> {
            names.iter().map(|name| lab.host(name)).collect()
        };
        let (hot, warm) = (make(names("hot", spec.hot))?, make(names("warm", spec.warm))?);
        let seeds: Vec<SocketAddr> =
            [&caller].into_iter().chain(hot.iter().take(2)).map(|h| h.at(MESH)).collect();
        let plan = |host: &Arc<Host>| -> Result<AgentSpec, LabError> {
            let token = control.token(host.name())?;
            let mut agent = AgentSpec::new(host).seeds(&seeds).otlp(&otlp.url());
            agent.mesh.sensing = if spec.sensing { "on" } else { "off" };
            Ok(agent.join(control.address(), &token))
        };
        // All tokens first: they are made while the control plane does not serve.
        let caller_spec = plan(&caller)?.upstream(SERVICE, UPSTREAM).zone(&spec.zone(0));
        let hot_specs = (0..)
            .zip(&hot)
            .map(|(n, host)| Ok(hot_spec(spec, host, plan(host)?.zone(&spec.zone(n)))))
            .collect::<Result<Vec<_>, LabError>>()?;
        let warm_specs = (0..)
            .zip(&warm)
            .map(|(n, host)| warm_spec(spec, host, plan(host)?, n))
            .collect::<Result<Vec<_>, LabError>>()?;
        control.serve()?;
        let start = |host: Arc<Host>, agent: AgentSpec, kind: Option<Kind>| {
            let web = kind.map(|kind| Web::start(&host, kind)).transpose()?;
            if let Some(web) = &web {
                host.write(PID_FILE, &format!("{}\n", web.process().pid()))?;
            }
            let agent = Agent::start(&host, agent)?;
            Ok::<Node, LabError>(Node { host, agent, web })
        };
        let awake = Some(spec.kind);
        let asleep = spec.asleep();
        let mesh = Self {
            caller: start(caller, caller_spec, None)?,
            hot: hot
                .into_iter()
                .zip(hot_specs)
                .map(|(h, s)| start(h, s, awake))
                .collect::<Result<_, _>>()?,
            warm: warm
                .into_iter()
                .zip(warm_specs)
                .map(|(h, s)| start(h, s, asleep))
                .collect::<Result<_, _>>()?,
            control,
            otlp,
        };
        mesh.wait_members(Duration::from_secs(30))?;
        mesh.apply(&spec.policy)?;
        // Whoever was called up while the others came is put back to sleep first.
        mesh.steady(Duration::from_secs(90))?;
        Ok(mesh)
    }

    /// Every node that runs an agent, the caller first.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        std::iter::once(&self.caller).chain(&self.hot).chain(&self.warm)
    }

    /// Load from the caller's application, through its agent.
    ///
    /// # Errors
    /// [`LabError::Space`].
    pub fn load(&self) -> Result<Load, LabError> {
        Load::start(&self.caller.host, LoadSpec::new(Self::entry()))
    }

    /// Where the caller's application calls the service.
    #[must_use]
    pub fn entry() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], UPSTREAM))
    }

    /// The caller's view of the service.
    ///
    /// # Errors
    /// [`LabError::Admin`].
    pub fn explain(&self) -> Result<ExplainView, LabError> {
        self.caller.agent.explain(SERVICE)
    }

    /// Applies a policy and waits until every agent has it in force. Returns its version.
    ///
    /// # Errors
    /// [`LabError`] when it is refused or does not arrive.
    pub fn apply(&self, policy: &str) -> Result<u64, LabError> {
        let before = self.caller.agent.status()?.policy_version;
        self.control.apply(policy)?;
        wait_for("the policy to be in force on every agent", Duration::from_secs(20), || {
            let mut versions = Vec::new();
            for node in self.nodes() {
                let status = node.agent.status().map_err(|e| e.to_string())?;
                versions.push((node.host.name(), status.policy_version));
            }
            let newest = versions[0].1;
            if newest > before && versions.iter().all(|&(_, version)| version == newest) {
                return Ok(newest);
            }
            Err(format!("{versions:?}"))
        })
    }

    /// Waits until every agent sees every other alive.
    ///
    /// # Errors
    /// [`LabError::Deadline`] with who sees how many.
    pub fn wait_members(&self, within: Duration) -> Result<(), LabError> {
        let all = self.nodes().count();
        wait_for("every agent to see all others alive", within, || {
            let mut short = Vec::new();
            for node in self.nodes() {
                let members = node.agent.members().map_err(|e| e.to_string())?;
                let alive = members.iter().filter(|m| m.lives()).count();
                if alive < all {
                    let log = tail(&node.agent.process().stderr(), 1);
                    short.push(format!("{}: {alive} of {all}, log: {log}", node.host.name()));
                }
            }
            if short.is_empty() { Ok(()) } else { Err(short.join("; ")) }
        })
    }

    /// Waits until the caller's view of the service satisfies `holds`.
    ///
    /// # Errors
    /// [`LabError::Deadline`] with the view in sentences.
    pub fn wait_view(
        &self,
        what: &str,
        within: Duration,
        mut holds: impl FnMut(&ExplainView) -> bool,
    ) -> Result<ExplainView, LabError> {
        wait_for(what, within, || {
            let view = self.explain().map_err(|e| e.to_string())?;
            if holds(&view) {
                return Ok(view);
            }
            Err(format!("{} ({})", view.route.reason, sketch(&view)))
        })
    }

    /// Waits until exactly the hot endpoints serve and every warm one stands by.
    ///
    /// # Errors
    /// [`LabError::Deadline`] with the view in sentences.
    pub fn steady(&self, within: Duration) -> Result<ExplainView, LabError> {
        let mut hot: Vec<String> = self.hot.iter().map(Node::endpoint).collect();
        hot.sort();
        self.wait_view("all hot to serve and all warm to stand by", within, |view| {
            let mut picks = view.route.picks.clone();
            picks.sort();
            let warm = view.endpoints.iter().filter(|e| e.role == "warm");
            let standby = warm.filter(|e| e.condition == "standby").count();
            picks == hot && standby == self.warm.len()
        })
    }

    /// Waits until this many warm endpoints serve, and requests may go to them.
    ///
    /// # Errors
    /// [`LabError::Deadline`] with the view in sentences.
    pub fn wait_warm(&self, count: usize, within: Duration) -> Result<ExplainView, LabError> {
        let what = format!("{count} warm endpoints to serve");
        self.wait_view(&what, within, |view| active_warm(view).len() == count)
    }

    /// The caller's incident about the loss of `node`'s endpoint, the newest one.
    ///
    /// # Errors
    /// [`LabError::Deadline`] with the incidents it has.
    pub fn incident(&self, node: &Node, within: Duration) -> Result<IncidentView, LabError> {
        let lost = node.endpoint();
        wait_for(&format!("an incident about {lost}"), within, || {
            let incidents = self.caller.agent.incidents().map_err(|e| e.to_string())?;
            let known: Vec<String> = incidents.iter().map(|i| i.lost.clone()).collect();
            incidents
                .into_iter()
                .filter(|i| i.lost == lost)
                .max_by_key(|i| i.opened)
                .ok_or_else(|| format!("{known:?}"))
        })
    }
}

/// The warm endpoints that serve and are picked from.
#[must_use]
pub fn active_warm(view: &ExplainView) -> Vec<String> {
    view.endpoints
        .iter()
        .filter(|e| e.role == "warm" && e.condition == "serving")
        .filter(|e| view.route.picks.contains(&e.endpoint))
        .map(|e| e.endpoint.clone())
        .collect()
}

/// All endpoints in one line: `hot-1 serving/ready, …`.
#[must_use]
pub fn sketch(view: &ExplainView) -> String {
    let one = |e: &hearth_proto::view::EndpointView| {
        format!("{} {}/{}", e.node.as_str(), e.condition, e.standing)
    };
    view.endpoints.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::MeshSpec;

    #[test]
    fn the_first_of_the_hot_are_in_the_first_zone_which_is_the_callers() {
        let zones = |zones| {
            let spec = MeshSpec { zones, ..MeshSpec::default() };
            [0, 1, 2].map(|hot| spec.zone(hot))
        };
        assert_eq!(zones(2), ["zone-1", "zone-1", "zone-2"]);
        assert_eq!(zones(0), ["", "", ""]);
    }
}
