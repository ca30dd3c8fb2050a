//! Checks of everything under `deploy/` with the tools that would use it: systemd, promtool, the Kubernetes
//! schemas, a shell, and `deploy/rollout` against hosts that are directories (see `deploy/fleet.rs`).
//!
//! Decides nothing about the running mesh: the rollout over real sshd and real agents is `rollout.rs`. A tool
//! that is not installed is never pretended: the test prints `NOT RUN` with the reason and passes, and
//! `tests/setup` names the package.

#[path = "deploy/fleet.rs"]
mod fleet;
#[path = "deploy/install.rs"]
mod install;
#[path = "deploy/live.rs"]
mod live;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The metrics that the agent and the control plane export: what dashboard and alerts may name.
const METRICS: &[&str] = &[
    "hearth_build_info",
    "hearth_members",
    "hearth_endpoints",
    "hearth_routable_endpoints",
    "hearth_requests_total",
    "hearth_request_duration_seconds",
    "hearth_retries_total",
    "hearth_failovers_total",
    "hearth_incidents_open",
    "hearth_activation_duration_seconds",
    "hearth_link_silences_total",
    "hearth_links",
    "hearth_policy_version",
    "hearth_trust_version",
    "hearth_cert_expiry_timestamp_seconds",
    "hearth_table_records",
    "hearth_table_age_seconds",
    "hearth_adverts_refused_total",
    "hearth_handshakes_refused_total",
    "hearth_documents_refused_total",
    "hearth_gossip_suspicions_total",
    "hearth_gossip_refutations_total",
    "hearth_gossip_rejoins_total",
    "hearth_loop_lag_seconds",
    "hearth_dropped_total",
    "hearth_control_reachable",
    "hearth_control_joins_total",
    "hearth_control_push_total",
];

/// Those that have no series before the first event they count. That their names are right is the agent's own
/// test; all others must be there a moment after the start.
const AFTER_AN_EVENT: &[&str] = &[
    "hearth_retries_total",
    "hearth_failovers_total",
    "hearth_activation_duration_seconds",
    "hearth_adverts_refused_total",
    "hearth_handshakes_refused_total",
    "hearth_documents_refused_total",
    "hearth_control_reachable",
];

/// Kubernetes versions to validate against: the oldest with native sidecars, and the newest known.
const KUBERNETES: &[&str] = &["1.29", "1.35"];

pub(crate) fn deploy() -> PathBuf {
    root().join("deploy")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is in the workspace")
        .to_path_buf()
}

/// Says plainly that something was not checked, and why.
pub(crate) fn not_run(what: &str, reason: &str) {
    // Past the test harness's capture: who reads a green run must see it.
    let _ = writeln!(std::io::stderr(), "NOT RUN: {what}: {reason}");
}

/// Where a tool is, also in the directories that only root's PATH has.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

fn tool_or_say(name: &str, what: &str) -> Option<PathBuf> {
    let found = tool(name);
    if found.is_none() {
        not_run(what, &format!("{name} is not installed"));
    }
    found
}

/// The Python of the environment that `tests/setup` makes: the schema validator and a YAML reader.
fn venv(program: &str, what: &str) -> Option<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let file = target.join("tools/venv/bin").join(program);
    if file.is_file() {
        return Some(file);
    }
    not_run(what, &format!("no {}; tests/setup makes it", file.display()));
    None
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

pub(crate) fn assert_clean(command: &mut Command) -> String {
    let output = run(command);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?} ended with {}:\n{said}", output.status);
    said
}

/// Every document of a YAML file, as JSON.
fn yaml(files: &[PathBuf], what: &str) -> Option<Vec<Value>> {
    const TO_JSON: &str = "import json, sys, yaml
print(json.dumps([doc for name in sys.argv[1:] for doc in yaml.safe_load_all(open(name))]))";
    let python = venv("python", what)?;
    let json = assert_clean(Command::new(python).arg("-c").arg(TO_JSON).args(files));
    Some(serde_json::from_str(&json).expect("python prints JSON"))
}

fn kubernetes_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(deploy().join("kubernetes"))
        .expect("deploy/kubernetes")
        .map(|entry| entry.expect("entry").path())
        .collect();
    files.sort();
    files
}

/// A directory for one test, removed at its end unless it fails.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("hearth-deploy-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("scratch directory");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Writes an executable file. In a child process: a write handle of ours, inherited for a moment by
/// whatever another test is just starting, would make running the file fail with "text file busy".
pub(crate) fn script(path: &Path, content: &str) {
    let mut command = Command::new("install");
    command.args(["-D", "-m", "755", "/dev/stdin"]).arg(path);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("install is in coreutils");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(content.as_bytes()).expect("write script");
    drop(stdin);
    assert!(child.wait().expect("wait").success(), "cannot write {}", path.display());
}

#[test]
fn systemd_finds_nothing_to_say_about_the_units() {
    let Some(analyze) = tool_or_say("systemd-analyze", "systemd units") else { return };
    // A root of its own, with stand-ins for the binaries, since verify looks whether they exist.
    let scratch = Scratch::new("units");
    for binary in ["usr/bin/hearth-agent", "usr/bin/hearth-control", "bin/kill"] {
        script(&scratch.path().join(binary), "#!/bin/sh\n");
    }
    let units = scratch.path().join("usr/lib/systemd/system");
    std::fs::create_dir_all(&units).expect("unit directory");
    let system = ["/usr/lib/systemd/system", "/lib/systemd/system"];
    let Some(system) = system.iter().map(Path::new).find(|path| path.is_dir()) else {
        return not_run("systemd units", "systemd's own units are not here");
    };
    assert_clean(Command::new("cp").arg("-r").arg(system.join(".")).arg(&units));
    for unit in ["hearth-agent.service", "hearth-control.service"] {
        std::fs::copy(deploy().join("systemd").join(unit), units.join(unit)).expect("copy unit");
        let mut verify = Command::new(&analyze);
        verify.args(["verify", "--man=no", "--recursive-errors=one"]);
        verify.arg(format!("--root={}", scratch.path().display())).arg(unit);
        // It exits 0 for an unknown key: clean means silent.
        let said = assert_clean(&mut verify);
        assert_eq!(said, "", "systemd-analyze verify {unit} complains");
    }
}

#[test]
fn systemd_understands_users_and_directories() {
    for (name, file) in
        [("systemd-sysusers", "hearth.sysusers"), ("systemd-tmpfiles", "hearth.tmpfiles")]
    {
        let Some(program) = tool_or_say(name, file) else { continue };
        let scratch = Scratch::new(file);
        let mut command = Command::new(program);
        command.arg(format!("--root={}", scratch.path().display()));
        if name == "systemd-sysusers" {
            command.arg("--dry-run");
        } else {
            let passwd =
                "root:x:0:0::/:/bin/sh\nhearth:x:900:900::/:/x\nhearth-control:x:901:901::/:/x\n";
            let group = "root:x:0:\nhearth:x:900:\nhearth-control:x:901:\n";
            std::fs::create_dir_all(scratch.path().join("etc")).expect("etc");
            std::fs::write(scratch.path().join("etc/passwd"), passwd).expect("passwd");
            std::fs::write(scratch.path().join("etc/group"), group).expect("group");
            if !is_root() {
                not_run(file, "giving directories to users needs root");
                continue;
            }
            command.arg("--create");
        }
        assert_clean(command.arg(deploy().join("systemd").join(file)));
    }
}

pub(crate) fn is_root() -> bool {
    text(&run(Command::new("id").arg("-u")).stdout).trim() == "0"
}

#[test]
fn promtool_accepts_the_alert_rules_and_their_unit_tests_pass() {
    let Some(promtool) = tool_or_say("promtool", "Prometheus rules") else { return };
    let directory = deploy().join("prometheus");
    let at = || {
        let mut command = Command::new(&promtool);
        command.current_dir(&directory);
        command
    };
    assert_clean(at().args(["check", "rules", "rules.yml"]));
    assert_clean(at().args(["test", "rules", "rules_test.yml"]));
    assert_clean(at().args(["check", "config", "prometheus.yml"]));
}

#[test]
fn every_alert_has_a_unit_test() {
    let rules = std::fs::read_to_string(deploy().join("prometheus/rules.yml")).expect("rules.yml");
    let tests = std::fs::read_to_string(deploy().join("prometheus/rules_test.yml"))
        .expect("rules_test.yml");
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let fires = tests.contains(&format!("alertname: {alert}\n"));
        assert!(fires, "{alert} has no test in which it fires (rules_test.yml)");
    }
}

#[test]
fn dashboard_and_alerts_name_only_metrics_that_exist() {
    for file in ["grafana/hearth.json", "prometheus/rules.yml", "prometheus/rules_test.yml"] {
        let content = std::fs::read_to_string(deploy().join(file)).expect(file);
        let unknown: Vec<String> =
            metric_names(&content).into_iter().filter(|name| !is_metric(name)).collect();
        assert!(unknown.is_empty(), "{file} names metrics that nobody exports: {unknown:?}");
    }
}

#[test]
fn the_dashboard_shows_every_metric() {
    let content = std::fs::read_to_string(deploy().join("grafana/hearth.json")).expect("dashboard");
    let dashboard: Value = serde_json::from_str(&content).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let queries = panels.iter().filter(|panel| panel["type"] != "row").map(|panel| {
        let targets = panel["targets"].as_array().filter(|targets| !targets.is_empty());
        assert!(targets.is_some(), "panel {} asks nothing", panel["title"]);
        panel["targets"].to_string()
    });
    let mut shown = metric_names(&queries.collect::<String>());
    shown.extend(metric_names(&dashboard["templating"].to_string()));
    let base = |name: &str| {
        METRICS.iter().find(|metric| name.starts_with(**metric)).map(|name| (*name).to_owned())
    };
    let shown: BTreeSet<String> = shown.iter().filter_map(|name| base(name)).collect();
    let missing: Vec<_> =
        METRICS.iter().filter(|name| !shown.iter().any(|seen| seen.starts_with(**name))).collect();
    assert!(missing.is_empty(), "no panel shows {missing:?}");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "panel ids repeat");
}

#[test]
fn every_query_of_the_dashboard_is_valid() {
    let Some(promtool) = tool_or_say("promtool", "queries of the dashboard") else { return };
    let content = std::fs::read_to_string(deploy().join("grafana/hearth.json")).expect("dashboard");
    let dashboard: Value = serde_json::from_str(&content).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let annotations = dashboard["annotations"]["list"].as_array().expect("annotations").iter();
    // promtool parses queries only inside rules; JSON is YAML too.
    let rules: Vec<Value> = targets
        .chain(annotations)
        .enumerate()
        .map(|(number, target)| {
            let expr = target["expr"].as_str().expect("a query").replace("$__rate_interval", "1m");
            serde_json::json!({ "record": format!("dashboard:{number}"), "expr": expr })
        })
        .collect();
    assert!(rules.len() > 20, "only {} queries", rules.len());
    let rules = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    let scratch = Scratch::new("queries");
    let file = scratch.path().join("queries.yml");
    std::fs::write(&file, rules.to_string()).expect("write rules");
    assert_clean(Command::new(promtool).args(["check", "rules"]).arg(&file));
}

/// Words that look like one of our metrics. Recorded series (`hearth:…`) are not metrics.
fn metric_names(content: &str) -> BTreeSet<String> {
    content
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("hearth_"))
        .map(str::to_owned)
        .collect()
}

fn is_metric(name: &str) -> bool {
    let base = |suffix| name.strip_suffix(suffix).filter(|base| base.ends_with("_seconds"));
    METRICS.contains(&name)
        || ["_bucket", "_sum", "_count"].iter().filter_map(base).any(|base| METRICS.contains(&base))
}

#[test]
fn kubernetes_manifests_match_the_schemas() {
    let Some(validate) = venv("kubernetes-validate", "Kubernetes schemas") else { return };
    for version in KUBERNETES {
        let mut command = Command::new(&validate);
        command
            .args(["--strict", "--quiet", "--kubernetes-version", version])
            .args(kubernetes_files());
        assert_clean(&mut command);
    }
}

#[test]
fn pods_keep_to_the_restricted_standard_and_sidecars_are_native() {
    let Some(documents) = yaml(&kubernetes_files(), "pod security of the manifests") else {
        return;
    };
    let pods: Vec<&Value> =
        documents.iter().filter(|doc| doc["spec"]["template"]["spec"].is_object()).collect();
    assert_eq!(pods.len(), 3, "control plane, sidecar example and node agent");
    let mut sidecars = 0;
    for pod in pods {
        let name = format!("{} {}", pod["kind"], pod["metadata"]["name"]);
        let spec = &pod["spec"]["template"]["spec"];
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        assert!(
            spec["hostNetwork"].is_null() && spec["hostPID"].is_null(),
            "{name} uses the host's namespaces"
        );
        // The node agent keeps its identity on the node: its namespace says so.
        let on_node = pod["kind"] == "DaemonSet";
        for volume in spec["volumes"].as_array().into_iter().flatten() {
            assert!(on_node || volume["hostPath"].is_null(), "{name} mounts {volume}");
        }
        let containers = ["initContainers", "containers"]
            .map(|kind| spec[kind].as_array().cloned().unwrap_or_default());
        for container in containers.iter().flatten() {
            let at = format!("{name}, container {}", container["name"]);
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{at}");
            assert_eq!(context["capabilities"]["drop"][0], "ALL", "{at}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{at}");
            assert!(
                container["resources"]["limits"]["memory"].is_string(),
                "{at} has no memory limit"
            );
            let non_root =
                [context, &spec["securityContext"]].map(|place| place["runAsNonRoot"] == true);
            assert!(
                non_root.contains(&true) || container["name"] == "own-state",
                "{at} may run as root"
            );
            if container["restartPolicy"] == "Always" {
                sidecars += 1;
                assert!(
                    container["startupProbe"].is_object(),
                    "{at}: the application would not wait for it"
                );
                assert!(
                    container["lifecycle"].is_null(),
                    "{at}: draining is SIGTERM's, not a preStop hook's"
                );
            }
        }
    }
    assert_eq!(sidecars, 1, "the agent is a native sidecar");
}

#[test]
fn the_agent_accepts_every_configuration_we_ship() {
    let env = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let skeleton = std::fs::read_to_string(deploy().join("agent.example.toml")).expect("skeleton");
    let skeleton = skeleton.replace("@NAME@", "web-1");
    let mut configs = vec![("agent.example.toml".to_owned(), skeleton)];
    for document in
        yaml(&kubernetes_files(), "agent configurations in the manifests").unwrap_or_default()
    {
        if let Some(config) = document["data"]["agent.toml"].as_str() {
            configs
                .push((format!("kubernetes, {}", document["metadata"]["name"]), config.to_owned()));
        }
    }
    // What is a placeholder in the file is always set by the host or the pod.
    let address = env(&[("HEARTH_MESH_ADVERTISE", "192.0.2.1:7940")]);
    for (name, config) in configs {
        let parsed = hearth_agent::config::Config::parse(&name, &config, address.clone());
        assert!(
            parsed.is_ok(),
            "{}",
            parsed.err().map(|error| error.to_string()).unwrap_or_default()
        );
    }
}

#[test]
fn the_collector_pipelines_name_only_what_is_configured() {
    let Some(documents) =
        yaml(&[deploy().join("otel/collector.yaml")], "OpenTelemetry Collector config")
    else {
        return;
    };
    let config = &documents[0];
    let pipelines = config["service"]["pipelines"].as_object().expect("pipelines");
    for (name, pipeline) in pipelines {
        for kind in ["receivers", "processors", "exporters"] {
            for part in pipeline[kind].as_array().expect("a list of parts") {
                let part = part.as_str().expect("a name");
                assert!(
                    !config[kind][part].is_null(),
                    "pipeline {name} names {kind} {part}, which is not configured"
                );
            }
        }
    }
    let Some(collector) = tool_or_say("otelcol-contrib", "otelcol-contrib validate") else {
        return;
    };
    assert_clean(
        Command::new(collector)
            .arg("validate")
            .arg("--config")
            .arg(deploy().join("otel/collector.yaml")),
    );
}

#[test]
fn the_log_shippers_accept_their_configuration() {
    let configs =
        [("fluent-bit", "fluent-bit/fluent-bit.conf"), ("fluentd", "fluentd/fluent.conf")];
    for (program, file) in configs {
        let Some(program) = tool_or_say(program, &format!("deploy/{file}")) else { continue };
        assert_clean(Command::new(program).arg("--dry-run").arg("-c").arg(deploy().join(file)));
    }
}

#[test]
fn scripts_are_sound() {
    for file in ["deploy/install", "tests/setup"] {
        assert_clean(Command::new("sh").arg("-n").arg(root().join(file)));
        if let Some(shellcheck) = tool_or_say("shellcheck", &format!("lint of {file}")) {
            assert_clean(Command::new(shellcheck).arg(root().join(file)));
        }
    }
}
