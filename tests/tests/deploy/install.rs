//! `deploy/install` into a directory and off again, with scripts in place of the binaries.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Scratch, assert_clean, deploy, run, script, text};

fn build(scratch: &Scratch, version: &str) -> PathBuf {
    let directory = scratch.path().join(format!("build-{version}"));
    for binary in ["hearth-agent", "hearth-control", "hearth"] {
        script(&directory.join(binary), &format!("#!/bin/sh\necho {binary} {version}\n"));
    }
    directory
}

fn install(prefix: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(deploy().join("install"));
    command.arg("--prefix").arg(prefix).args(arguments);
    command
}

fn mode(path: &Path) -> u32 {
    path.metadata()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .permissions()
        .mode()
        & 0o777
}

#[test]
fn install_lays_out_everything_and_a_second_run_changes_nothing() {
    let scratch = Scratch::new("install");
    let prefix = scratch.path().join("root");
    let build = build(&scratch, "1");
    let all = ["--role", "all", "--name", "web-1", "--build", build.to_str().expect("UTF-8")];
    assert_clean(&mut install(&prefix, &all));

    assert_eq!(mode(&prefix.join("usr/bin/hearth-agent")), 0o755);
    assert_eq!(mode(&prefix.join("etc/hearth/agent.toml")), 0o640, "it may hold a token");
    assert_eq!(mode(&prefix.join("var/lib/hearth")), 0o700);
    assert_eq!(mode(&prefix.join("var/lib/hearth-control")), 0o700);
    for unit in ["hearth-agent.service", "hearth-control.service"] {
        assert!(prefix.join("usr/lib/systemd/system").join(unit).is_file(), "{unit}");
    }
    let config = prefix.join("etc/hearth/agent.toml");
    assert!(std::fs::read_to_string(&config).expect("config").contains("name = \"web-1\""));

    std::fs::write(&config, "edited by hand\n").expect("edit");
    let before = prefix.join("usr/bin/hearth-agent").metadata().expect("binary").ino();
    let said = assert_clean(&mut install(&prefix, &all));
    assert!(!said.contains("wrote"), "the second run wrote something:\n{said}");
    assert_eq!(prefix.join("usr/bin/hearth-agent").metadata().expect("binary").ino(), before);
    assert_eq!(std::fs::read_to_string(&config).expect("config"), "edited by hand\n");
}

#[test]
fn a_replaced_binary_stays_beside_the_new_one() {
    let scratch = Scratch::new("replace");
    let prefix = scratch.path().join("root");
    for version in ["1", "2"] {
        let build = build(&scratch, version);
        let build = build.to_str().expect("UTF-8");
        assert_clean(&mut install(&prefix, &["--no-systemd", "--build", build]));
    }
    let bin = prefix.join("usr/bin");
    assert_eq!(assert_clean(&mut Command::new(bin.join("hearth-agent"))), "hearth-agent 2\n");
    assert_eq!(
        assert_clean(&mut Command::new(bin.join("hearth-agent.previous"))),
        "hearth-agent 1\n"
    );
    assert!(!prefix.join("usr/lib/systemd").exists(), "--no-systemd wrote units");
    assert!(!bin.join("hearth-control").exists(), "the agent's role has no control plane");
}

#[test]
fn uninstall_leaves_state_and_configuration_unless_purged() {
    let scratch = Scratch::new("uninstall");
    let prefix = scratch.path().join("root");
    let build = build(&scratch, "1");
    assert_clean(&mut install(
        &prefix,
        &["--role", "all", "--build", build.to_str().expect("UTF-8")],
    ));
    std::fs::write(prefix.join("var/lib/hearth/identity"), "secret").expect("state");

    assert_clean(&mut install(&prefix, &["--uninstall"]));
    assert!(!prefix.join("usr/bin/hearth-agent").exists());
    assert!(!prefix.join("usr/lib/systemd/system/hearth-agent.service").exists());
    assert!(
        prefix.join("var/lib/hearth/identity").exists()
            && prefix.join("etc/hearth/agent.toml").exists()
    );

    assert_clean(&mut install(&prefix, &["--uninstall", "--purge"]));
    assert!(!prefix.join("var/lib/hearth").exists() && !prefix.join("etc/hearth").exists());
    assert_clean(&mut install(&prefix, &["--uninstall", "--purge"]));
}

#[test]
fn install_says_what_is_wrong_and_what_to_do() {
    let scratch = Scratch::new("install-errors");
    let prefix = scratch.path().join("root");
    let cases: [(&[&str], i32, &str); 5] = [
        (&["--role", "queen"], 64, "--role is agent, control or all, not 'queen'"),
        (&["--purge"], 64, "--purge goes with --uninstall"),
        (&["--build"], 64, "--build needs a value"),
        (&["--frobnicate"], 64, "unknown argument '--frobnicate'"),
        (
            &["--build", "/nowhere"],
            66,
            "/nowhere/hearth-agent is missing or not executable: build it first",
        ),
    ];
    for (arguments, code, said) in cases {
        let output = run(&mut install(&prefix, arguments));
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(said), "{arguments:?} says: {error}");
        assert!(!prefix.exists(), "{arguments:?} left something behind");
    }
}
