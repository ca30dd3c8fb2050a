//! An application that hooks start and stop: nothing of it runs before.
//!
//! Two scripts in the host's directory, which the agent runs as its hooks. Each writes down that it ran. The
//! process that the first one starts is a child of nobody here: it is noted in the lab's ledger, which the end
//! of the lab goes through. [`Host::kill_all`] does not reach it.

use std::fs;

use super::error::LabError;
use super::host::Host;
use super::process::Program;
use super::spec::Hook;
use super::web::{Kind, program};

/// Where the scripts write down that they ran, in the host's directory.
const STARTED: &str = "hook.started";
const STOPPED: &str = "hook.stopped";

/// The hooks that start and stop the application.
///
/// # Errors
/// [`LabError`] when it is not installed or the scripts cannot be written.
pub fn hooks(host: &Host, kind: Kind) -> Result<(Hook, Hook), LabError> {
    let dir = quoted(&host.dir().display().to_string());
    let ledger = quoted(&host.ledger().display().to_string());
    let command = command(&program(host, kind)?);
    // Run twice, the second has nothing to do.
    let start = format!(
        "set -eu\n\
         cd {dir}\n\
         echo \"$HEARTH_ENDPOINT $HEARTH_INCIDENT\" >> {STARTED}\n\
         if [ -e hook.pid ] && kill -0 \"$(cat hook.pid)\"; then exit 0; fi\n\
         setsid {command} < /dev/null >> app.out 2>> app.err &\n\
         echo $! > hook.pid\n\
         echo \"$! $(cut -d' ' -f22 /proc/$!/stat)\" >> {ledger}\n"
    );
    let stop = format!(
        "set -eu\n\
         cd {dir}\n\
         echo \"$HEARTH_ENDPOINT $HEARTH_INCIDENT\" >> {STOPPED}\n\
         if [ -e hook.pid ]; then kill \"$(cat hook.pid)\" || true; rm hook.pid; fi\n"
    );
    let hook = |name: &str, script: &str| -> Result<Hook, LabError> {
        let path = host.write(name, script)?.display().to_string();
        Ok(Hook::exec(&["/bin/sh", &path]))
    };
    Ok((hook("hook-start.sh", &start)?, hook("hook-stop.sh", &stop)?))
}

/// For what the application was started, a line for each run of the hook: endpoint and incident.
#[must_use]
pub fn started(host: &Host) -> Vec<String> {
    runs(host, STARTED)
}

/// The same for the hook that stops it.
#[must_use]
pub fn stopped(host: &Host) -> Vec<String> {
    runs(host, STOPPED)
}

fn runs(host: &Host, file: &str) -> Vec<String> {
    // No file: it never ran.
    let text = fs::read_to_string(host.dir().join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn command(program: &Program) -> String {
    let path = program.path.display().to_string();
    let words = std::iter::once(&path).chain(&program.args).map(|word| quoted(word));
    words.collect::<Vec<_>>().join(" ")
}

/// One word for the shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
