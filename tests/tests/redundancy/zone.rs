//! A zone is lost, and with it everything that was near.

use std::time::Duration;

use hearth_proto::balance::FULL_WEIGHT;
use hearth_proto::view::ExplainView;
use hearth_tests::lab::Host;
use hearth_tests::lab::entry::in_lab;
use hearth_tests::lab::mesh::{Mesh, MeshSpec, Node};
use hearth_tests::load::{LoadSpec, PhaseReport};
use hearth_tests::strike::{FAILBACK, Run};

use super::left;

const POLICY: &str = "[services.ledger]\nmode = \"hot-hot\"\nlocality = \"zone\"\nramp = \"3s\"\n";
/// Hosts in each of two zones.
const SIX: usize = 6;
/// "Nearly all" of the requests. On a busy machine two of six may be slow enough to be put on trial; by the
/// rule of the tiers 4 / 6 × 1.4 = 93 % stay then.
const NEARLY_ALL: f64 = 0.9;

/// Which part of the answers came from these.
#[allow(clippy::cast_precision_loss)]
fn share(phase: &PhaseReport, nodes: &[Node]) -> f64 {
    let of = |node: &Node| phase.served.get(node.host.name()).copied().unwrap_or_default();
    let here: usize = nodes.iter().map(of).sum();
    here as f64 / phase.served.values().sum::<usize>().max(1) as f64
}

/// Nobody is only just beginning to serve, or on trial.
fn in_full(view: &ExplainView) -> bool {
    view.endpoints
        .iter()
        .all(|e| e.standing == "ready" && e.reason.is_empty() && e.weight == FULL_WEIGHT)
}

#[test]
fn a_zone_that_is_lost_whole_costs_nobody_a_request_and_serves_its_callers_again_when_it_is_well() {
    in_lab(|lab| {
        let spec = MeshSpec {
            hot: 2 * SIX,
            warm: 0,
            zones: 2,
            policy: POLICY.to_owned(),
            ..MeshSpec::default()
        };
        let run = Run::under(Mesh::start(lab, &spec).unwrap(), LoadSpec::new(Mesh::entry()));
        let (near, far) = run.mesh.hot.split_at(SIX);
        let stays_near = |when: &str| {
            run.mesh.wait_view("all to take their full share", FAILBACK, in_full).unwrap();
            let mark = run.load.mark();
            run.sent_more(1000);
            let phase = run.load.since(mark);
            let part = share(&phase, near);
            println!("{when}: {:.1} % stay in the zone", part * 100.0);
            assert!(part >= NEARLY_ALL, "{when}: {:?}", phase.served);
        };
        stays_near("before");

        let hole = |_: &Mesh| {
            let lost: Vec<&Host> = near.iter().map(|node| &*node.host).collect();
            Host::black_holes(&lost).unwrap();
        };
        let (phase, view) = run.strike("zone black-holed", hole, |mesh| left(mesh, near));
        assert_eq!(view.route.picks.len(), SIX, "{:?}", view.route);
        println!("meanwhile: {:.1} % by the other zone", share(&phase, far) * 100.0);
        let mark = run.load.mark();
        run.sent_more(1000);
        let samples = run.load.samples();
        let mut after = samples.iter().filter(|s| s.scheduled >= mark);
        let there = |name: &str| far.iter().any(|node| node.host.name() == name);
        assert!(after.all(|s| s.error.is_none() && there(&s.served_by)), "none by who is lost");

        let heal = |_: &Mesh| near.iter().for_each(|node| node.host.heal().unwrap());
        run.strike("zone healed", heal, |mesh| mesh.steady(FAILBACK).unwrap());
        stays_near("after");
        assert_eq!(run.load.since(Duration::ZERO).failed, 0, "from beginning to end");
    });
}
