//! A small real mesh to be attacked: control plane, a caller, a hot and a warm host, and traffic that
//! never stops. Everything an attack must not change can be read from it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hearth_proto::time::Wall;
use hearth_proto::view::{ExplainView, IncidentView, MemberView, RouteView, StatusView};
use hearth_tests::lab::binaries::ours;
use hearth_tests::lab::http::ask_tcp;
use hearth_tests::lab::process::Program;
use hearth_tests::lab::wait::wait_for;
use hearth_tests::loopback::{
    ControlPlane, LocalAgent, Place, agent_config, agent_program, counters, free_ports, join_table,
    log_lines, risen,
};
use serde_json::Value;

pub(crate) const SOON: Duration = Duration::from_secs(30);
/// Only the caller may call.
const POLICY: &str = "[services.ledger]\nallow = [\"caller\"]\nfailback = \"3s\"\n";
/// Between two requests.
const PACE: Duration = Duration::from_millis(10);

/// How often an attack is staged anew because the machine was too busy to judge it.
const STAGED: u32 = 4;

/// Counters by name and labels.
pub(crate) type Counters = BTreeMap<String, u64>;

/// The mesh. Fields are dropped in order: the traffic ends before what it goes through.
pub(crate) struct Mesh {
    pub(crate) traffic: Traffic,
    pub(crate) caller: LocalAgent,
    pub(crate) hot: LocalAgent,
    pub(crate) warm: LocalAgent,
    pub(crate) control: ControlPlane,
    pub(crate) place: Place,
}

impl Mesh {
    /// Starts it and waits until the hot endpoint serves, the warm one stands by, and the policy is in
    /// force everywhere.
    pub(crate) fn start(name: &str) -> Self {
        let place = Place::new(name).unwrap();
        let control = ControlPlane::init(&place).unwrap();
        control.serve(&place).unwrap();
        let [caller, hot, warm, upstream, hot_app, warm_app] = free_ports();
        app(&place, "web-1", hot_app, false);
        app(&place, "warm-1", warm_app, true);
        let agent = |name: &str, mesh, tables: &str| {
            let token = control.token(&place, name).unwrap();
            let config = agent_config(&place, name, mesh, &[caller, hot])
                + &join_table(control.address(), &token)
                + tables;
            let program = agent_program(&place, name, &config).unwrap();
            LocalAgent::start(&place, name, mesh, program).unwrap()
        };
        let upstreams = format!("[[upstream]]\nservice = \"ledger\"\nlisten = \"{upstream}\"\n");
        let caller = agent("caller", caller, &upstreams);
        let hot = agent("web-1", hot, &endpoint(hot_app, "role = \"hot\"\n", ""));
        let hooks = format!(
            "[endpoint.activate]\nkind = \"http\"\nurl = \"http://{warm_app}/activate\"\n\
             [endpoint.deactivate]\nkind = \"http\"\nurl = \"http://{warm_app}/deactivate\"\n"
        );
        let warm = agent("warm-1", warm, &endpoint(warm_app, "role = \"warm\"\n", &hooks));
        control.apply(&place, POLICY).unwrap();
        let agents = [&caller, &hot, &warm];
        wait_for("a steady mesh under its policy", SOON, || steady(&agents)).unwrap();
        let traffic = Traffic::start(upstream);
        traffic.more(20);
        Self { traffic, caller, hot, warm, control, place }
    }

    pub(crate) fn agents(&self) -> [(&'static str, &LocalAgent); 3] {
        [("caller", &self.caller), ("web-1", &self.hot), ("warm-1", &self.warm)]
    }

    /// Everything that an attack must leave as it is, as every agent sees it.
    pub(crate) fn picture(&self) -> Pictures {
        let pictures = self.agents().map(|(name, agent)| (name, Picture::of(agent)));
        pictures.into_iter().collect()
    }

    /// What is there before the attack.
    pub(crate) fn before(&self) -> Before {
        // First: what falls silent while the picture is taken counts as a disturbance of it.
        let silences = self.silences();
        Before { silences, pictures: self.picture() }
    }

    fn silences(&self) -> u64 {
        let of_links = |name: &str| name == "hearth_link_silences_total";
        let read = |(_, agent): (_, &LocalAgent)| {
            counters(&agent.page("/metrics").unwrap(), of_links).values().sum::<u64>()
        };
        self.agents().map(read).iter().sum()
    }

    /// The mesh is as it was `before`.
    pub(crate) fn unchanged(&self, before: &Before) -> Result<(), Disturbed> {
        self.same(before, &before.pictures, &self.picture())
    }

    /// What was is what is; unless the mesh was busy with troubles of its own since `before`.
    pub(crate) fn same<T: PartialEq + Debug>(
        &self,
        before: &Before,
        was: &T,
        is: &T,
    ) -> Result<(), Disturbed> {
        match self.silences() - before.silences {
            silences if was != is && silences > 0 => Err(Disturbed(silences)),
            _ => {
                assert_eq!(is, was);
                Ok(())
            }
        }
    }

    /// All that was refused so far, by whom.
    pub(crate) fn refused(&self) -> BTreeMap<&'static str, Counters> {
        let refusals = |name: &str| {
            name.contains("_refused") || name.contains("_joins") || name.contains("_renewals")
        };
        let read = |agent: &LocalAgent| counters(&agent.page("/metrics").unwrap(), refusals);
        let mut all: BTreeMap<_, _> =
            self.agents().into_iter().map(|(name, agent)| (name, read(agent))).collect();
        all.insert("control", counters(&self.control.metrics().unwrap(), refusals));
        all
    }

    /// Waits until exactly `expected` was refused since `before`, and nothing else by anybody: the
    /// legitimate traffic goes on meanwhile, and once more of it has passed the figures still stand.
    pub(crate) fn refused_exactly(
        &self,
        before: &BTreeMap<&'static str, Counters>,
        expected: &[(&str, &str, u64)],
    ) {
        let mut wanted: BTreeMap<&str, Counters> = BTreeMap::new();
        for (who, series, count) in expected {
            wanted.entry(who).or_default().insert((*series).to_owned(), *count);
        }
        let look = || {
            let now = self.refused();
            let rose = before.iter().map(|(who, was)| (*who, risen(was, &now[who])));
            let rose: BTreeMap<&str, Counters> = rose.filter(|(_, r)| !r.is_empty()).collect();
            if rose == wanted { Ok(()) } else { Err(format!("{rose:#?}, expected {wanted:#?}")) }
        };
        wait_for("the refusals to be counted", SOON, look).unwrap();
        self.traffic.more(50);
        look().unwrap_or_else(|seen| panic!("more was refused than was attempted: {seen}"));
    }
}

/// Links fell silent meanwhile, because the machine was too busy for them to answer in time (none is cut
/// in these tests): what an attack changes cannot be told from that. An attack that brings it about each
/// time fails.
#[derive(Debug)]
pub(crate) struct Disturbed(u64);

/// Stages an attack on a fresh mesh, and again if the mesh was disturbed.
pub(crate) fn staged(name: &str, attack: impl Fn(&Mesh) -> Result<(), Disturbed>) {
    for attempt in 1..=STAGED {
        match attack(&Mesh::start(name)) {
            Ok(()) => return,
            Err(Disturbed(silences)) => {
                println!("{name}, attempt {attempt}: disturbed, {silences} silences of links");
            }
        }
    }
    panic!("{name}: disturbed {STAGED} times");
}

/// What an attack must not change.
pub(crate) struct Before {
    pictures: Pictures,
    silences: u64,
}

impl Before {
    /// What was seen.
    pub(crate) fn pictures(&self) -> &Pictures {
        &self.pictures
    }
}

/// What each agent holds for true.
pub(crate) type Pictures = BTreeMap<&'static str, Picture>;

fn endpoint(app: SocketAddr, role: &str, hooks: &str) -> String {
    format!(
        "[[endpoint]]\nservice = \"ledger\"\naddress = \"{app}\"\n{role}[endpoint.check]\nkind = \
         \"http\"\npath = \"/healthz\"\ninterval = \"200ms\"\n{hooks}"
    )
}

fn app(place: &Place, name: &str, listen: SocketAddr, warm: bool) {
    let listen = listen.to_string();
    let program = Program::new("app", ours("lab-app").unwrap());
    let program = program.args(["--host", name, "--listen", &listen]);
    place.start(if warm { program.arg("--warm") } else { program }).unwrap();
}

fn steady(agents: &[&LocalAgent]) -> Result<(), String> {
    let told = |e: hearth_tests::lab::LabError| e.to_string();
    for agent in agents {
        let status: StatusView = agent.get("/v1/status").map_err(told)?;
        let seen = (status.policy_version, status.alive, status.open_incidents);
        if seen != (1, agents.len(), 0) {
            return Err(format!("{}: policy, alive, incidents: {seen:?}", status.node));
        }
    }
    let view: ExplainView = agents[0].get("/v1/explain/ledger").map_err(told)?;
    let standby = view.endpoints.iter().any(|e| e.condition == "standby");
    if view.route.picks == ["ledger@web-1"] && standby {
        return Ok(());
    }
    Err(view.sentences.join(" "))
}

/// What one agent holds for true.
#[derive(Debug, PartialEq)]
pub(crate) struct Picture {
    /// Members without what merely ages.
    members: Vec<MemberView>,
    routes: Vec<RouteView>,
    /// Records, policy, open incidents, phase.
    status: (usize, u64, usize, String),
    incidents: Vec<IncidentView>,
}

impl Picture {
    fn of(agent: &LocalAgent) -> Self {
        let mut members: Vec<MemberView> = agent.get("/v1/members").unwrap();
        for member in &mut members {
            member.record_age_s = 0.0;
            if member.node.as_str() == "mallory" {
                // A link to her makes her alive, word of mouth a moment later once more.
                member.since = Wall(0);
            }
        }
        let status: StatusView = agent.get("/v1/status").unwrap();
        Self {
            members,
            routes: agent.get("/v1/routes").unwrap(),
            status: (status.records, status.policy_version, status.open_incidents, status.phase),
            incidents: agent.get("/v1/incidents").unwrap(),
        }
    }

    /// The members it knows, with their state.
    pub(crate) fn members(&self) -> BTreeMap<&str, &str> {
        self.members.iter().map(|m| (m.node.as_str(), m.state.as_str())).collect()
    }

    /// Without one member: what was known before it was heard of.
    pub(crate) fn without(mut self, node: &str) -> Self {
        self.members.retain(|member| member.node.as_str() != node);
        self
    }
}

/// The log lines of a program with this event, whose fields are these. Fails on a line that is no JSON.
pub(crate) fn logged(stderr: &str, event: &str, fields: &[(&str, &str)]) -> Vec<Value> {
    let strays: Vec<&str> = stderr.lines().filter(|line| !line.starts_with('{')).collect();
    assert!(strays.is_empty(), "the log has lines that are no JSON: {strays:?}");
    let mut lines = log_lines(stderr);
    assert_eq!(lines.len(), stderr.lines().count(), "the log has damaged lines");
    lines.retain(|line| line["event"] == event);
    lines.retain(|line| fields.iter().all(|(key, value)| line["fields"][key] == *value));
    lines
}

/// Requests of a legitimate caller, one after the other, without end.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    failed: Mutex<Vec<String>>,
}

impl Traffic {
    fn start(upstream: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !own.stop.load(Ordering::Relaxed) {
                match ask_tcp(upstream, "GET", "/", "") {
                    Ok(answer) if answer.status == 200 => {
                        own.answered.fetch_add(1, Ordering::Relaxed);
                    }
                    other => own.failed.lock().unwrap().push(format!("{other:?}")),
                }
                std::thread::sleep(PACE);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Waits until so many more requests were answered. None may ever have failed.
    pub(crate) fn more(&self, count: u64) {
        let from = self.shared.answered.load(Ordering::Relaxed);
        wait_for("legitimate requests to be answered", SOON, || {
            let failed = self.shared.failed.lock().unwrap().clone();
            assert!(failed.is_empty(), "legitimate requests failed: {failed:?}");
            match self.shared.answered.load(Ordering::Relaxed) - from {
                more if more >= count => Ok(()),
                more => Err(format!("{more} of {count}")),
            }
        })
        .unwrap();
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic was reported where it happened.
            let _ = thread.join();
        }
    }
}
