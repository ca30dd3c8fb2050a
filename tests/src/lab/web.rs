//! The applications behind endpoints: nginx where it is installed, else the lab's own.
//!
//! nginx runs with a configuration and directory of its own on the host, as one process (so that a
//! kill or a stop hits the server itself), and knows nothing of the lab.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::binaries::{ours, tool};
use super::error::LabError;
use super::host::Host;
use super::http::ask_tcp;
use super::process::{Process, Program, tail};
use super::wait::wait_for;
use crate::app::{SERVED_BY, page};

/// Port of every application, on its host's loopback.
pub const PORT: u16 = 9000;
/// Where the lab's own application writes down what it executes, in its host's directory.
const LEDGER: &str = "executed";
/// Where it notes under which terms requests came, there too.
const TERMS: &str = "terms";

/// Which application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Debian's nginx, one process.
    Nginx,
    /// The lab's own, serving from the start.
    App,
    /// The lab's own, serving once activated, which takes this long.
    Warm {
        /// Duration of the activation hook.
        activate: Duration,
    },
}

impl Kind {
    /// A real web server where one is installed.
    #[must_use]
    pub fn best() -> Self {
        match tool("nginx") {
            Ok(_) => Self::Nginx,
            Err(_) => Self::App,
        }
    }
}

/// An application on a host.
#[derive(Debug)]
pub struct Web {
    host: Arc<Host>,
    kind: Kind,
    process: Mutex<Arc<Process>>,
}

impl Web {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// [`LabError`] with the end of its log when it does not.
    pub fn start(host: &Arc<Host>, kind: Kind) -> Result<Self, LabError> {
        let web = Self { process: Mutex::new(spawn(host, kind)?), host: Arc::clone(host), kind };
        web.wait_up()?;
        Ok(web)
    }

    /// Its process as it is now.
    #[must_use]
    pub fn process(&self) -> Arc<Process> {
        Arc::clone(&self.process.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Which application it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Starts it again after it was killed.
    ///
    /// # Errors
    /// As [`Web::start`].
    pub fn restart(&self) -> Result<(), LabError> {
        let process = spawn(&self.host, self.kind)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = process;
        self.wait_up()
    }

    /// Ids that the lab's own application has executed on this host, in order, by whatever process: from
    /// a file, so that it may be dead by now.
    #[must_use]
    pub fn executed(&self) -> Vec<String> {
        // No file: nothing was executed.
        let text = std::fs::read_to_string(self.host.dir().join(LEDGER)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Under which terms requests came to the lab's own application on this host, with the moment of each in
    /// microseconds of the machine's clock.
    ///
    /// # Panics
    /// On a line that is none.
    #[must_use]
    pub fn terms(&self) -> Vec<(u64, u64)> {
        // No file: nothing came.
        let text = std::fs::read_to_string(self.host.dir().join(TERMS)).unwrap_or_default();
        let pair = |line: &str| {
            let (at, term) = line.split_once(' ')?;
            Some((at.parse().ok()?, term.parse().ok()?))
        };
        text.lines().map(|line| pair(line).unwrap_or_else(|| panic!("{line:?}"))).collect()
    }

    /// Asks it something directly, past any agent.
    ///
    /// # Errors
    /// The reason in words.
    pub fn ask(&self, method: &'static str, path: &str) -> Result<(u16, String), String> {
        ask(&self.host, method, path)
    }

    fn wait_up(&self) -> Result<(), LabError> {
        let what = format!("the application on `{}` to answer", self.host.name());
        wait_for(&what, Duration::from_secs(10), || {
            let log = || tail(&self.process().stderr(), 3);
            self.ask("GET", "/healthz").map_err(|e| format!("{e}; {}", log()))
        })
        .map(drop)
    }
}

/// Asks whatever application there is on a host, past any agent.
///
/// # Errors
/// The reason in words: that nothing listens, if so.
pub fn ask(host: &Host, method: &'static str, path: &str) -> Result<(u16, String), String> {
    let path = path.to_owned();
    let asked = host.space().call(move || ask_tcp(address(), method, &path, ""));
    let answer = asked.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    Ok((answer.status, answer.body))
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], PORT))
}

fn spawn(host: &Host, kind: Kind) -> Result<Arc<Process>, LabError> {
    host.spawn(&program(host, kind)?)
}

/// The program that is the application, with its files in place.
pub(super) fn program(host: &Host, kind: Kind) -> Result<Program, LabError> {
    let listen = address().to_string();
    let app = || -> Result<Program, LabError> {
        let ledger = host.dir().join(LEDGER).display().to_string();
        let terms = host.dir().join(TERMS).display().to_string();
        let flags =
            ["--host", host.name(), "--listen", &listen, "--ledger", &ledger, "--terms", &terms];
        Ok(Program::new("app", ours("lab-app")?).args(flags))
    };
    match kind {
        Kind::Nginx => nginx(host),
        Kind::App => app(),
        Kind::Warm { activate } => {
            let ms = activate.as_millis().to_string();
            Ok(app()?.args(["--warm", "--activate-ms", &ms]))
        }
    }
}

fn nginx(host: &Host) -> Result<Program, LabError> {
    let prefix = host.dir().join("nginx");
    let root = prefix.join("html");
    std::fs::create_dir_all(&root).map_err(LabError::file("create", &root))?;
    host.write("nginx/html/index.html", &page(host.name()))?;
    host.write("nginx/html/healthz", "ok\n")?;
    let config = format!(
        "user root root;\n\
         daemon off;\n\
         master_process off;\n\
         pid nginx.pid;\n\
         error_log stderr warn;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
         \x20 access_log off;\n\
         \x20 default_type text/plain;\n\
         \x20 keepalive_requests 1000000;\n\
         \x20 client_body_temp_path body;\n\
         \x20 proxy_temp_path proxy;\n\
         \x20 fastcgi_temp_path fastcgi;\n\
         \x20 uwsgi_temp_path uwsgi;\n\
         \x20 scgi_temp_path scgi;\n\
         \x20 server {{\n\
         \x20   listen 127.0.0.1:{PORT} reuseport backlog=1024;\n\
         \x20   root {};\n\
         \x20   add_header {SERVED_BY} {} always;\n\
         \x20 }}\n\
         }}\n",
        root.display(),
        host.name(),
    );
    let file = host.write("nginx/nginx.conf", &config)?;
    let words = [
        "-p".to_owned(),
        prefix.display().to_string(),
        "-c".to_owned(),
        file.display().to_string(),
        "-e".to_owned(),
        "stderr".to_owned(),
    ];
    Ok(Program::new("app", tool("nginx")?).args(words))
}
