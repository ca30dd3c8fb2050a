//! Two real agents on this machine's loopback, and between them the mesh: the first has a listener per
//! service and the shared one, the second has the applications.
//!
//! Made as an operator would: a control plane, two tokens, a policy. The control plane is stopped once the
//! policy is in force. A thread of its own keeps the processes (they die with the thread that started
//! them); dropping the pair ends thread, processes and directory.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use hearth_proto::view::{RouteView, StatusView};

use crate::lab::process::{Program, tail};
use crate::lab::wait::wait_for;
use crate::loopback::{
    ControlPlane, LocalAgent, Place, agent_config, agent_program, free_ports, join_table,
};

const SOON: Duration = Duration::from_secs(30);
const NAMES: [&str; 2] = ["caller", "owner"];

/// A service of the pair.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Where its application listens.
    pub address: SocketAddr,
    /// Further lines of its `[[endpoint]]` table.
    pub endpoint: String,
    /// Further lines of its policy.
    pub policy: String,
    /// What is started to listen there, if it is a program.
    pub program: Option<Program>,
}

impl Service {
    /// One with the defaults.
    #[must_use]
    pub fn new(name: &str, address: SocketAddr) -> Self {
        let (endpoint, policy) = (String::new(), String::new());
        Self { name: name.to_owned(), address, endpoint, policy, program: None }
    }

    /// The same with a line of its endpoint.
    #[must_use]
    pub fn endpoint(mut self, line: &str) -> Self {
        self.endpoint.push_str(line);
        self.endpoint.push('\n');
        self
    }

    /// The same with this program behind it, started with the pair.
    #[must_use]
    pub fn run(mut self, program: Program) -> Self {
        self.program = Some(program);
        self
    }

    /// The same with a line of policy.
    #[must_use]
    pub fn policy(mut self, line: &str) -> Self {
        self.policy.push_str(line);
        self.policy.push('\n');
        self
    }
}

/// A running pair.
#[derive(Debug)]
pub struct Pair {
    /// The caller's listener of each service.
    pub entries: BTreeMap<String, SocketAddr>,
    /// The caller's listener for all services.
    pub shared: SocketAddr,
    /// The agents' process ids, the caller's first.
    pub pids: [i32; 2],
    ended: Option<Sender<bool>>,
    keeper: Option<JoinHandle<()>>,
}

struct Started {
    entries: BTreeMap<String, SocketAddr>,
    shared: SocketAddr,
    pids: [i32; 2],
}

impl Pair {
    /// Starts one and waits until each service whose application listens can be called.
    ///
    /// # Errors
    /// In words, with the end of a log.
    pub fn start(name: &str, services: Vec<Service>) -> Result<Self, String> {
        let ((tell, told), (ended, end)) = (channel(), channel());
        let name = name.to_owned();
        let keep = move || keep(&name, &services, &tell, &end);
        let keeper = std::thread::Builder::new().name("pair".into()).spawn(keep);
        let keeper = keeper.map_err(|e| e.to_string())?;
        match told.recv() {
            Ok(Ok(Started { entries, shared, pids })) => {
                let (ended, keeper) = (Some(ended), Some(keeper));
                Ok(Self { entries, shared, pids, ended, keeper })
            }
            Ok(Err(why)) => Err(why),
            Err(_) => Err("the pair's thread ended".into()),
        }
    }

    /// The caller's listener of a service.
    ///
    /// # Panics
    /// Where the pair has no such service.
    #[must_use]
    pub fn entry(&self, service: &str) -> SocketAddr {
        *self.entries.get(service).unwrap_or_else(|| panic!("the pair has no service {service}"))
    }

    /// Ends the pair. `failed` leaves its directory, with the agents' logs.
    pub fn end(mut self, failed: bool) {
        self.finish(failed);
    }

    fn finish(&mut self, failed: bool) {
        if let Some(ended) = self.ended.take() {
            // It may have ended by itself.
            let _ = ended.send(failed);
        }
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.finish(std::thread::panicking());
    }
}

/// Starts everything, tells, and keeps it until told to end.
fn keep(
    name: &str,
    services: &[Service],
    tell: &Sender<Result<Started, String>>,
    end: &Receiver<bool>,
) {
    let place = match Place::new(name) {
        Ok(place) => place,
        Err(error) => return drop(tell.send(Err(error.to_string()))),
    };
    match start(&place, services) {
        Err(why) => drop(tell.send(Err(why))),
        Ok((started, agents)) => {
            let _ = tell.send(Ok(started));
            if end.recv() == Ok(true) {
                for agent in &agents {
                    let log = agent.process().log();
                    let kept = std::env::temp_dir().join(log.file_name().unwrap_or_default());
                    let _ = std::fs::copy(log, &kept);
                    println!("log of an agent: {}", kept.display());
                }
            }
        }
    }
}

fn start(place: &Place, services: &[Service]) -> Result<(Started, [LocalAgent; 2]), String> {
    let said = |e: crate::lab::LabError| e.to_string();
    for service in services {
        let Some(program) = service.program.clone() else { continue };
        let process = place.start(program).map_err(said)?;
        wait_for(&format!("{} to listen", service.name), SOON, || {
            let tried = TcpStream::connect(service.address).map(drop);
            tried.map_err(|e| format!("{e}; {}", tail(&process.stderr(), 5)))
        })
        .map_err(said)?;
    }
    let control = ControlPlane::init(place).map_err(said)?;
    control.serve(place).map_err(said)?;
    let [a, b, shared] = free_ports();
    let entries = ports(services)?;
    let (mut upstreams, mut endpoints, mut policy) = (String::new(), String::new(), String::new());
    for Service { name, address, endpoint, policy: lines, .. } in services {
        let entry = entries[name];
        upstreams.push_str(&format!("[[upstream]]\nservice = \"{name}\"\nlisten = \"{entry}\"\n"));
        endpoints.push_str(&format!(
            "[[endpoint]]\nservice = \"{name}\"\naddress = \"{address}\"\nrole = \"hot\"\n{endpoint}"
        ));
        policy.push_str(&format!("[services.{name}]\nallow = [\"{}\"]\n{lines}", NAMES[0]));
    }
    let agent = |n: usize, mesh, tables: &str| -> Result<LocalAgent, String> {
        let token = control.token(place, NAMES[n]).map_err(said)?;
        let config = agent_config(place, NAMES[n], mesh, &[a, b]);
        let config = match n {
            0 => config
                .replace("[outbound]\nhttp = \"off\"", &format!("[outbound]\nhttp = \"{shared}\"")),
            _ => config,
        };
        let config = config + tables + &join_table(control.address(), &token);
        let program = agent_program(place, NAMES[n], &config).map_err(said)?;
        LocalAgent::start(place, NAMES[n], mesh, program).map_err(said)
    };
    let agents = [agent(0, a, &upstreams)?, agent(1, b, &endpoints)?];
    control.apply(place, &policy).map_err(said)?;
    wait_for("the policy to be in force on both agents", SOON, || {
        for agent in &agents {
            let status: StatusView = agent.get("/v1/status").map_err(|e| e.to_string())?;
            if status.policy_version == 0 {
                return Err(format!("not on {}", agent.mesh));
            }
        }
        Ok(())
    })
    .map_err(said)?;
    for service in services {
        called(&agents[0], service)?;
    }
    let _ = control.process().kill();
    let pids = [agents[0].process().pid(), agents[1].process().pid()];
    Ok((Started { entries, shared, pids }, agents))
}

/// Waits until the caller's agent would send a request of the service somewhere.
fn called(caller: &LocalAgent, service: &Service) -> Result<(), String> {
    if TcpStream::connect(service.address).is_err() {
        return Ok(()); // Nobody is there: the case that wants that says so itself.
    }
    let routed = wait_for(&format!("the route of {} at the caller", service.name), SOON, || {
        let routes: Vec<RouteView> = caller.get("/v1/routes").map_err(|e| e.to_string())?;
        let route = routes.iter().find(|r| r.service.as_str() == service.name);
        match route {
            Some(route) if route.decision == "serve" && !route.picks.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    routed.map_err(|e| format!("{e}; log: {}", tail(&caller.process().stderr(), 5)))
}

fn ports(services: &[Service]) -> Result<BTreeMap<String, SocketAddr>, String> {
    // All are held until the last is picked.
    let held: Result<Vec<_>, _> = services
        .iter()
        .map(|s| TcpListener::bind("127.0.0.1:0").map(|l| (s.name.clone(), l)))
        .collect();
    let address = |(name, l): &(String, TcpListener)| l.local_addr().map(|a| (name.clone(), a));
    held.and_then(|held| held.iter().map(address).collect()).map_err(|e| e.to_string())
}
