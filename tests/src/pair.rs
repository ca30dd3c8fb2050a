//! A pair of real agents on loopback with a way through them: caller → mesh → owner → application.
//!
//! Owns the agents: their configurations, so that they can be killed and started again, and the place they
//! run in. The control plane is needed to join and to put the policy into force, and is stopped then. The
//! applications are the test's own affair; they are to listen before the pair starts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use hearth_proto::view::{ExplainView, StatusView};

use crate::lab::error::LabError;
use crate::lab::wait::wait_for;
use crate::loopback::{
    ControlPlane, LocalAgent, Place, agent_config, agent_program, free_ports, join_table,
};

const SOON: Duration = Duration::from_secs(30);
/// Checks of applications: often, so that a test waits for one no longer than it must.
const CHECK: &str = "[endpoint.check]\ninterval = \"200ms\"\n";

/// A service and where its applications are.
#[derive(Debug, Clone)]
pub struct Offer {
    service: String,
    protocol: &'static str,
    /// By owner, as the configuration has it.
    addresses: Vec<String>,
}

impl Offer {
    /// A service that speaks `protocol` (`http`, `grpc`, `tcp`, `udp`), from this application.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "an address reads best without a reference")]
    pub fn new(service: &str, protocol: &'static str, address: impl ToString) -> Self {
        let addresses = vec![address.to_string()];
        Self { service: service.to_owned(), protocol, addresses }
    }

    /// … and by a further owner, from this one.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "an address reads best without a reference")]
    pub fn and(mut self, address: impl ToString) -> Self {
        self.addresses.push(address.to_string());
        self
    }

    fn table(&self, owner: usize) -> Option<String> {
        let (service, address) = (&self.service, self.addresses.get(owner)?);
        // `http` is what an endpoint speaks that says nothing.
        let protocol = match self.protocol {
            "http" => String::new(),
            other => format!("protocol = \"{other}\"\n"),
        };
        Some(format!(
            "[[endpoint]]\nservice = \"{service}\"\naddress = \"{address}\"\nrole = \"hot\"\n\
             {protocol}{CHECK}\n"
        ))
    }
}

/// What a pair is to carry.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The services.
    pub offers: Vec<Offer>,
    /// Policy, in full; empty for the defaults.
    pub policy: String,
    /// Further tables of the caller's configuration.
    pub caller: String,
}

/// An agent of a pair.
#[derive(Debug)]
pub struct Member {
    name: String,
    mesh: SocketAddr,
    config: String,
    agent: Option<LocalAgent>,
}

impl Member {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The agent.
    ///
    /// # Panics
    /// While it is down.
    #[must_use]
    pub fn agent(&self) -> &LocalAgent {
        self.agent.as_ref().unwrap_or_else(|| panic!("agent `{}` is down", self.name))
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// [`LabError::Signal`].
    pub fn kill(&mut self) -> Result<(), LabError> {
        self.agent.take().map_or(Ok(()), |agent| agent.process().kill())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// [`LabError::Deadline`] when it does not end.
    pub fn stop(&mut self) -> Result<(), LabError> {
        let Some(agent) = self.agent.take() else { return Ok(()) };
        agent.process().term()?;
        agent.process().wait(SOON).map(drop)
    }

    /// Starts it again from what is on its disk.
    ///
    /// # Errors
    /// [`LabError`] with the end of its log.
    pub fn restart(&mut self, place: &Place) -> Result<(), LabError> {
        self.start(place, "")
    }

    fn start(&mut self, place: &Place, join: &str) -> Result<(), LabError> {
        let program = agent_program(place, &self.name, &format!("{}{join}", self.config))?;
        self.agent = Some(LocalAgent::start(place, &self.name, self.mesh, program)?);
        Ok(())
    }
}

/// A caller's agent, owners' agents, and the caller's ports.
#[derive(Debug)]
pub struct Pair {
    // Before the place: agents go first.
    /// The agent that is called through.
    pub caller: Member,
    /// The agents of the applications.
    pub owners: Vec<Member>,
    /// The caller's shared port.
    pub shared: SocketAddr,
    entries: BTreeMap<String, SocketAddr>,
    /// Where all of it runs.
    pub place: Place,
}

impl Pair {
    /// Joins a caller and as many owners as the offers need, puts the policy into force and waits until
    /// every endpoint is picked from.
    ///
    /// # Errors
    /// [`LabError`] with what was last seen, or what an agent said against its configuration.
    pub fn start(place: Place, plan: &Plan) -> Result<Self, LabError> {
        Self::start_with(place, plan, |config| config)
    }

    /// The same with the caller's configuration edited: for keys of tables that it has already.
    ///
    /// # Errors
    /// As [`Pair::start`].
    pub fn start_with(
        place: Place,
        plan: &Plan,
        edit: impl FnOnce(String) -> String,
    ) -> Result<Self, LabError> {
        let mut pair = Self::planned(place, plan);
        pair.caller.config = edit(std::mem::take(&mut pair.caller.config));
        let control = ControlPlane::init(&pair.place)?;
        control.serve(&pair.place)?;
        let place = &pair.place;
        for member in std::iter::once(&mut pair.caller).chain(&mut pair.owners) {
            let join = join_table(control.address(), &control.token(place, &member.name)?);
            member.start(place, &join)?;
        }
        if !plan.policy.is_empty() {
            control.apply(place, &plan.policy)?;
            pair.wait_policy()?;
        }
        for offer in &plan.offers {
            pair.wait_serving(&offer.service, offer.addresses.len())?;
        }
        control.process().kill()?;
        Ok(pair)
    }

    fn planned(place: Place, plan: &Plan) -> Self {
        let owners = plan.offers.iter().map(|offer| offer.addresses.len()).max().unwrap_or(0);
        let [shared, caller_mesh] = free_ports();
        let mesh: Vec<SocketAddr> = (0..owners).map(|_| free_ports::<1>()[0]).collect();
        let entries: BTreeMap<String, SocketAddr> =
            plan.offers.iter().map(|offer| (offer.service.clone(), free_ports::<1>()[0])).collect();
        let seeds: Vec<SocketAddr> = mesh.iter().copied().take(2).chain([caller_mesh]).collect();
        let config = |name: &str, mesh| agent_config(&place, name, mesh, &seeds);
        let caller_config = config("caller", caller_mesh)
            .replace("[outbound]\nhttp = \"off\"\n", &format!("[outbound]\nhttp = \"{shared}\"\n"));
        let upstream = |offer: &Offer| {
            let (service, at) = (&offer.service, entries[&offer.service]);
            // Over TCP, what is spoken the endpoints say; a port of UDP is another port.
            let protocol = if offer.protocol == "udp" { "protocol = \"udp\"\n" } else { "" };
            format!("[[upstream]]\nservice = \"{service}\"\nlisten = \"{at}\"\n{protocol}\n")
        };
        let upstreams: String = plan.offers.iter().map(upstream).collect();
        let member = |name: String, mesh, config| Member { name, mesh, config, agent: None };
        let owner = |(n, mesh): (usize, &SocketAddr)| {
            let tables: String = plan.offers.iter().filter_map(|offer| offer.table(n)).collect();
            let name = format!("owner-{}", n + 1);
            let config = config(&name, *mesh) + &tables;
            member(name, *mesh, config)
        };
        Self {
            owners: mesh.iter().enumerate().map(owner).collect(),
            caller: member(
                "caller".to_owned(),
                caller_mesh,
                caller_config + &upstreams + &plan.caller,
            ),
            shared,
            entries,
            place,
        }
    }

    /// The caller's port for a service.
    ///
    /// # Panics
    /// For a service that the plan does not offer.
    #[must_use]
    pub fn entry(&self, service: &str) -> SocketAddr {
        self.entries[service]
    }

    /// Starts one owner's agent again and waits until all endpoints of a service are picked from.
    ///
    /// # Errors
    /// [`LabError`].
    pub fn revive(&mut self, owner: usize, service: &str, count: usize) -> Result<(), LabError> {
        self.owners[owner].restart(&self.place)?;
        self.wait_serving(service, count)
    }

    /// Waits until the caller picks from so many endpoints of a service.
    ///
    /// # Errors
    /// [`LabError::Deadline`] with the route in words.
    pub fn wait_serving(&self, service: &str, count: usize) -> Result<(), LabError> {
        let path = format!("/v1/explain/{service}");
        wait_for(&format!("{count} endpoints of {service} to be picked from"), SOON, || {
            let view: ExplainView = self.caller.agent().get(&path).map_err(|e| e.to_string())?;
            if view.route.picks.len() == count {
                return Ok(());
            }
            Err(format!("{:?}: {}", view.route.picks, view.route.reason))
        })
    }

    fn wait_policy(&self) -> Result<(), LabError> {
        wait_for("the policy to be in force on every agent", SOON, || {
            for member in std::iter::once(&self.caller).chain(&self.owners) {
                let status: StatusView =
                    member.agent().get("/v1/status").map_err(|e| e.to_string())?;
                if status.policy_version == 0 {
                    return Err(format!("{} has none", member.name));
                }
            }
            Ok(())
        })
    }
}
