//! Sessions whose endpoint is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_tests::lab::entry::in_lab;
use hearth_tests::lab::mesh::{Mesh, MeshSpec};
use hearth_tests::lab::wait::wait_for;
use hearth_tests::load::{LoadSpec, Sample, Sessions};
use hearth_tests::strike::{FAILBACK, Run, SOON};

use super::left;

/// Nobody is called up: whoever joins takes its part of all sessions, by the rule of the highest weight. No
/// hedging: it would ask a second endpoint for a request, without moving its session.
const POLICY: &str = "[services.ledger]\nmode = \"hot-hot\"\nhedge = \"off\"\nramp = \"3s\"\n\
                      affinity = { cookie = \"sid\" }\n";
/// So few a second that a stall of a busy machine fills no endpoint.
const RATE: u32 = 200;
const SESSIONS: u32 = 60;

fn sessions() -> Sessions {
    Sessions { field: "cookie".into(), value: "theme=dark; sid=user-{s}".into(), count: SESSIONS }
}

/// Who answered each session, in order, each as often as it took over.
fn paths(samples: &[Sample], from: Duration) -> BTreeMap<u32, Vec<String>> {
    let mut all: Vec<&Sample> = samples.iter().filter(|s| s.scheduled >= from).collect();
    all.sort_by_key(|s| s.number);
    let mut paths: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for sample in all {
        assert_eq!(sample.error, None, "{sample:?}");
        let path = paths.entry(sessions().of(sample.number)).or_default();
        if path.last() != Some(&sample.served_by) {
            path.push(sample.served_by.clone());
        }
    }
    paths
}

#[test]
fn sessions_of_a_lost_endpoint_move_once_and_no_other_moves() {
    in_lab(|lab| {
        let spec = MeshSpec { hot: 4, warm: 0, policy: POLICY.to_owned(), ..MeshSpec::default() };
        let load =
            LoadSpec { rate: RATE, sessions: Some(sessions()), ..LoadSpec::new(Mesh::entry()) };
        let run = Run::under(Mesh::start(lab, &spec).unwrap(), load);
        let lost = run.mesh.hot[0].host.name().to_owned();
        let lately = || {
            let from = run.load.mark().saturating_sub(Duration::from_secs(2));
            paths(&run.load.samples(), from)
        };
        // Whoever has only just begun to serve is not full yet.
        let home = wait_for("every session to be at home", SOON, || match lately() {
            all if all.values().all(|path| path.len() == 1) => Ok(all),
            all => Err(format!("{all:?}")),
        })
        .unwrap();
        let start = run.load.mark();
        run.sent_more(1000);
        assert_eq!(home.len(), SESSIONS as usize);
        assert_eq!(paths(&run.load.samples(), start), home, "each stays at home");
        let homeless = home.values().filter(|path| path[0] == lost).count();
        assert!(homeless > 0, "{lost} has none: {home:?}");

        let hole = |mesh: &Mesh| mesh.hot[0].host.black_hole().unwrap();
        run.strike("host black-holed", hole, |mesh| left(mesh, &mesh.hot[..1]));
        run.sent_more(1000);
        let after = paths(&run.load.samples(), start);
        for (session, path) in &after {
            let stays = home[session][0] != lost;
            let moves = if stays { 1 } else { 2 };
            assert_eq!(path.len(), moves, "session {session}, at home at {:?}", home[session]);
        }
        println!("{homeless} of {SESSIONS} sessions moved, each once");

        let heal = |mesh: &Mesh| mesh.hot[0].host.heal().unwrap();
        run.strike("healed", heal, |mesh| mesh.steady(FAILBACK).unwrap());
        wait_for("every session to be at home again", SOON, || {
            let away = |(s, path): &(u32, Vec<String>)| *path != home[s];
            let away: Vec<_> = lately().into_iter().filter(away).collect();
            if away.is_empty() { Ok(()) } else { Err(format!("{away:?}")) }
        })
        .unwrap();
    });
}
