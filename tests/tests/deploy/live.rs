//! What a real agent and a real control plane export, against what dashboard and alerts ask for.
//!
//! One of each on loopback, joined as deploy/README.md says, with one service that nobody answers for: enough
//! for every metric that does not count an event that must not happen here.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hearth_tests::lab::binaries::ours;

use crate::{AFTER_AN_EVENT, METRICS, Scratch, assert_clean, not_run, text};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running program, killed at the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &Path, arguments: &[&str]) -> Running {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().expect("start"))
}

fn free_port() -> u16 {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = tcp.local_addr().expect("its number").port();
    // Free for UDP as well, since the mesh may get it.
    UdpSocket::bind(("127.0.0.1", port)).map_or_else(|_| free_port(), |_| port)
}

#[track_caller]
fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if begun.elapsed() > DEADLINE => panic!("waited for {what}; saw: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn get(mut stream: impl std::io::Read + std::io::Write, path: &str) -> Result<String, String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|e| e.to_string())?;
    Ok(text(&answer))
}

#[test]
fn a_running_agent_and_control_plane_export_what_dashboard_and_alerts_ask_for() {
    let binaries = ["hearth-agent", "hearth-control", "hearth"].map(ours);
    let [Ok(agent), Ok(control), Ok(hearth)] = binaries else {
        return not_run("live metrics", "the binaries are not built (make build)");
    };
    let scratch = Scratch::new("live");
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let [mesh, caller, metrics, api] = std::array::from_fn(|_| free_port());
    let dir = at("control");
    let (listen, exported) = (format!("127.0.0.1:{api}"), format!("127.0.0.1:{metrics}"));
    assert_clean(Command::new(&control).args(["init", "--dir", &dir]).args([
        "--trust-domain",
        "mesh.example",
        "--listen",
        &listen,
        "--metrics",
        &exported,
    ]));
    let _control = start(&control, &["serve", "--dir", &dir]);
    let token = until("a join token", || {
        let mut command = Command::new(&hearth);
        let done = command.args(["--dir", &dir, "token", "create", "web-1"]).output();
        let done = done.map_err(|e| e.to_string())?;
        if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
    });
    let (token, state, socket) = (token.trim(), at("state"), at("agent.sock"));
    let config = format!(
        "name = \"web-1\"\nstate_dir = \"{state}\"\n\
         [mesh]\nlisten = \"127.0.0.1:{mesh}\"\nseeds = [\"127.0.0.1:{mesh}\"]\n\
         [join]\ncontrol = \"{listen}\"\ntoken = \"{token}\"\n\
         [admin]\nsocket = \"{socket}\"\nhttp = \"off\"\n\
         [outbound]\nhttp = \"off\"\n\
         [[upstream]]\nservice = \"ledger\"\nlisten = \"127.0.0.1:{caller}\"\n\
         [[endpoint]]\nservice = \"ledger\"\naddress = \"127.0.0.1:9\"\nrole = \"hot\"\n"
    );
    std::fs::write(at("agent.toml"), config).expect("write the configuration");
    let _agent = start(&agent, &["run", "--config", &at("agent.toml")]);
    until("the agent's answer to a request", || {
        let stream = TcpStream::connect(("127.0.0.1", caller)).map_err(|e| e.to_string())?;
        get(stream, "/").and_then(|a| if a.contains(" 503 ") { Ok(()) } else { Err(a) })
    });
    until("every metric", || {
        let agents = UnixStream::connect(&socket).map_err(|e| e.to_string())?;
        let controls = TcpStream::connect(&exported).map_err(|e| e.to_string())?;
        let live = get(agents, "/metrics")? + &get(controls, "/metrics")?;
        // A series, not only its description.
        let has = |name: &str| live.lines().any(|line| line.starts_with(name));
        let wanted = METRICS.iter().filter(|name| !AFTER_AN_EVENT.contains(name));
        let missing: Vec<_> = wanted.filter(|name| !has(name)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("missing: {missing:?}\n{live}")) }
    });
}
