//! A real control plane on a host.
//!
//! Owns its directory, its process and the operator token that `init` printed once. Join tokens are
//! made offline, before it serves, as the store has one owner at a time.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::binaries::ours;
use super::error::LabError;
use super::host::Host;
use super::process::{Process, Program, tail};
use super::run::Outcome;
use super::spec::CONTROL;
use super::wait::wait_for;

/// Trust domain of every lab.
pub const DOMAIN: &str = "lab.hearth";

/// A control plane.
#[derive(Debug)]
pub struct Control {
    host: Arc<Host>,
    dir: PathBuf,
    operator: String,
    process: Mutex<Option<Arc<Process>>>,
}

impl Control {
    /// Makes its directory and authority; it does not serve yet.
    ///
    /// # Errors
    /// [`LabError`] with what `hearth-control init` printed.
    pub fn init(host: &Arc<Host>) -> Result<Self, LabError> {
        let dir = host.dir().join("control");
        let (path, ip) = (dir.display().to_string(), host.ip().to_string());
        let args = ["init", "--dir", &path, "--trust-domain", DOMAIN, "--address", &ip];
        let done = host.run(ours("hearth-control")?, &args)?;
        let printed = format!("{}\n{}", done.stdout, done.stderr);
        done.success()?;
        let operator = word("hearthop1.", &printed, host, "hearth-control init")?;
        Ok(Self { host: Arc::clone(host), dir, operator, process: Mutex::default() })
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &PathBuf {
        &self.dir
    }

    /// Where its API is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.host.at(CONTROL)
    }

    /// The operator token.
    #[must_use]
    pub fn operator(&self) -> &str {
        &self.operator
    }

    /// Makes a one-time join token for `node`. Only while it does not serve.
    ///
    /// # Errors
    /// [`LabError`] with what `hearth-control token` printed.
    pub fn token(&self, node: &str) -> Result<String, LabError> {
        let dir = self.dir.display().to_string();
        let done =
            self.host.run(ours("hearth-control")?, &["token", "--dir", &dir, "--node", node])?;
        word("hearth1.", &done.success()?, &self.host, "hearth-control token")
    }

    /// Starts to serve and waits until its port is open. Also after it was killed.
    ///
    /// # Errors
    /// [`LabError`] with the end of its log when it does not come up.
    pub fn serve(&self) -> Result<(), LabError> {
        let dir = self.dir.display().to_string();
        let program = Program::new("control", ours("hearth-control")?)
            .args(["serve", "--dir", &dir])
            .env("RUST_BACKTRACE", "1");
        let process = self.host.spawn(&program)?;
        *self.lock() = Some(Arc::clone(&process));
        let address = self.address();
        wait_for("the control plane to listen", Duration::from_secs(15), || {
            let dial =
                move || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300));
            let open = self.host.space().call(dial).map_err(|e| e.to_string())?;
            open.map(drop).map_err(|e| format!("{e}; log: {}", tail(&process.stderr(), 5)))
        })
    }

    /// Its process, when it was started.
    #[must_use]
    pub fn process(&self) -> Option<Arc<Process>> {
        self.lock().clone()
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// [`LabError::Signal`].
    pub fn kill(&self) -> Result<(), LabError> {
        self.process().map_or(Ok(()), |process| process.kill())
    }

    /// Runs `hearth` against it, as the operator.
    ///
    /// # Errors
    /// [`LabError`] when the program cannot be started.
    pub fn hearth(&self, args: &[&str]) -> Result<Outcome, LabError> {
        let (url, ca) = (self.url(), self.ca()?.display().to_string());
        let mut all = vec!["--control", &url, "--token", &self.operator, "--ca", &ca];
        all.extend(args);
        self.host.run(ours("hearth")?, &all)
    }

    /// Applies a policy, as an operator does.
    ///
    /// # Errors
    /// [`LabError`] with what `hearth policy apply` printed.
    pub fn apply(&self, policy: &str) -> Result<String, LabError> {
        let file = self.host.write("policy.toml", policy)?;
        let file = file.display().to_string();
        self.hearth(&["policy", "apply", &file])?.success()
    }

    /// The API's URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// The root certificate that `init` wrote.
    ///
    /// # Errors
    /// [`LabError::NoBinary`] when there is none.
    pub fn ca(&self) -> Result<PathBuf, LabError> {
        ["root.pem", "ca.pem", "bundle.pem", "root.crt", "ca.crt"]
            .iter()
            .map(|name| self.dir.join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| LabError::NoBinary {
                name: "root certificate".to_owned(),
                looked: self.dir.display().to_string(),
                hint: "`hearth-control init` writes it",
            })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Process>>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first word of `text` that starts with `prefix`.
fn word(prefix: &str, text: &str, host: &Host, command: &str) -> Result<String, LabError> {
    text.split(|c: char| c.is_whitespace() || "\"'`,".contains(c))
        .find(|word| word.starts_with(prefix))
        .map(str::to_owned)
        .ok_or_else(|| LabError::Failed {
            command: command.to_owned(),
            host: host.name().to_owned(),
            status: format!("success, but printed nothing that starts with `{prefix}`"),
            output: text.trim().to_owned(),
        })
}
