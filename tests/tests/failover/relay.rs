//! A path that is bad for one caller alone: whoever else reaches the host carries for it.

use hearth_tests::lab::entry::in_lab;
use hearth_tests::lab::mesh::{Mesh, MeshSpec, active_warm, sketch};

use super::{Run, SOON, condition};

/// The number in front of which `name` stands on a metrics page.
fn metric(page: &str, name: &str) -> u64 {
    let line = page.lines().find(|l| l.starts_with(name) && l[name.len()..].starts_with(' '));
    line.and_then(|l| l.split(' ').nth(1)?.parse().ok()).unwrap_or_default()
}

#[test]
fn a_caller_that_alone_has_lost_its_path_goes_through_a_third_agent_and_nobody_is_called_up() {
    in_lab(|lab| {
        let spec = MeshSpec { hot: 1, warm: 1, ..MeshSpec::default() };
        let run = Run::start(lab, &spec);
        let (hot, warm) = (run.mesh.hot[0].endpoint(), run.mesh.warm[0].endpoint());
        let cut = |mesh: &Mesh| mesh.caller.host.cut_from(&mesh.hot[0].host).unwrap();
        let relayed = |mesh: &Mesh| {
            mesh.wait_view("requests through a relay", SOON, |v| v.route.decision == "relay")
                .unwrap()
        };
        let (_, view) = run.strike("the caller's own path cut", cut, relayed);
        assert_eq!(view.route.picks, std::slice::from_ref(&hot), "{}", sketch(&view));
        assert!(view.route.reason.contains("through warm-1"), "{}", view.route.reason);
        assert_eq!(condition(&view, &warm), "standby", "{}", sketch(&view));
        let page = run.mesh.warm[0].agent.metrics().unwrap();
        assert!(metric(&page, "hearth_relay_streams_carried_total") >= 1, "{page}");
        let links = run.mesh.caller.agent.status().unwrap().links;
        let vias: Vec<_> = links.iter().filter_map(|l| l.via.as_ref()).collect();
        assert_eq!(vias.len(), 1, "{links:?}");

        let heal = |mesh: &Mesh| mesh.caller.host.heal().unwrap();
        let direct = |mesh: &Mesh| {
            mesh.wait_view("requests on the direct path", SOON, |v| {
                let said = v.endpoints.iter().find(|e| e.endpoint == hot);
                v.route.decision == "serve" && said.is_some_and(|e| e.reason.is_empty())
            })
            .unwrap()
        };
        let (_, view) = run.strike("its path healed", heal, direct);
        assert!(active_warm(&view).is_empty(), "{}", sketch(&view));
        let incident = run.mesh.incident(&run.mesh.hot[0], SOON).unwrap();
        assert!(incident.activated.is_none(), "{incident:?}");
    });
}
