//! `deploy/rollout` on a fleet of five: a namespace, a real sshd, a web server and a real agent each, while
//! another host's application sends them 200 requests a second. Not one may fail.
//!
//! Every host has its own host key and an sshd that listens on the lab's network only. What systemd is on a
//! real host is a shell loop here (`SUPERVISE`); the inventory names its restart and stop scripts.
//!
//! The caller's own agent is not in the inventory: a program that calls through an agent has no way into the
//! mesh while that agent restarts.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hearth_tests::lab::agent::Agent;
use hearth_tests::lab::binaries::{ours, tool};
use hearth_tests::lab::control::Control;
use hearth_tests::lab::entry::{Access, access, in_lab};
use hearth_tests::lab::mesh::{SERVICE, UPSTREAM};
use hearth_tests::lab::spec::{AgentSpec, MESH};
use hearth_tests::lab::wait::wait_for;
use hearth_tests::lab::web::{Kind, PORT, Web};
use hearth_tests::lab::{Host, Lab, Program};
use hearth_tests::load::{Load, LoadSpec};

const HOSTS: usize = 5;
const RATE: u32 = 200;
const POLICY: &str = "[services.ledger]\nmode = \"hot-hot\"\n";

/// What systemd is on a real host: runs the agent, and runs it again whenever it ended.
const SUPERVISE: &str = r#"cd "$1"
while :; do
    if [ -e wanted ]; then
        setpriv --pdeathsig KILL -- root/usr/bin/hearth-agent run --config root/etc/hearth/agent.toml >>agent.err 2>&1 &
        echo $! >pid
        wait $!
        rm -f pid
    fi
    sleep 0.1
done
"#;

/// `systemctl restart`: ends the agent and returns when the next one is ready.
const RESTART: &str = r#"cd "$(dirname "$0")"
touch wanted
old=$(cat pid 2>/dev/null || true)
[ -z "$old" ] || kill -TERM "$old"
tries=0
until new=$(cat pid 2>/dev/null) && [ "$new" != "$old" ] && root/usr/bin/hearth --socket "$1" status >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 150 ] || { echo "no agent after 15 s: $(tail -n 1 agent.err)" >&2; exit 1; }
    sleep 0.1
done
"#;

const STOP: &str = r#"cd "$(dirname "$0")"
rm -f wanted
if [ -e pid ]; then kill -TERM "$(cat pid)"; fi
"#;

/// A build that passes every check before it runs, and ends as soon as it does.
const DIES: &str = r#"#!/bin/sh
if [ "$1" = run ]; then echo '{"level":"ERROR","event":"broken build"}' >&2; exit 70; fi
exec @AGENT@ "$@"
"#;

/// A build that joins the mesh but finds its application at the wrong port.
const UNFIT: &str = r#"#!/bin/sh
if [ "$1" = run ]; then sed 's/:@PORT@"/:1"/' "$3" >"$3.unfit"; exec @AGENT@ run --config "$3.unfit"; fi
exec @AGENT@ "$@"
"#;

struct Fleet<'a> {
    lab: &'a Lab,
    control: Control,
    caller: Agent,
    hosts: Vec<Arc<Host>>,
    _webs: Vec<Web>,
}

impl<'a> Fleet<'a> {
    fn new(lab: &'a Lab) -> Self {
        let control = Control::init(&lab.host("control").unwrap()).unwrap();
        let caller = lab.host("caller").unwrap();
        let names = (1..=HOSTS).map(|n| format!("web-{n}"));
        let hosts: Vec<_> = names.map(|name| lab.host(&name).unwrap()).collect();
        let seeds: Vec<SocketAddr> =
            [&caller, &hosts[0], &hosts[1]].map(|host| host.at(MESH)).into();
        let plan = |host: &Host| {
            let token = control.token(host.name()).unwrap();
            AgentSpec::new(host).seeds(&seeds).join(control.address(), &token)
        };
        // Tokens are made while the control plane does not serve.
        let spec = plan(&caller).upstream(SERVICE, UPSTREAM);
        keygen(&lab.dir().join("operator"));
        let mut inventory = format!(
            "default ssh='-i {0}/operator -o UserKnownHostsFile={0}/known_hosts -o IdentitiesOnly=yes'\n\
             default install=--no-systemd drain_wait=1\n",
            lab.dir().display()
        );
        let mut known = String::new();
        for host in &hosts {
            let spec = plan(host).hot(SERVICE, PORT);
            host.write("wanted.toml", &spec.text()).unwrap();
            known += &start_sshd(lab, host);
            inventory += &equip(host, &spec);
        }
        std::fs::write(lab.dir().join("known_hosts"), known).unwrap();
        std::fs::write(lab.dir().join("inventory"), inventory).unwrap();
        control.serve().unwrap();
        let _webs = hosts.iter().map(|host| Web::start(host, Kind::best()).unwrap()).collect();
        let caller = Agent::start(&caller, spec).unwrap();
        control.apply(POLICY).unwrap();
        Self { lab, control, caller, hosts, _webs }
    }

    /// Runs the rollout from the control host, as an operator would; returns its exit code and words.
    fn roll(&self, build: &Path, arguments: &[&str]) -> (Option<i32>, String) {
        let rollout = repository().join("deploy/rollout").display().to_string();
        let inventory = self.lab.dir().join("inventory").display().to_string();
        let build = build.display().to_string();
        let mut all = vec![rollout.as_str(), "--inventory", &inventory, "--build", &build];
        all.extend(["--steady", "2", "--canary-steady", "3", "--timeout", "20", "--parallel", "2"]);
        all.extend(arguments);
        let done = self.control.host().run("python3", &all).unwrap();
        let said = done.stdout + &done.stderr;
        println!("{said}");
        (done.code, said)
    }

    /// Name, generation and installed build of every host, as the caller's agent and the disk say.
    fn state(&self) -> Vec<(String, u64, Vec<u8>)> {
        let members = self.caller.members().unwrap();
        let of = |host: &Arc<Host>| {
            let binary = std::fs::read(host.dir().join("root/usr/bin/hearth-agent")).unwrap();
            let member = members.iter().find(|member| member.node.to_string() == host.name());
            let member = member.unwrap_or_else(|| panic!("{} is not in {members:?}", host.name()));
            (host.name().to_owned(), member.generation, binary)
        };
        self.hosts.iter().map(of).collect()
    }

    /// Waits until the caller's agent would send requests to this many endpoints.
    fn wait_serving(&self, wanted: usize) {
        let what = format!("{wanted} endpoints to be picked from");
        wait_for(&what, Duration::from_secs(20), || {
            let view = self.caller.explain(SERVICE).map_err(|e| e.to_string())?;
            let picks = view.route.picks;
            if picks.len() == wanted { Ok(()) } else { Err(format!("{picks:?}")) }
        })
        .unwrap();
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn keygen(file: &Path) {
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file));
}

/// An sshd of the host's own, on the lab's network only. Returns its line for `known_hosts`.
fn start_sshd(lab: &Lab, host: &Host) -> String {
    let key = host.dir().join("host_key");
    keygen(&key);
    // A locked root may still log in by key, but only where PAM decides.
    let shadow = std::fs::read_to_string("/etc/shadow").unwrap_or_default();
    let locked = shadow.lines().any(|line| line.starts_with("root:!"));
    let config = format!(
        "ListenAddress {}:22\nHostKey {}\nAuthorizedKeysFile {}/operator.pub\nPidFile none\n\
         StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         PermitRootLogin prohibit-password\nUsePAM {}\nMaxStartups 50\n",
        host.ip(),
        key.display(),
        lab.dir().display(),
        if locked { "yes" } else { "no" },
    );
    let config = host.write("sshd_config", &config).unwrap().display().to_string();
    let program = Program::new("sshd", tool("sshd").unwrap()).args(["-D", "-e", "-f", &config]);
    let sshd = host.spawn(&program).unwrap();
    let at = host.at(22);
    wait_for("sshd to listen", Duration::from_secs(10), || {
        let dial = move || TcpStream::connect_timeout(&at, Duration::from_millis(300)).map(drop);
        host.space().call(dial).unwrap().map_err(|e| format!("{e}; {}", sshd.stderr()))
    })
    .unwrap();
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    format!("{} {public}", host.ip())
}

/// Gives the host its stand-in for systemd. Returns its line of the inventory.
fn equip(host: &Host, spec: &AgentSpec) -> String {
    let (dir, socket) = (host.dir().display().to_string(), spec.admin.socket.display());
    host.write("restart", RESTART).unwrap();
    host.write("stop", STOP).unwrap();
    let supervise = host.write("supervise", SUPERVISE).unwrap().display().to_string();
    let supervise = Program::new("supervise", "/bin/sh").args([&supervise, &dir]);
    host.spawn(&supervise).unwrap();
    format!(
        "{} root@{} prefix={dir}/root socket={socket} agent_toml={dir}/wanted.toml \
         restart='sh {dir}/restart {socket}' stop='sh {dir}/stop'\n",
        host.name(),
        host.ip(),
    )
}

/// A build: the agent as given, and the real command line.
fn build(lab: &Lab, name: &str, agent: &[u8]) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = lab.dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("hearth-agent"), agent).unwrap();
    std::fs::write(directory.join("hearth"), stripped(lab, "hearth")).unwrap();
    for binary in ["hearth-agent", "hearth"] {
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.join(binary), mode).unwrap();
    }
    directory
}

/// One of our binaries without debug information: it goes over SSH to every host.
fn stripped(lab: &Lab, name: &str) -> Vec<u8> {
    let (binary, copy) = (ours(name).unwrap(), lab.dir().join(format!("{name}.stripped")));
    if !copy.exists() {
        match tool("strip") {
            Ok(strip) => run(Command::new(strip).arg("-o").arg(&copy).arg(&binary)),
            Err(_) => std::fs::copy(&binary, &copy).map(drop).unwrap(),
        }
    }
    std::fs::read(copy).unwrap()
}

/// What keeps this from running here, if anything.
fn obstacle() -> Option<String> {
    match access() {
        Access::Here => {}
        Access::Again => return Some("sshd needs root: it changes users".to_owned()),
        Access::No(reason) => return Some(reason),
    }
    let needed = ["sshd", "ssh", "ssh-keygen", "python3", "setpriv"];
    let missing = needed.iter().find_map(|name| tool(name).err());
    missing.map(|error| format!("{error} (tests/setup installs it)"))
}

#[test]
fn a_fleet_is_installed_upgraded_and_saved_from_broken_builds_without_a_failed_request() {
    if let Some(reason) = obstacle() {
        eprintln!("NOT RUN: rollout over real sshd: {reason}");
        return;
    }
    in_lab(|lab| {
        // Where sshd separates its privileges; its package makes it only when the service starts.
        std::fs::create_dir_all("/run/sshd").unwrap();
        let fleet = Fleet::new(lab);
        let agent = stripped(lab, "hearth-agent");
        let first = build(lab, "build-1", &agent);
        // Another digest, the same program: the loader does not read past the last segment.
        let second = build(lab, "build-2", &[agent.as_slice(), b"2"].concat());

        // The first host of the service, before there can be traffic.
        let (code, said) = fleet.roll(
            &first,
            &["--skip", "web-2", "--skip", "web-3", "--skip", "web-4", "--skip", "web-5"],
        );
        assert_eq!(code, Some(0), "{said}");
        fleet.wait_serving(1);
        let target = SocketAddr::from(([127, 0, 0, 1], UPSTREAM));
        let load = LoadSpec { rate: RATE, ..LoadSpec::new(target) };
        let load = Load::start(fleet.caller.host(), load).unwrap();

        let install = load.mark();
        let (code, said) = fleet.roll(&first, &[]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("web-1          has this build already: skipped"), "{said}");
        fleet.wait_serving(HOSTS);
        let installed = fleet.state();

        let upgrade = load.mark();
        let (code, said) = fleet.roll(&second, &[]);
        assert_eq!(code, Some(0), "{said}");
        let upgraded = fleet.state();
        for ((name, before, _), (_, after, binary)) in installed.iter().zip(&upgraded) {
            assert!(after > before, "{name} was not restarted");
            assert!(binary.ends_with(b"2"), "{name} does not have the second build");
        }

        let broken = load.mark();
        let real = ours("hearth-agent").unwrap().display().to_string();
        for (name, script) in [("dies", DIES), ("unfit", UNFIT)] {
            let script = script.replace("@AGENT@", &real).replace("@PORT@", &PORT.to_string());
            let (code, said) = fleet.roll(&build(lab, name, script.as_bytes()), &[]);
            assert_eq!(code, Some(1), "{name}: {said}");
            assert!(said.contains("web-1          rolled back"), "{name}: {said}");
            assert!(said.contains("4 host(s) untouched"), "{name}: {said}");
            let now = fleet.state();
            assert_eq!(now[0].2, upgraded[0].2, "{name}: the canary does not have its build back");
            assert!(now[1..] == upgraded[1..], "{name}: the rest of the fleet was touched");
            fleet.wait_serving(HOSTS);
        }

        let end = load.mark();
        for (phase, from, to) in
            [("install", install, upgrade), ("upgrade", upgrade, broken), ("broken", broken, end)]
        {
            let report = load.between(from, to);
            println!(
                "{phase}: {} sent, {} failed, slowest {} ms, served {:?}",
                report.sent, report.failed, report.slowest_ms, report.served
            );
            assert_eq!(report.failed, 0, "{phase}: {:?}", report.errors);
            let wanted = f64::from(RATE) * (to - from).as_secs_f64() * 0.95;
            #[allow(clippy::cast_precision_loss)]
            let sent = report.sent as f64;
            assert!(sent > wanted, "{phase}: only {sent} of {wanted} requests were sent");
            assert_eq!(report.served.len(), HOSTS, "{phase}: served by {:?}", report.served);
        }
    });
}
