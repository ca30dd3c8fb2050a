//! `deploy/rollout` against a fleet that is a directory: each host a folder, ssh a stub that runs the command
//! locally, the binaries scripts that know just enough (version, check, members, drain, generations).
//!
//! Shows the rollout's own decisions, quickly: who is touched, in what order, what is put back. That real
//! agents behind real sshd lose no request meanwhile is shown elsewhere.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Scratch, assert_clean, deploy, not_run, run, script, text, tool};

/// Stands for `hearth-agent`. A host with a file `cursed` breaks every build but the first.
const AGENT: &str = r#"#!/bin/sh
set -eu
version=@VERSION@ host=$(cd "$(dirname "$0")/../.." && pwd)
case $1 in
    version) echo "hearth-agent $version" ;;
    check) if grep -q "refused by $version" "$3"; then echo "$3:1:1: unknown key" >&2; exit 78; fi ;;
    start)
        mkdir -p "$host/run"
        generation=$(cat "$host/run/generation" 2>/dev/null || echo 0)
        echo $((generation + 1)) >"$host/run/generation"
        curse=$(cat "$host/cursed" 2>/dev/null || true)
        [ "$version" != 1 ] || curse=
        if [ "$curse" = dies ]; then echo down; else echo alive; fi >"$host/run/state"
        well=serving; [ ! -e "$host/warm" ] || well=standby
        if [ "$curse" = unfit ]; then echo unready; else echo $well; fi >"$host/run/condition" ;;
esac
"#;

/// Stands for `hearth`: answers for the whole fleet while this host's agent is up.
const CLI: &str = r#"#!/bin/sh
# @VERSION@
set -eu
host=$(cd "$(dirname "$0")/../.." && pwd)
[ "$(cat "$host/run/state")" = alive ] || { echo "no agent at $2" >&2; exit 69; }
shift 2
case "$*" in
    "members -o json")
        comma='['
        for other in "$host"/../*/run; do
            node=$(basename "$(dirname "$other")") standing=ready condition=$(cat "$other/condition")
            [ "$condition" != standby ] || standing=out # as the agent says it
            printf '%s{"node":"%s","state":"%s","generation":%s,"endpoints":[{"endpoint":"ledger@%s","condition":"%s","standing":"%s"}]}' \
                "$comma" "$node" "$(cat "$other/state")" "$(cat "$other/generation")" "$node" "$condition" "$standing"
            comma=,
        done
        echo ']' ;;
    drain) echo draining >"$host/run/condition" ;;
    "drain --off") echo serving >"$host/run/condition" ;;
    status) ;;
    *) exit 64 ;;
esac
"#;

const SSH: &str = r#"#!/bin/sh
# ssh [options] TARGET COMMAND, where TARGET is a directory of this fleet
while [ $# -gt 2 ]; do shift; done
if [ -e "@FLEET@/$1/unreachable" ]; then echo "ssh: connect to host $1: No route to host" >&2; exit 255; fi
exec sh -c "$2"
"#;

struct Fleet {
    scratch: Scratch,
}

impl Fleet {
    /// Hosts `web-1` … `web-n` running version 1; `None` where Python is missing.
    fn new(name: &str, hosts: usize) -> Option<Self> {
        if tool("python3").is_none() {
            not_run("deploy/rollout", "python3 is not installed");
            return None;
        }
        let fleet = Self::bare(name, hosts);
        for at in 1..=hosts {
            let host = fleet.host(at);
            script(&host.join("usr/bin/hearth-agent"), &AGENT.replace("@VERSION@", "1"));
            script(&host.join("usr/bin/hearth"), &CLI.replace("@VERSION@", "1"));
            std::fs::create_dir_all(host.join("etc/hearth")).expect("etc");
            std::fs::write(host.join("etc/hearth/agent.toml"), "name = \"web\"\n").expect("config");
            assert_clean(Command::new(host.join("usr/bin/hearth-agent")).arg("start"));
        }
        Some(fleet)
    }

    /// The same hosts with nothing on them.
    fn bare(name: &str, hosts: usize) -> Self {
        let fleet = Self { scratch: Scratch::new(name) };
        script(
            &fleet.path("ssh"),
            &SSH.replace("@FLEET@", &fleet.path("hosts").display().to_string()),
        );
        std::fs::write(fleet.path("agent.toml"), "name = \"@NAME@\"\n").expect("agent.toml");
        let prefix = fleet.path("hosts/{name}").display().to_string();
        let mut inventory = format!(
            "default prefix={prefix} socket={{prefix}}/run/agent.sock drain_wait=0 install=--no-systemd\n\
             default restart='{{prefix}}/usr/bin/hearth-agent start' stop='echo down >{{prefix}}/run/state'\n\
             default agent_toml={}\n",
            fleet.path("agent.toml").display()
        );
        for at in 1..=hosts {
            std::fs::create_dir_all(fleet.host(at)).expect("host");
            inventory += &format!("web-{at} web-{at}\n");
        }
        std::fs::write(fleet.path("inventory"), inventory).expect("inventory");
        fleet
    }

    fn path(&self, file: &str) -> PathBuf {
        self.scratch.path().join(file)
    }

    fn host(&self, at: usize) -> PathBuf {
        self.path(&format!("hosts/web-{at}"))
    }

    fn build(&self, version: &str) -> PathBuf {
        let directory = self.path(&format!("build-{version}"));
        script(&directory.join("hearth-agent"), &AGENT.replace("@VERSION@", version));
        script(&directory.join("hearth"), &CLI.replace("@VERSION@", version));
        directory
    }

    fn rollout(&self, version: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(deploy().join("rollout"));
        command.env("ROLLOUT_SSH", self.path("ssh")).args([
            "--steady",
            "0.2",
            "--canary-steady",
            "0.2",
        ]);
        command.args(["--timeout", "2", "--inventory"]).arg(self.path("inventory"));
        command.arg("--build").arg(self.build(version)).args(arguments);
        command
    }

    /// Runs a rollout to its end and returns exit code and everything it said.
    fn roll(&self, version: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let output = run(&mut self.rollout(version, arguments));
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }

    /// `version/generation/state/condition` of a host: what it runs and how often it was started.
    fn status(&self, at: usize) -> String {
        let host = self.host(at);
        let version = assert_clean(Command::new(host.join("usr/bin/hearth-agent")).arg("version"));
        let read = |file: &str| read(&host.join("run").join(file));
        let version = version.trim().rsplit(' ').next().expect("a version");
        format!("{version}/{}/{}/{}", read("generation"), read("state"), read("condition"))
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .trim()
        .to_owned()
}

/// Reads what a rollout says until a line holds `wanted`.
fn until(rollout: &mut Child, wanted: &str) {
    let stdout = rollout.stdout.as_mut().expect("piped");
    let mut seen = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.expect("UTF-8");
        if line.contains(wanted) {
            return;
        }
        seen += &line;
        seen.push('\n');
    }
    panic!("never said {wanted:?}:\n{seen}");
}

fn signal(rollout: &Child, name: &str) {
    assert_clean(Command::new("kill").arg(format!("-{name}")).arg(rollout.id().to_string()));
}

#[test]
fn a_host_that_fails_preflight_stops_everything_before_anything_is_touched() {
    let Some(fleet) = Fleet::new("preflight", 3) else { return };
    std::fs::write(fleet.host(2).join("unreachable"), "").expect("unreachable");
    std::fs::write(fleet.host(3).join("etc/hearth/agent.toml"), "# refused by 2\n")
        .expect("config");
    let (code, said) = fleet.roll("2", &[]);
    assert_eq!(code, Some(69), "{said}");
    assert!(
        said.contains("web-2: preflight: exit 255 on web-2: ssh: connect to host web-2: No route"),
        "{said}"
    );
    assert!(
        said.contains("web-3: checking the configuration with the new build: exit 78"),
        "{said}"
    );
    for at in 1..=3 {
        assert_eq!(fleet.status(at), "1/1/alive/serving", "web-{at} was touched:\n{said}");
    }
}

#[test]
fn a_broken_canary_is_put_back_and_the_fleet_is_untouched() {
    let Some(fleet) = Fleet::new("canary", 3) else { return };
    for curse in ["dies", "unfit"] {
        let generation =
            read(&fleet.host(1).join("run/generation")).parse::<u64>().expect("a number");
        std::fs::write(fleet.host(1).join("cursed"), curse).expect("curse");
        let (code, said) = fleet.roll("2", &["--parallel", "2"]);
        assert_eq!(code, Some(1), "{curse}: {said}");
        assert!(said.contains("web-1          rolled back"), "{curse}: {said}");
        assert!(
            said.contains("STOPPED at web-1: 2 host(s) untouched, 0 on the new build"),
            "{curse}: {said}"
        );
        // Started twice: broken, then the old one again.
        assert_eq!(
            fleet.status(1),
            format!("1/{}/alive/serving", generation + 2),
            "{curse}: {said}"
        );
        for at in 2..=3 {
            assert_eq!(
                fleet.status(at),
                "1/1/alive/serving",
                "{curse}: web-{at} was touched:\n{said}"
            );
        }
    }
}

#[test]
fn a_warm_host_that_no_longer_stands_by_is_put_back() {
    let Some(fleet) = Fleet::new("warm", 3) else { return };
    std::fs::write(fleet.host(1).join("warm"), "").expect("warm");
    std::fs::write(fleet.host(1).join("run/condition"), "standby\n").expect("condition");
    std::fs::write(fleet.host(1).join("cursed"), "unfit").expect("curse");
    let (code, said) = fleet.roll("2", &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("not fit: ledger@web-1"), "{said}");
    assert_eq!(fleet.status(1), "1/3/alive/standby", "{said}");
}

#[test]
fn a_host_that_fails_in_a_wave_is_put_back_and_later_waves_do_not_start() {
    let Some(fleet) = Fleet::new("wave", 4) else { return };
    std::fs::write(fleet.host(3).join("cursed"), "dies").expect("curse");
    let (code, said) = fleet.roll("2", &[]);
    assert_eq!(code, Some(1), "{said}");
    let status: Vec<String> = (1..=4).map(|at| fleet.status(at)).collect();
    let serving =
        ["2/2/alive/serving", "2/2/alive/serving", "1/3/alive/serving", "1/1/alive/serving"];
    assert_eq!(status, serving, "{said}");

    // Mended, the same command goes on where it stopped: the first two are not started again.
    std::fs::remove_file(fleet.host(3).join("cursed")).expect("lift the curse");
    let (code, said) = fleet.roll("2", &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("web-1          has this build already: skipped"), "{said}");
    let status: Vec<String> = (1..=4).map(|at| fleet.status(at)).collect();
    let serving =
        ["2/2/alive/serving", "2/2/alive/serving", "2/4/alive/serving", "2/2/alive/serving"];
    assert_eq!(status, serving, "{said}");
}

#[test]
fn never_more_hosts_in_hand_than_allowed_and_the_canary_goes_alone() {
    let Some(fleet) = Fleet::new("parallel", 6) else { return };
    let (code, said) = fleet.roll("2", &["--parallel", "2"]);
    assert_eq!(code, Some(0), "{said}");
    let (mut in_hand, mut most, mut done) = (0_i32, 0, 0);
    for line in said.lines() {
        if line.ends_with(" drained") {
            in_hand += 1;
            assert!(done > 0 || in_hand == 1, "somebody joined the canary:\n{said}");
        } else if line.contains("steady in the mesh") {
            in_hand -= 1;
            done += 1;
        }
        most = most.max(in_hand);
    }
    assert_eq!((most, done), (2, 6), "{said}");
    for at in 1..=6 {
        assert_eq!(fleet.status(at), "2/2/alive/serving", "web-{at}:\n{said}");
        let previous = fleet.host(at).join("usr/bin/hearth-agent.previous");
        assert!(read(&previous).contains("version=1 "), "web-{at} did not keep its old binary");
        let left = std::fs::read_dir(fleet.host(at).join("usr/bin")).expect("bin").count();
        assert_eq!(left, 4, "web-{at} has leftovers beside two binaries and their previous ones");
    }
}

#[test]
fn interrupted_it_finishes_the_host_in_hand_and_goes_on_when_run_again() {
    let Some(fleet) = Fleet::new("interrupt", 3) else { return };
    let mut rollout = fleet.rollout("2", &[]).stdout(Stdio::piped()).spawn().expect("rollout");
    until(&mut rollout, "web-1          drained");
    signal(&rollout, "INT");
    let code = rollout.wait_with_output().expect("wait").status.code();
    assert_eq!(code, Some(130));
    assert_eq!(
        [1, 2, 3].map(|at| fleet.status(at))[..2],
        ["2/2/alive/serving", "1/1/alive/serving"]
    );
    let (code, said) = fleet.roll("2", &[]);
    assert_eq!(code, Some(0), "{said}");
    for at in 1..=3 {
        assert_eq!(
            fleet.status(at),
            "2/2/alive/serving",
            "web-{at} was not started exactly once more:\n{said}"
        );
    }
}

#[test]
fn killed_after_a_swap_it_resumes_without_losing_the_old_build() {
    let Some(fleet) = Fleet::new("killed", 2) else { return };
    std::fs::write(fleet.host(1).join("cursed"), "dies").expect("curse");
    let mut rollout =
        fleet.rollout("2", &["--timeout", "30"]).stdout(Stdio::piped()).spawn().expect("rollout");
    until(&mut rollout, "web-1          swapped");
    signal(&rollout, "KILL");
    rollout.wait().expect("wait");
    let (code, said) = fleet.roll("2", &[]);
    assert_eq!(code, Some(1), "{said}");
    let status = fleet.status(1);
    assert!(
        status.starts_with("1/") && status.ends_with("/alive/serving"),
        "web-1 is {status}:\n{said}"
    );
    assert_eq!(fleet.status(2), "1/1/alive/serving", "{said}");
}

#[test]
fn bare_hosts_get_hearth_through_the_install_script() {
    if tool("python3").is_none() {
        return not_run("deploy/rollout", "python3 is not installed");
    }
    let fleet = Fleet::bare("bare", 3);
    let (code, said) = fleet.roll("1", &["--parallel", "2"]);
    assert_eq!(code, Some(0), "{said}");
    for at in 1..=3 {
        assert_eq!(fleet.status(at), "1/1/alive/serving", "web-{at}:\n{said}");
        assert_eq!(
            read(&fleet.host(at).join("etc/hearth/agent.toml")),
            format!("name = \"web-{at}\"")
        );
    }
}

#[test]
fn a_dry_run_changes_nothing_that_runs() {
    let Some(fleet) = Fleet::new("dry", 3) else { return };
    let (code, said) = fleet.roll("2", &["--dry-run", "--canary", "web-2", "--parallel", "2"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("plan           web-2 | web-1 web-3"), "{said}");
    for at in 1..=3 {
        assert_eq!(fleet.status(at), "1/1/alive/serving", "{said}");
    }
}

#[test]
fn wrong_inventories_are_refused_with_line_and_reason() {
    let Some(fleet) = Fleet::new("inventory", 1) else { return };
    let cases = [
        ("web-1 web-1 restrat=x\n", "inventory:1: unknown key 'restrat'; known: "),
        ("\nweb-1 prefix=/x\n", "inventory:2: expected `name ssh-target key=value...`"),
        ("a a\na b\n", "inventory:2: host 'a' is named twice"),
        ("a a restart=\"x\n", "inventory:1: No closing quotation"),
        ("# nobody\n", "inventory: no hosts"),
    ];
    for (inventory, wanted) in cases {
        std::fs::write(fleet.path("inventory"), inventory).expect("inventory");
        let (code, said) = fleet.roll("2", &[]);
        assert_eq!(code, Some(65), "{said}");
        assert!(said.contains(wanted), "{inventory:?} is refused with: {said}");
    }
}
