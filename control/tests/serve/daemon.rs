//! Real programs: started, watched through their logs, always stopped.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before a test gives up.
const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `look` succeeds; panics with what was seen last.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if begun.elapsed() > DEADLINE => panic!("waited for {what}; saw:\n{seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A directory of one test's own.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hearth-serve-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// The control plane's directory.
    pub(crate) fn control(&self) -> &Path {
        // Leaked: a test makes one.
        Box::leak(self.0.join("control").into_boxed_path())
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.0.join(name), text).unwrap();
        self.path(name)
    }

    /// `text` with this directory's path as `/D`.
    pub(crate) fn anonymous(&self, text: &str) -> String {
        let json_lines_gone: Vec<&str> = text.lines().filter(|l| !l.starts_with('{')).collect();
        let end = if text.ends_with('\n') { "\n" } else { "" };
        (json_lines_gone.join("\n") + end).replace(&self.0.display().to_string(), "/D")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a program that ended printed.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

fn run(program: &str, args: &[&str]) -> Done {
    let mut command = Command::new(program);
    for key in ["HEARTH_SOCKET", "HEARTH_CONTROL", "HEARTH_TOKEN", "HEARTH_CA", "COLUMNS"] {
        command.env_remove(key);
    }
    let output = command.args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap_or(-1);
    Done { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs `hearth`.
pub(crate) fn hearth(args: &[&str]) -> Done {
    run(env!("CARGO_BIN_EXE_hearth"), args)
}

/// Runs `hearth-control`.
pub(crate) fn control(args: &[&str]) -> Done {
    run(env!("CARGO_BIN_EXE_hearth-control"), args)
}

/// A running `hearth-control serve`.
pub(crate) struct Daemon {
    child: Child,
    dir: String,
    lines: Arc<Mutex<Vec<String>>>,
    address: SocketAddr,
    metrics: SocketAddr,
}

impl Daemon {
    /// Makes a mesh and serves it on ports the kernel picks.
    pub(crate) fn start(scratch: &Scratch) -> Self {
        let dir = scratch.path("control");
        let made = control(&[
            "init",
            "--dir",
            &dir,
            "--trust-domain",
            "mesh.example",
            "--listen",
            "127.0.0.1:0",
            "--metrics",
            "127.0.0.1:0",
        ]);
        assert_eq!(made.code, 0, "{made:?}");
        assert!(made.stdout.contains("hearthop1."), "{made:?}");
        Self::serve(dir)
    }

    fn serve(dir: String) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hearth-control"))
            .args(["serve", "--dir", &dir])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sink, stderr) = (lines.clone(), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        let nowhere = SocketAddr::from(([0; 4], 0));
        let mut daemon = Self { child, dir, lines, address: nowhere, metrics: nowhere };
        let line = daemon.event("listening");
        let at = |key: &str| line["fields"][key].as_str().unwrap().parse().unwrap();
        (daemon.address, daemon.metrics) = (at("address"), at("metrics"));
        daemon
    }

    pub(crate) fn dir(&self) -> String {
        self.dir.clone()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// The first log line with this event, once it is there.
    #[track_caller]
    pub(crate) fn event(&self, event: &str) -> Value {
        until(&format!("the log event {event}"), || {
            let lines = self.lines.lock().unwrap();
            let parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut found = parsed.filter(|line| line["event"] == event);
            found.next().ok_or_else(|| lines.join("\n"))
        })
    }

    /// What Prometheus would read.
    pub(crate) fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// SIGKILL, and a new one on the same directory.
    pub(crate) fn kill_and_restart(mut self, scratch: &Scratch) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Self::serve(scratch.path("control"))
    }

    /// SIGTERM; its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        until("the daemon to end", || match self.child.try_wait().unwrap() {
            Some(status) => Ok(status.code()),
            None => Err(self.lines.lock().unwrap().join("\n")),
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
