//! The mesh under each fault, on real processes: what the caller feels, who is called up, and that
//! the control plane is not needed for any of it.
//!
//! Every test: three hot hosts, two warm ones, 500 GETs a second through the caller's agent, one
//! fault. No GET may fail. Figures are printed (`--nocapture`) and bound nothing here: a busy machine
//! must not turn a test red; how fast it is, the benches say.

#[path = "failover/posts.rs"]
mod posts;
#[path = "failover/relay.rs"]
mod relay;

use std::time::{Duration, Instant};

use hearth_proto::view::ExplainView;
use hearth_tests::lab::entry::in_lab;
use hearth_tests::lab::mesh::{Mesh, MeshSpec, POLICY, SERVICE, active_warm, sketch};
use hearth_tests::lab::wait::wait_for;
use hearth_tests::lab::web::Kind;
use hearth_tests::load::{Load, LoadSpec};
use hearth_tests::otlp::Span;
use hearth_tests::strike::{FAILBACK, Run, SOON};
use hyper::Method;

/// The one warm endpoint that comes first was called up, and no other.
fn first_warm(mesh: &Mesh) -> ExplainView {
    let view = mesh.wait_warm(1, SOON).unwrap();
    assert_eq!(active_warm(&view), [mesh.warm[0].endpoint()], "{}", sketch(&view));
    view
}

fn condition(view: &ExplainView, endpoint: &str) -> String {
    let found = view.endpoints.iter().find(|e| e.endpoint == endpoint);
    found.map(|e| e.condition.clone()).unwrap_or_default()
}

#[test]
fn a_killed_application_costs_nobody_a_request_and_comes_back() {
    in_lab(|lab| {
        let run = Run::start(lab, &MeshSpec::default());
        let kill = |mesh: &Mesh| mesh.hot[0].app().process().kill().unwrap();
        let (_, view) = run.strike("application killed", kill, first_warm);
        assert!(!view.route.picks.contains(&run.mesh.hot[0].endpoint()), "{:?}", view.route);
        assert_eq!(condition(&view, &run.mesh.warm[1].endpoint()), "standby");
        let said = view.sentences.join(" ");
        assert!(said.contains("hot-1") && said.contains("warm-1"), "{said}");

        let back = |mesh: &Mesh| mesh.hot[0].app().restart().unwrap();
        run.strike("application back", back, |mesh| mesh.steady(FAILBACK).unwrap());
        // The deactivation hook was called: the application itself sleeps again.
        wait_for("the deactivated application", SOON, || {
            match run.mesh.warm[0].app().ask("GET", "/healthz") {
                Ok((503, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .unwrap();
    });
}

#[test]
fn a_hanging_application_costs_nobody_a_request() {
    in_lab(|lab| {
        let run = Run::start(lab, &MeshSpec::default());
        let stop = |mesh: &Mesh| mesh.hot[0].app().process().stop().unwrap();
        run.strike("application hangs", stop, first_warm);
        let cont = |mesh: &Mesh| mesh.hot[0].app().process().cont().unwrap();
        run.strike("application goes on", cont, |mesh| mesh.steady(FAILBACK).unwrap());
    });
}

#[test]
fn a_gray_application_is_left_soon_and_used_again_when_it_is_well() {
    in_lab(|lab| {
        let spec = MeshSpec { kind: Kind::App, ..MeshSpec::default() };
        let run = Run::start(lab, &spec);
        let sick = run.mesh.hot[0].endpoint();
        let standing = |view: &ExplainView| -> (String, String) {
            let e = view.endpoints.iter().find(|e| e.endpoint == sick).unwrap();
            (e.standing.clone(), e.reason.clone())
        };
        // Errors, then answers twenty times slower than the quick ones of this application.
        for gray in ["/gray?errors=40", "/gray?ms=40"] {
            let began = Instant::now();
            run.mesh.hot[0].app().ask("POST", gray).unwrap();
            let out = |view: &ExplainView| standing(view).0 == "out";
            let view = run.mesh.wait_view("the gray one to be out", SOON, out).unwrap();
            println!("{gray}: out after {:?}: {}", began.elapsed(), standing(&view).1);
            assert!(!view.route.picks.contains(&sick), "{:?}", view.route);
            assert_eq!(view.route.picks.len(), 2, "never more than its share: {:?}", view.route);
            assert!(active_warm(&view).is_empty(), "nobody is called up: {}", sketch(&view));
            run.mesh.hot[0].app().ask("POST", "/gray").unwrap();
            let began = Instant::now();
            // In full: a reason stands beside whoever is on trial.
            let well = |view: &ExplainView| standing(view) == ("ready".into(), String::new());
            run.mesh.wait_view("it to be used in full again", FAILBACK, well).unwrap();
            println!("{gray}: back {:?} after its recovery", began.elapsed());
        }
        let mark = run.load.mark();
        run.sent_more(500);
        assert_eq!(run.load.since(mark).failed, 0);
    });
}

#[test]
fn a_killed_agent_costs_nobody_a_request_and_returns_from_disk() {
    in_lab(|lab| {
        let run = Run::start(lab, &MeshSpec::default());
        let kill = |mesh: &Mesh| mesh.hot[0].agent.process().kill().unwrap();
        run.strike("agent killed", kill, first_warm);
        let back = |mesh: &Mesh| mesh.hot[0].agent.restart().unwrap();
        run.strike("agent back", back, |mesh| mesh.steady(FAILBACK).unwrap());
    });
}

#[test]
fn a_frozen_agent_costs_nobody_a_request() {
    in_lab(|lab| {
        let run = Run::start(lab, &MeshSpec::default());
        let stop = |mesh: &Mesh| mesh.hot[0].agent.process().stop().unwrap();
        run.strike("agent frozen", stop, first_warm);
        let cont = |mesh: &Mesh| mesh.hot[0].agent.process().cont().unwrap();
        run.strike("agent goes on", cont, |mesh| mesh.steady(FAILBACK).unwrap());
    });
}

#[test]
fn a_black_holed_host_costs_nobody_a_request_and_a_second_loss_calls_up_one_more() {
    in_lab(|lab| {
        let run = Run::start(lab, &MeshSpec::default());
        let hole = |mesh: &Mesh| mesh.hot[0].host.black_hole().unwrap();
        let (_, view) = run.strike("host black-holed", hole, first_warm);
        assert_eq!(condition(&view, &run.mesh.warm[1].endpoint()), "standby");

        let second = |mesh: &Mesh| mesh.hot[1].host.black_hole().unwrap();
        let both = |mesh: &Mesh| mesh.wait_warm(2, SOON).unwrap();
        run.strike("second host black-holed", second, both);

        let heal = |mesh: &Mesh| mesh.hot.iter().for_each(|node| node.host.heal().unwrap());
        run.strike("healed", heal, |mesh| mesh.steady(FAILBACK).unwrap());
    });
}

#[test]
fn all_hot_hosts_black_holed_at_once_cost_nobody_a_request() {
    in_lab(|lab| {
        let run = Run::start(lab, &MeshSpec::default());
        let hole = |mesh: &Mesh| mesh.hot.iter().for_each(|node| node.host.black_hole().unwrap());
        let both = |mesh: &Mesh| {
            mesh.wait_view("both warm to serve alone", SOON, |view| {
                active_warm(view).len() == 2 && view.route.picks.len() == 2
            })
            .unwrap()
        };
        let (phase, _) = run.strike("all hot black-holed", hole, both);
        let warm: Vec<&str> = run.mesh.warm.iter().map(|node| node.host.name()).collect();
        assert!(warm.iter().all(|&name| phase.served.contains_key(name)), "{phase:?}");
        let heal = |mesh: &Mesh| mesh.hot.iter().for_each(|node| node.host.heal().unwrap());
        run.strike("healed", heal, |mesh| mesh.steady(FAILBACK).unwrap());
    });
}

#[test]
fn a_failover_needs_no_control_plane_and_neither_does_an_agent_that_restarts_meanwhile() {
    in_lab(|lab| {
        let run = Run::start(lab, &MeshSpec::default());
        let kill = |mesh: &Mesh| mesh.control.kill().unwrap();
        run.strike("control plane killed", kill, |mesh| mesh.steady(SOON).unwrap());

        let hole = |mesh: &Mesh| mesh.hot[0].host.black_hole().unwrap();
        run.strike("host black-holed, no control plane", hole, first_warm);

        // Two agents die and come back from their disks: one that serves, one that stands by.
        let generation = |mesh: &Mesh| mesh.hot[1].agent.status().unwrap().generation;
        let before = generation(&run.mesh);
        let policy = run.mesh.caller.agent.status().unwrap().policy_version;
        let restart = |mesh: &Mesh| {
            for node in [&mesh.hot[1], &mesh.warm[1]] {
                node.agent.process().kill().unwrap();
                node.agent.restart().unwrap();
            }
        };
        let rejoined = |mesh: &Mesh| {
            let endpoint = mesh.hot[1].endpoint();
            mesh.wait_view("the restarted agent to serve again", FAILBACK, |view| {
                view.route.picks.contains(&endpoint) && active_warm(view).len() == 1
            })
            .unwrap()
        };
        run.strike("agents restarted from disk, no control plane", restart, rejoined);
        assert!(generation(&run.mesh) > before);
        let status = run.mesh.hot[1].agent.status().unwrap();
        assert_eq!(status.policy_version, policy, "policy comes from disk");

        let heal = |mesh: &Mesh| mesh.hot[0].host.heal().unwrap();
        run.strike("healed, no control plane", heal, |mesh| mesh.steady(FAILBACK).unwrap());
        let control = run.mesh.control.process().unwrap();
        assert!(!control.running(), "the control plane was dead all the time");
    });
}

#[test]
fn a_policy_changed_after_the_control_plane_was_restarted_is_in_force_everywhere() {
    in_lab(|lab| {
        let run = Run::start(lab, &MeshSpec::default());
        run.mesh.control.kill().unwrap();
        run.mesh.control.serve().unwrap();
        let one_is_enough = POLICY.to_owned() + "min_hot = \"1\"\n";
        let version = run.mesh.apply(&one_is_enough).unwrap();
        let view = run.mesh.explain().unwrap();
        assert_eq!((view.policy_version, view.route.needed), (version, 1));
        // The new rule holds: two of three hot are enough, nobody is called up.
        let hole = |mesh: &Mesh| mesh.hot[0].host.black_hole().unwrap();
        let (_, view) = run.strike("host black-holed, one is enough", hole, |mesh| {
            let lost = mesh.hot[0].endpoint();
            let gone = |view: &ExplainView| !view.route.picks.contains(&lost);
            mesh.wait_view("the lost one to be out", SOON, gone).unwrap()
        });
        assert!(view.route.called.is_empty(), "{:?}", view.route);
    });
}

#[test]
fn no_post_is_executed_twice_whatever_dies() {
    in_lab(|lab| {
        let spec = MeshSpec { kind: Kind::App, ..MeshSpec::default() };
        let mesh = Mesh::start(lab, &spec).unwrap();
        let posts = LoadSpec {
            method: Method::POST,
            path: "/once?id={n}".to_owned(),
            ..LoadSpec::new("127.0.0.1:8001".parse().unwrap())
        };
        let load = Load::start(&mesh.caller.host, posts).unwrap();
        let sent = |count: usize| {
            wait_for("requests", SOON, || match load.samples().len() {
                got if got >= count => Ok(()),
                got => Err(got.to_string()),
            })
            .unwrap();
        };
        sent(500);
        mesh.hot[0].agent.process().kill().unwrap();
        sent(1500);
        mesh.hot[1].host.black_hole().unwrap();
        sent(2500);
        mesh.hot[1].host.heal().unwrap();
        mesh.hot[2].app().process().stop().unwrap();
        sent(3500);
        mesh.hot[2].app().process().cont().unwrap();
        sent(4000);
        let samples = load.finish();
        let failed = samples.iter().filter(|s| s.error.is_some()).count();
        println!("{} POSTs, {failed} failed among those in flight on a lost host", samples.len());
        assert!(failed < samples.len() / 10, "{failed} of {}", samples.len());

        let times = posts::executed(&mesh);
        let twice: Vec<_> = times.iter().filter(|&(_, &count)| count > 1).collect();
        assert!(twice.is_empty(), "executed more than once: {twice:?}");
        let answered = samples.iter().filter(|s| s.error.is_none()).count();
        assert!(times.len() >= answered, "{} executed, {answered} answered", times.len());
    });
}

#[test]
fn an_incident_is_one_trace_over_all_agents() {
    in_lab(|lab| {
        let run = Run::start(lab, &MeshSpec::default());
        let hole = |mesh: &Mesh| mesh.hot[0].host.black_hole().unwrap();
        let (_, view) = run.strike("host black-holed", hole, first_warm);
        let incident = run.mesh.incident(&run.mesh.hot[0], SOON).unwrap();
        assert_eq!(incident.service.as_str(), SERVICE);
        assert_eq!(incident.policy_version, view.policy_version);
        assert_eq!(incident.trace_id.len(), 32);

        // The root ends last: when it is there, so is the rest of this agent's.
        let spans = wait_for("the whole trace", SOON, || {
            let spans = run.mesh.otlp.trace(&incident.trace_id);
            let of_caller = |name: &str| named(&spans, name, "caller").is_some();
            let all = ["failover", "detect", "decide", "shift", "stabilise"];
            let there = all.iter().all(|name| of_caller(name));
            if there && named(&spans, "activate", "warm-1").is_some() {
                return Ok(spans);
            }
            Err(hearth_tests::otlp::tree::draw(&spans))
        })
        .unwrap();
        println!("{}", hearth_tests::otlp::tree::draw(&spans));

        let root = named(&spans, "failover", "caller").unwrap();
        assert_eq!(root.parent, "", "the failover is the root");
        for (key, value) in [
            ("hearth.service", SERVICE),
            ("hearth.incident", &incident.id),
            ("hearth.lost", &incident.lost),
            ("hearth.policy.version", &view.policy_version.to_string()),
        ] {
            assert_eq!(root.attributes.get(key).map(String::as_str), Some(value), "{root:?}");
        }
        assert!(root.attributes.contains_key("hearth.reason"), "{root:?}");
        for name in ["detect", "decide", "shift", "stabilise"] {
            let span = named(&spans, name, "caller").unwrap();
            assert_eq!(span.parent, root.span_id, "{name} is a child of the failover");
            assert!(span.start >= root.start && span.end <= root.end, "{span:?} in {root:?}");
        }
        // The warm host never spoke of it with the caller's collector context: same trace anyway.
        let activate = named(&spans, "activate", "warm-1").unwrap();
        assert!(!activate.parent.is_empty(), "{activate:?}");
        assert_eq!(activate.resource["service.name"], "hearth-agent");
        let took = Duration::from_nanos(activate.end - activate.start);
        assert!(took >= MeshSpec::default().activate, "the hook takes its time: {took:?}");
        let other = spans.iter().filter(|s| s.name == "activate" && s.node() != "warm-1");
        assert_eq!(other.count(), 0, "only the one called up activates");
        let events: Vec<&str> =
            spans.iter().flat_map(|s| &s.events).map(|e| e.name.as_str()).collect();
        assert!(events.contains(&"suspect"), "{events:?}");
    });
}

fn named<'a>(spans: &'a [Span], name: &str, node: &str) -> Option<&'a Span> {
    spans.iter().find(|s| s.name == name && s.node() == node)
}
