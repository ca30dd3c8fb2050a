//! Every host that serves is lost, one after the other.

use hearth_tests::lab::entry::in_lab;
use hearth_tests::lab::mesh::{Mesh, MeshSpec, sketch};
use hearth_tests::strike::{FAILBACK, Run, SOON};

use super::left;

#[test]
fn every_hot_host_killed_and_started_again_in_turn_costs_nobody_a_request() {
    in_lab(|lab| {
        let run = Run::start(lab, &MeshSpec::default());
        for (n, node) in run.mesh.hot.iter().enumerate() {
            let name = node.host.name();
            let kill = |_: &Mesh| node.host.kill_all().unwrap();
            let replaced = |mesh: &Mesh| {
                left(mesh, std::slice::from_ref(node));
                mesh.wait_warm(1, SOON).unwrap()
            };
            let (_, view) = run.strike(&format!("{name} killed"), kill, replaced);
            assert_eq!(view.route.picks.len(), run.mesh.hot.len(), "{}", sketch(&view));

            let back = |_: &Mesh| {
                node.app().restart().unwrap();
                node.agent.restart().unwrap();
            };
            let steady = |mesh: &Mesh| mesh.steady(FAILBACK).unwrap();
            run.strike(&format!("{name} back"), back, steady);
            println!("{} of {} hosts were lost and are back", n + 1, run.mesh.hot.len());
        }
    });
}
