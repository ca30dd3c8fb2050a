//! What the figures were taken on and with: without it they mean nothing.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use serde::Serialize;

use super::peers::envoy_path;
use crate::lab::LabError;
use crate::lab::binaries::{ours, tool};

/// The machine and the programs.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processor.
    pub processor: String,
    /// Cores.
    pub cores: usize,
    /// Kernel.
    pub kernel: String,
    /// When: seconds since 1970.
    pub at: u64,
    /// Load average of the last minute before the bench began.
    pub load: f64,
    /// Where Hearth's programs were taken from.
    pub hearth_from: String,
    /// Name and version of every program, or why there is none.
    pub versions: Vec<(&'static str, String)>,
}

impl Machine {
    /// This one, now.
    #[must_use]
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo");
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name"));
        let agent = ours("hearth-agent");
        let from = agent.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            at: now.map_or(0, |since| since.as_secs()),
            processor: processor
                .unwrap_or_default()
                .trim_start_matches([' ', '\t', ':'])
                .to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|s| s.parse().ok())
                .unwrap_or(0.0),
            hearth_from: from,
            versions: vec![
                ("hearth-agent", version(agent, "version")),
                ("envoy", version(envoy_path(), "--version")),
                ("haproxy", version(tool("haproxy"), "-v")),
                ("nginx", version(tool("nginx"), "-v")),
            ],
        }
    }

    /// Built as it is shipped.
    #[must_use]
    pub fn is_release(&self) -> bool {
        Path::new(&self.hearth_from).components().any(|part| part.as_os_str() == "release")
    }
}

/// The first line that a program prints about itself.
pub(crate) fn version(path: Result<std::path::PathBuf, LabError>, flag: &str) -> String {
    let path = match path {
        Ok(path) => path,
        Err(error) => return error.to_string(),
    };
    match Command::new(&path).arg(flag).output() {
        Err(error) => error.to_string(),
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            // Envoy begins with its own path.
            let text = text.replace(&path.display().to_string(), "");
            text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("?").to_owned()
        }
    }
}
