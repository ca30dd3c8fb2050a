//! Nothing runs on the bench: the service has to be started before anybody is answered.

use std::time::Duration;

use hearth_proto::view::ExplainView;
use hearth_tests::lab::Host;
use hearth_tests::lab::entry::in_lab;
use hearth_tests::lab::hooked::{started, stopped};
use hearth_tests::lab::mesh::{Mesh, MeshSpec, Node, active_warm};
use hearth_tests::lab::wait::wait_for;
use hearth_tests::lab::web;
use hearth_tests::load::LoadSpec;
use hearth_tests::strike::{FAILBACK, Run, SOON};

/// A client that waits as long as its agent holds a request.
const PATIENT: Duration = Duration::from_secs(15);

/// How often the hooks of a host have run: those that start, those that stop.
fn runs(node: &Node) -> (usize, usize) {
    (started(&node.host).len(), stopped(&node.host).len())
}

/// Waits until no application listens on a bench that stands by.
fn nothing_runs(mesh: &Mesh) {
    wait_for("the applications of the bench to be gone", SOON, || {
        let asked = mesh.warm.iter().map(|node| web::ask(&node.host, "GET", "/healthz"));
        let answers: Vec<_> = asked.filter(Result::is_ok).collect();
        if answers.is_empty() { Ok(()) } else { Err(format!("{answers:?}")) }
    })
    .unwrap();
}

#[test]
fn callers_wait_for_a_service_that_its_hook_starts_once_for_each_call_up_and_none_fails() {
    in_lab(|lab| {
        let spec = MeshSpec { hot: 2, warm: 2, hooked: true, ..MeshSpec::default() };
        let load = LoadSpec { deadline: PATIENT, ..LoadSpec::new(Mesh::entry()) };
        let run = Run::under(Mesh::start(lab, &spec).unwrap(), load);
        // An agent's start stops whatever is not called, and whoever was called up while the mesh came together is
        // on record too.
        wait_for("the bench to have been stopped once", SOON, || {
            let runs: Vec<_> = run.mesh.warm.iter().map(runs).collect();
            if runs.iter().all(|(_, stops)| *stops > 0) { Ok(()) } else { Err(format!("{runs:?}")) }
        })
        .unwrap();
        let before: Vec<_> = run.mesh.warm.iter().map(runs).collect();
        for round in 1..=2 {
            nothing_runs(&run.mesh);
            let hole = |mesh: &Mesh| {
                let lost: Vec<&Host> = mesh.hot.iter().map(|node| &*node.host).collect();
                Host::black_holes(&lost).unwrap();
            };
            let both = |mesh: &Mesh| {
                let alone = |v: &ExplainView| active_warm(v).len() == 2 && v.route.picks.len() == 2;
                mesh.wait_view("both warm to serve alone", SOON, alone).unwrap()
            };
            let (phase, _) = run.strike(&format!("all hot lost, round {round}"), hole, both);
            for (node, (starts, stops)) in run.mesh.warm.iter().zip(&before) {
                assert!(phase.served.contains_key(node.host.name()), "{phase:?}");
                let so_far = (starts + round, stops + round - 1);
                assert_eq!(runs(node), so_far, "{:?}", started(&node.host));
            }

            let heal = |mesh: &Mesh| mesh.hot.iter().for_each(|node| node.host.heal().unwrap());
            run.strike("healed", heal, |mesh| mesh.steady(FAILBACK).unwrap());
            for (node, (starts, stops)) in run.mesh.warm.iter().zip(&before) {
                let all = (starts + round, stops + round);
                wait_for("the hook that stops it", SOON, || match runs(node) {
                    seen if seen == all => Ok(()),
                    seen => Err(format!("{seen:?} of {all:?}")),
                })
                .unwrap();
            }
        }
        nothing_runs(&run.mesh);
    });
}
