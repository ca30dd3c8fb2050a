//! Real programs on this machine's loopback, without namespaces: for what no dead link is needed for.
//!
//! A [`Place`] is a private directory and everything started in it: control planes, agents,
//! applications. Ports are picked by [`free_ports`]. Dropping a place kills what runs in it and
//! removes the directory, unless the test failed: then it stays, with every log.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::lab::binaries::ours;
use crate::lab::error::LabError;
use crate::lab::http::{ask_tcp, ask_unix};
use crate::lab::process::{Process, Program, tail};
use crate::lab::wait::wait_for;

/// How long a program may take to come up, on a busy machine.
const UP: Duration = Duration::from_secs(20);
/// The host named in errors.
const HERE: &str = "loopback";

/// A directory of one test's own (0700), and what runs in it.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    started: Cell<u32>,
    processes: RefCell<Vec<Arc<Process>>>,
}

/// A program that ran to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it printed for people, or logged.
    pub stderr: String,
}

impl Place {
    /// Makes the directory `hearth-<name>-<pid>` among the system's temporary files. Short, because a
    /// unix socket's path is.
    ///
    /// # Errors
    /// [`LabError::File`].
    pub fn new(name: &str) -> Result<Self, LabError> {
        let dir = std::env::temp_dir().join(format!("hearth-{name}-{}", std::process::id()));
        // Left by an earlier process of the same id.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(LabError::file("create", &dir))?;
        Ok(Self { dir, started: Cell::new(0), processes: RefCell::default() })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file into it.
    ///
    /// # Errors
    /// [`LabError::File`].
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, LabError> {
        let path = self.path(name);
        std::fs::write(&path, text).map_err(LabError::file("write", &path))?;
        Ok(path)
    }

    /// Starts one of our programs. It is killed with the place, or with the thread that started it.
    ///
    /// # Errors
    /// [`LabError`] when it is not built or cannot be started.
    pub fn start(&self, program: Program) -> Result<Arc<Process>, LabError> {
        // Output of its own for each start, so that nobody reads an earlier one's.
        self.started.set(self.started.get() + 1);
        let program = program.labelled(self.started.get());
        let ledger = self.path("ledger");
        let process = Arc::new(Process::start(&program, HERE, &self.dir, &ledger)?);
        self.processes.borrow_mut().push(Arc::clone(&process));
        Ok(process)
    }

    /// Runs one of our programs to its end.
    ///
    /// # Errors
    /// [`LabError`] when it cannot be started or does not end in time.
    pub fn run(&self, program: Program, within: Duration) -> Result<Done, LabError> {
        ended(&*self.start(program)?, within)
    }

    /// Runs `hearth-control` with these arguments.
    ///
    /// # Errors
    /// As [`Place::run`].
    pub fn control(&self, args: &[&str]) -> Result<Done, LabError> {
        self.run(Program::new("control", ours("hearth-control")?).args(args.iter().copied()), UP)
    }

    /// Runs `hearth` with these arguments.
    ///
    /// # Errors
    /// As [`Place::run`].
    pub fn hearth(&self, args: &[&str]) -> Result<Done, LabError> {
        self.run(Program::new("hearth", ours("hearth")?).args(args.iter().copied()), UP)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for process in self.processes.borrow().iter() {
            // One that ended already needs no signal.
            let _ = process.kill();
        }
        if std::thread::panicking() || std::env::var_os("HEARTH_LAB_KEEP").is_some() {
            eprintln!("logs stay in {}", self.dir.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Removes what places with these names left that were interrupted: their processes ended with them,
/// their files did not. Problems are ignored: a bench must start on a messy disk too.
pub fn sweep(names: &[&str]) {
    let entries = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for entry in entries {
        let file = entry.file_name().to_string_lossy().into_owned();
        let owner = file.strip_prefix("hearth-").and_then(|rest| rest.rsplit_once('-'));
        let Some((name, pid)) = owner else { continue };
        let dead = pid.parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if dead && names.contains(&name) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Waits for a program's end and takes what it printed.
///
/// # Errors
/// [`LabError::Deadline`] with the end of its log while it still runs.
pub fn ended(process: &Process, within: Duration) -> Result<Done, LabError> {
    let code = process.wait(within)?.code();
    Ok(Done { code, stdout: process.stdout(), stderr: process.stderr() })
}

/// The lines of a log that are JSON objects.
#[must_use]
pub fn log_lines(stderr: &str) -> Vec<Value> {
    stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Ports of the loopback that nobody has, for TCP and for UDP. Below those that Linux gives to whoever connects
/// (`ip_local_port_range`, 32768 and up): one of those may be taken by a client before it is listened on.
#[must_use]
pub fn free_ports<const N: usize>() -> [SocketAddr; N] {
    const PORTS: std::ops::Range<u32> = 10_000..32_000;
    static PICKED: AtomicU32 = AtomicU32::new(0);
    // Programs that run at the same time begin far from each other; within one none is picked twice.
    let pick = || {
        let count = PORTS.end - PORTS.start;
        let begin = std::process::id().wrapping_mul(641);
        let free = (0..count).find_map(|_| {
            let at = begin.wrapping_add(PICKED.fetch_add(1, Ordering::Relaxed)) % count;
            let port = u16::try_from(PORTS.start + at).ok()?;
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            (TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok())
                .then_some(address)
        });
        free.expect("the loopback has ports")
    };
    std::array::from_fn(|_| pick())
}

/// A control plane that serves.
#[derive(Debug)]
pub struct ControlPlane {
    dir: PathBuf,
    address: SocketAddr,
    metrics: SocketAddr,
    process: RefCell<Option<Arc<Process>>>,
}

impl ControlPlane {
    /// Makes one in `place/control`, for the trust domain `mesh.example`. It does not serve yet.
    ///
    /// # Errors
    /// [`LabError`] with what `hearth-control init` printed.
    pub fn init(place: &Place) -> Result<Self, LabError> {
        let dir = place.path("control");
        let [address, metrics] = free_ports();
        let (path, listen, count) =
            (dir.display().to_string(), address.to_string(), metrics.to_string());
        let args = ["init", "--dir", &path, "--trust-domain", "mesh.example", "--listen", &listen];
        let rest = ["--address", "127.0.0.1", "--metrics", &count];
        success(place.control(&[&args[..], &rest].concat())?, "hearth-control init")?;
        Ok(Self { dir, address, metrics, process: RefCell::default() })
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its API.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process, once it serves.
    ///
    /// # Panics
    /// Before that.
    #[must_use]
    pub fn process(&self) -> Arc<Process> {
        self.process.borrow().clone().expect("the control plane was started")
    }

    /// Serves, and waits until it does.
    ///
    /// # Errors
    /// [`LabError::Deadline`] with the end of its log.
    pub fn serve(&self, place: &Place) -> Result<(), LabError> {
        self.serve_as(place, Program::new("control", ours("hearth-control")?))
    }

    /// [`Self::serve`] as a program with another environment.
    ///
    /// # Errors
    /// As [`Self::serve`].
    pub fn serve_as(&self, place: &Place, program: Program) -> Result<(), LabError> {
        let dir = self.dir.display().to_string();
        let process = place.start(program.args(["serve", "--dir", &dir]))?;
        *self.process.borrow_mut() = Some(Arc::clone(&process));
        wait_for("the control plane to serve", UP, || {
            let listening = log_lines(&process.stderr()).iter().any(|l| l["event"] == "listening");
            if listening { Ok(()) } else { Err(tail(&process.stderr(), 5)) }
        })
    }

    /// Makes a one-time token by which `node` joins.
    ///
    /// # Errors
    /// [`LabError`] with what `hearth token create` printed.
    pub fn token(&self, place: &Place, node: &str) -> Result<String, LabError> {
        let dir = self.dir.display().to_string();
        let made = place.hearth(&["--dir", &dir, "token", "create", node])?;
        Ok(success(made, "hearth token create")?.trim().to_owned())
    }

    /// Puts a policy into force.
    ///
    /// # Errors
    /// [`LabError`] with what `hearth policy apply` printed.
    pub fn apply(&self, place: &Place, policy: &str) -> Result<String, LabError> {
        let file = place.write("policy.toml", policy)?.display().to_string();
        let dir = self.dir.display().to_string();
        success(place.hearth(&["--dir", &dir, "policy", "apply", &file])?, "hearth policy apply")
    }

    /// Its metrics page.
    ///
    /// # Errors
    /// [`LabError::Deadline`] when it does not answer.
    pub fn metrics(&self) -> Result<String, LabError> {
        wait_for("the control plane's metrics", UP, || {
            let answer = ask_tcp(self.metrics, "GET", "/metrics", "");
            answer.map(|answer| answer.body).map_err(|e| e.to_string())
        })
    }
}

fn success(done: Done, command: &str) -> Result<String, LabError> {
    if done.code == Some(0) {
        return Ok(done.stdout);
    }
    Err(LabError::Failed {
        command: command.to_owned(),
        host: HERE.to_owned(),
        status: format!("{:?}", done.code),
        output: format!("{}{}", done.stdout, done.stderr),
    })
}

/// An agent that runs, known by its admin socket.
#[derive(Debug)]
pub struct LocalAgent {
    /// Its mesh port.
    pub mesh: SocketAddr,
    socket: PathBuf,
    process: Arc<Process>,
}

/// The beginning of an agent's configuration: name, state, mesh port and admin socket below `place`,
/// loopback ports off. Tables may follow.
#[must_use]
pub fn agent_config(place: &Place, name: &str, mesh: SocketAddr, seeds: &[SocketAddr]) -> String {
    let seeds: Vec<String> = seeds.iter().map(|seed| format!("\"{seed}\"")).collect();
    let (state, socket) = (place.path(&format!("{name}.state")), socket_path(place, name));
    format!(
        "name = \"{name}\"\nstate_dir = \"{}\"\n\n[mesh]\nlisten = \"{mesh}\"\nseeds = [{}]\n\n\
         [admin]\nsocket = \"{}\"\nhttp = \"off\"\n\n[outbound]\nhttp = \"off\"\n\n",
        state.display(),
        seeds.join(", "),
        socket.display()
    )
}

/// The `[join]` table.
#[must_use]
pub fn join_table(control: SocketAddr, token: &str) -> String {
    format!("[join]\ncontrol = \"{control}\"\ntoken = \"{token}\"\n\n")
}

/// Where [`agent_config`] puts an agent's admin socket.
#[must_use]
pub fn socket_path(place: &Place, name: &str) -> PathBuf {
    place.path(&format!("{name}.sock"))
}

/// `hearth-agent run` on this configuration, which is written to `place/<name>.toml`.
///
/// # Errors
/// [`LabError`] when the program is not built or the file cannot be written.
pub fn agent_program(place: &Place, name: &str, config: &str) -> Result<Program, LabError> {
    let file = place.write(&format!("{name}.toml"), config)?.display().to_string();
    Ok(Program::new(name, ours("hearth-agent")?).args(["run", "--config", &file]))
}

impl LocalAgent {
    /// Starts an agent and waits until it answers. One that does not is killed.
    ///
    /// # Errors
    /// [`LabError::Deadline`] with the end of its log, [`LabError::Failed`] when it ended instead.
    pub fn start(
        place: &Place,
        name: &str,
        mesh: SocketAddr,
        program: Program,
    ) -> Result<Self, LabError> {
        let process = place.start(program)?;
        let agent = Self { mesh, socket: socket_path(place, name), process };
        let up = wait_for(&format!("agent `{name}` to answer"), UP, || {
            let log = tail(&agent.process.stderr(), 5);
            match agent.get::<Value>("/v1/status") {
                Err(_) if !agent.process.running() => Ok(Err(log)),
                Err(error) => Err(format!("{error}; log: {log}")),
                Ok(_) => Ok(Ok(())),
            }
        });
        let ended = match up {
            Ok(Ok(())) => return Ok(agent),
            Ok(Err(output)) => LabError::Failed {
                command: format!("hearth-agent run, as {name}"),
                host: HERE.to_owned(),
                status: "an error".to_owned(),
                output,
            },
            Err(late) => late,
        };
        agent.process.kill()?;
        Err(ended)
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its admin socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET path`, as it is.
    ///
    /// # Errors
    /// [`LabError::Admin`] with what came instead.
    pub fn page(&self, path: &str) -> Result<String, LabError> {
        let fail = |reason: String| LabError::Admin {
            socket: self.socket.clone(),
            path: path.to_owned(),
            reason,
        };
        let answer = ask_unix(&self.socket, "GET", path, "").map_err(|e| fail(e.to_string()))?;
        match answer.status {
            200 => Ok(answer.body),
            status => Err(fail(format!("{status}: {}", answer.body))),
        }
    }

    /// `GET path`, decoded.
    ///
    /// # Errors
    /// [`LabError::Admin`] with what came instead.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, LabError> {
        let body = self.page(path)?;
        serde_json::from_str(&body).map_err(|e| LabError::Admin {
            socket: self.socket.clone(),
            path: path.to_owned(),
            reason: format!("{e} in {body}"),
        })
    }
}

/// The counters on a metrics page whose name passes, by name and labels.
#[must_use]
pub fn counters(page: &str, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, u64> {
    let series = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let name = series.split('{').next()?;
        (name.ends_with("_total") && wanted(name))
            .then(|| Some((series.to_owned(), value.parse().ok()?)))?
    });
    series.collect()
}

/// What was counted between two readings: only series that rose.
#[must_use]
pub fn risen(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let by = |(series, now): (&String, &u64)| {
        let was = before.get(series).copied().unwrap_or(0);
        (*now != was).then(|| (series.clone(), now.wrapping_sub(was)))
    };
    after.iter().filter_map(by).collect()
}
