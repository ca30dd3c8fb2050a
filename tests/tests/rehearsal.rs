//! Drills, recordings and bundles on real processes: what a drill reports is what its clients felt, it is
//! over in time whoever is killed, a recorded incident replays to the same decisions, and nothing that is
//! handed out holds a secret.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use hearth_proto::view::{DrillReport, DrillView};
use hearth_tests::lab::binaries::ours;
use hearth_tests::lab::entry::in_lab;
use hearth_tests::lab::mesh::{Mesh, MeshSpec, SERVICE};
use hearth_tests::lab::process::Program;
use hearth_tests::lab::wait::wait_for;
use hearth_tests::load::Load;

const SOON: Duration = Duration::from_secs(30);
const FAILBACK: Duration = Duration::from_secs(60);

/// A mesh under load that serves.
fn busy(mesh: &Mesh) -> Load {
    let load = mesh.load().unwrap();
    wait_for("requests", SOON, || match load.samples().len() {
        0..500 => Err(load.samples().len().to_string()),
        _ => Ok(()),
    })
    .unwrap();
    load
}

fn drills(mesh: &Mesh) -> Vec<DrillView> {
    mesh.caller.agent.get("/v1/drills").unwrap()
}

/// Nodes on which a drill runs.
fn drilling(mesh: &Mesh) -> Vec<String> {
    let runs = |drills: Vec<DrillView>| drills.iter().any(|d| d.running);
    mesh.nodes()
        .filter(|node| node.agent.get("/v1/drills").map(runs).unwrap_or(true))
        .map(|node| node.agent.host().name().to_owned())
        .collect()
}

#[test]
fn a_drills_report_is_what_its_clients_felt() {
    in_lab(|lab| {
        let mesh = Mesh::start(lab, &MeshSpec::default()).unwrap();
        let load = busy(&mesh);
        let victim = mesh.hot[0].agent.host().name().to_owned();
        let mark = load.mark();
        let out = mesh
            .caller
            .agent
            .hearth(&["drill", SERVICE, "--lose", &victim, "--for", "8s", "-o", "json"])
            .unwrap()
            .success()
            .unwrap();
        let report: DrillReport = serde_json::from_str(&out).unwrap();
        let felt = load.since(mark);
        println!("{report:#?}\n{felt:?}");
        assert!(report.over, "{report:?}");
        assert_eq!((felt.failed, report.failed), (0, 0), "{report:?}");
        // The report counts what ended while the drill ran, the client what it sent until the program ended.
        assert!(report.requests > 0 && report.requests <= felt.sent as u64, "{report:?}");
        // The warm endpoint was called up and served, and the clients saw it.
        let warm = mesh.warm[0].endpoint();
        let views: Vec<&DrillView> = report.hosts.iter().filter_map(|h| h.view.as_ref()).collect();
        assert_eq!(views.len(), mesh.nodes().count(), "everybody took part: {report:?}");
        let caller = views.iter().find(|v| v.part.requests > 0).expect("one agent carries traffic");
        assert_eq!(caller.part.called, std::slice::from_ref(&warm));
        assert!(caller.part.shifted.is_some() && caller.part.activated.is_some(), "{caller:?}");
        let by_warm = felt.served.get(mesh.warm[0].agent.host().name());
        assert!(by_warm.is_some_and(|n| *n > 0), "{:?}", felt.served);
        // An independent record of the shift: while the drill ran, nothing was answered by its victim but
        // what was under way when it began.
        let samples = load.samples();
        let detected = caller.part.detected.unwrap().0.saturating_sub(report.drill.started.0);
        let detected = Duration::from_micros(detected) + Duration::from_millis(500);
        let during = samples.iter().filter(|s| {
            s.scheduled > mark + detected && s.scheduled < mark + Duration::from_secs(7)
        });
        let wrong: Vec<_> = during.filter(|s| s.served_by == victim).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        mesh.steady(FAILBACK).unwrap();
    });
}

#[test]
fn a_drill_is_over_in_time_though_the_command_line_and_the_control_plane_are_killed() {
    in_lab(|lab| {
        let mesh = Mesh::start(lab, &MeshSpec::default()).unwrap();
        let load = busy(&mesh);
        let mark = load.mark();
        let caller = &mesh.caller.agent;
        let victim = mesh.hot[0].agent.host().name().to_owned();
        let socket = caller.socket().display().to_string();
        let program = Program::new("hearth", ours("hearth").unwrap())
            .args(["--socket", &socket, "drill", SERVICE, "--lose", &victim, "--for", "10s"]);
        let cli = caller.host().spawn(&program).unwrap();
        wait_for("the drill on every agent", SOON, || match drilling(&mesh) {
            on if on.len() == mesh.nodes().count() => Ok(()),
            on => Err(format!("{on:?}")),
        })
        .unwrap();
        cli.kill().unwrap();
        mesh.control.kill().unwrap();
        let began = std::time::Instant::now();
        wait_for("the drill to be over everywhere", Duration::from_secs(15), || {
            match drilling(&mesh) {
                on if on.is_empty() => Ok(()),
                on => Err(format!("{on:?}")),
            }
        })
        .unwrap();
        println!("over {:?} after the kills", began.elapsed());
        let over = drills(&mesh);
        assert_eq!(over[0].why_over.as_deref(), Some("its time is over"));
        wait_for("requests at the victim again", SOON, || {
            let lately = load.lately(Duration::from_secs(1));
            lately.served.get(&victim).map(|_| ()).ok_or(format!("{lately:?}"))
        })
        .unwrap();
        assert_eq!(load.since(mark).failed, 0);
    });
}

#[test]
fn a_recorded_incident_replays_and_its_bundle_holds_no_secret() {
    in_lab(|lab| {
        let mesh = Mesh::start(lab, &MeshSpec::default()).unwrap();
        let load = busy(&mesh);
        mesh.hot[0].agent.host().kill_all().unwrap();
        mesh.wait_warm(1, SOON).unwrap();
        let caller = &mesh.caller.agent;
        let incident = mesh.incident(&mesh.hot[0], SOON).unwrap();
        drop(load);
        // Its own restart: the incident is still there.
        caller.process().kill().unwrap();
        caller.restart().unwrap();
        let listed = caller.hearth(&["incidents", "-o", "json"]).unwrap().success().unwrap();
        assert!(listed.contains(&incident.id), "{listed}");
        let across = caller.hearth(&["incident", &incident.id]).unwrap().success().unwrap();
        println!("{across}");
        assert!(across.contains(mesh.warm[0].agent.host().name()), "{across}");

        let file = caller.host().dir().join("bundle.tar.gz");
        let path = file.display().to_string();
        caller.hearth(&["debug", "bundle", "--out", &path]).unwrap().success().unwrap();
        let replayed = caller.hearth(&["replay", &path]).unwrap().success().unwrap();
        println!("{}", replayed.lines().rev().take(4).collect::<Vec<_>>().join("\n"));
        assert!(replayed.contains("identical: the replay decided what was recorded"), "{replayed}");
        assert!(replayed.contains(&format!("incident {} of", incident.id)), "{replayed}");
        no_secrets(&std::fs::read(&file).unwrap(), caller.host().dir());
    });
}

/// Unpacks a bundle and looks for every private thing of the host in every encoding it may have.
fn no_secrets(bundle: &[u8], host: &Path) {
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bundle), &mut plain).unwrap();
    let holds = |needle: &[u8]| plain.windows(needle.len()).any(|window| window == needle);
    assert!(holds(b"versions.json"), "this is the bundle");
    for mark in ["PRIVATE KEY", "hearth1.", "hearthop1."] {
        assert!(!holds(mark.as_bytes()), "{mark}");
    }
    let mut keys = 0;
    for file in identity_files(host) {
        let text = std::fs::read_to_string(&file).unwrap();
        for pem in text.split("-----BEGIN PRIVATE KEY-----").skip(1) {
            let body: String = pem.split("-----END").next().unwrap().split_whitespace().collect();
            let der = STANDARD.decode(&body).unwrap();
            keys += 1;
            let at = private_part(&der);
            let secret = &der[at..at + 32];
            assert!(!holds(secret), "the raw key of {}", file.display());
            let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
            assert!(!holds(hex.as_bytes()), "{} in hex", file.display());
            // Those of its characters that are of the private part alone.
            let within = at.div_ceil(3) * 4;
            for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
                let text = engine.encode(&der);
                let text = &text.as_bytes()[within..within + 24];
                assert!(!holds(text), "{} in base64", file.display());
            }
            assert!(!holds(body.as_bytes()), "{} in PEM", file.display());
        }
    }
    assert!(keys > 0, "no private key was found under {}", host.display());
}

/// Where the 32 private bytes of a key begin: of an elliptic curve (RFC 5915, section 3), or an Ed25519 seed
/// (RFC 8410, section 7). What follows them may be the public key, which is no secret.
fn private_part(der: &[u8]) -> usize {
    let marks: [&[u8]; 2] = [&[0x02, 0x01, 0x01, 0x04, 0x20], &[0x04, 0x22, 0x04, 0x20]];
    let found = marks.iter().find_map(|mark| {
        let at = der.windows(mark.len()).position(|window| window == *mark)?;
        Some(at + mark.len())
    });
    found.expect("a kind of key that this test knows")
}

fn identity_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(identity_files(&path));
        } else if path.extension().is_some_and(|e| e == "pem") {
            files.push(path);
        }
    }
    files
}
