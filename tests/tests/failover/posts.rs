//! Requests that must not be done twice, and what their clients are told when a host, an application or a
//! path fails them; and how soon callers know of an application that is gone.
//!
//! Figures are printed (`--nocapture`); bounds are for busy machines, a multiple of what it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hearth_tests::lab::entry::in_lab;
use hearth_tests::lab::mesh::{Mesh, MeshSpec, Node};
use hearth_tests::lab::wait::wait_for;
use hearth_tests::lab::web::Kind;
use hearth_tests::load::{Load, LoadSpec};
use hyper::Method;

use super::{SOON, condition};

/// POSTs through the caller's agent, two thirds of which are under way for `pace_ms`.
fn posts(mesh: &Mesh, pace_ms: u32) -> Load {
    let posts = LoadSpec {
        method: Method::POST,
        path: format!("/once?id={{n}}&pace={pace_ms}"),
        rate: 200,
        deadline: Duration::from_secs(20),
        ..LoadSpec::new("127.0.0.1:8001".parse().unwrap())
    };
    let load = Load::start(&mesh.caller.host, posts).unwrap();
    answered(&load, 300);
    load
}

fn answered(load: &Load, more: usize) {
    let wanted = load.samples().len() + more;
    wait_for("requests", SOON, || match load.samples().len() {
        got if got >= wanted => Ok(()),
        got => Err(got.to_string()),
    })
    .unwrap();
}

/// How often each POST was executed, by the applications' own record.
pub(crate) fn executed(mesh: &Mesh) -> BTreeMap<String, u32> {
    executed_at(mesh.hot.iter().chain(&mesh.warm))
}

fn executed_at<'a>(nodes: impl Iterator<Item = &'a Node>) -> BTreeMap<String, u32> {
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    for node in nodes {
        let (_, body) = node.app().ask("GET", "/executed").unwrap();
        let executed: BTreeMap<String, u32> = serde_json::from_str(&body).unwrap();
        for (id, count) in executed {
            *times.entry(id).or_default() += count;
        }
    }
    times
}

/// The same when nobody has executed anything for so long: what a stopped process or a dead path held back
/// comes late.
fn executed_at_last(mesh: &Mesh, quiet: Duration) -> BTreeMap<String, u32> {
    let (mut last, mut since) = (executed(mesh), Instant::now());
    wait_for("nobody to execute anything any more", quiet + SOON, || {
        let now = executed(mesh);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() >= quiet { Ok(()) } else { Err(format!("{} executed", last.len())) }
    })
    .unwrap();
    last
}

/// What those in flight on a lost host feel: the figure is printed, the bound is for busy machines.
#[test]
fn posts_in_flight_on_a_lost_host_are_told_so_at_once_and_no_others_fail() {
    const PACE: u32 = 300;
    const AT_ONCE: Duration = Duration::from_secs(1);
    in_lab(|lab| {
        let mesh = Mesh::start(lab, &MeshSpec { kind: Kind::App, ..MeshSpec::default() }).unwrap();
        let load = posts(&mesh, PACE);
        let began = Instant::now();
        let faults: [(&str, &dyn Fn()); 2] = [
            ("host black-holed", &|| mesh.hot[0].host.black_hole().unwrap()),
            ("agent frozen", &|| mesh.hot[1].agent.process().stop().unwrap()),
        ];
        for (what, fault) in faults {
            let before = load.mark();
            fault();
            let struck = load.mark();
            answered(&load, 500);
            let ended = load.samples().into_iter().filter(|s| s.ended() >= before);
            let failed: Vec<_> = ended.filter(|s| s.error.is_some()).collect();
            // From the fault, or from when it was sent if that was later.
            let told = failed.iter().map(|s| s.ended() - s.scheduled.max(struck).min(s.ended()));
            let told: Vec<f64> = told.map(|t| t.as_secs_f64() * 1000.0).collect();
            let (slowest, count) = (told.iter().copied().fold(0.0, f64::max), failed.len());
            println!("{what}: {count} POSTs told, the last {slowest:.1} ms after it");
            assert!(count > 0, "{what}: two thirds of them take {PACE} ms, some were in flight");
            for sample in &failed {
                assert_eq!(sample.status, 502, "{what}: {sample:?}");
                let in_flight = sample.scheduled < struck + AT_ONCE && sample.ended() >= before;
                assert!(in_flight, "{what}: not in flight at {struck:?}: {sample:?}");
            }
            assert!(slowest < AT_ONCE.as_secs_f64() * 1000.0, "{what}: {failed:?}");
        }
        let samples = load.finish();
        mesh.hot[0].host.heal().unwrap();
        mesh.hot[1].agent.process().cont().unwrap();
        // TCP repeats what is lost after at most as long again as it has been lost.
        let times = executed_at_last(&mesh, began.elapsed());
        let twice: Vec<_> = times.iter().filter(|&(_, &count)| count > 1).collect();
        assert!(twice.is_empty(), "executed more than once: {twice:?}");
        let answered = samples.iter().filter(|s| s.error.is_none()).count();
        assert!(times.len() >= answered, "{} executed, {answered} answered", times.len());
    });
}

#[test]
fn a_caller_whose_agent_was_stopped_fails_no_post_on_waking() {
    in_lab(|lab| {
        let mesh = Mesh::start(lab, &MeshSpec { kind: Kind::App, ..MeshSpec::default() }).unwrap();
        let load = posts(&mesh, 100);
        for stopped in [100, 300, 1000, 3000] {
            mesh.caller.agent.process().stop().unwrap();
            // The fault itself, not a wait for something.
            std::thread::sleep(Duration::from_millis(stopped));
            mesh.caller.agent.process().cont().unwrap();
            answered(&load, 300);
        }
        let samples = load.finish();
        let failed: Vec<_> = samples.iter().filter(|s| s.error.is_some()).collect();
        println!("{} POSTs, {} failed", samples.len(), failed.len());
        assert!(failed.is_empty(), "{failed:?}\n{}", reasons(&mesh));
        assert!(executed(&mesh).values().all(|&count| count == 1));
    });
}

/// What the caller's agent logged of failed requests, each reason once.
fn reasons(mesh: &Mesh) -> String {
    let log = mesh.caller.agent.process().stderr();
    let details = log.lines().filter_map(|line| line.split_once("request failed")).map(|(_, d)| d);
    details.collect::<BTreeSet<_>>().into_iter().take(20).collect::<Vec<_>>().join("\n")
}

/// What the caller counts of its links: silences, and those that were confirmed.
fn silences(mesh: &Mesh) -> (u64, u64) {
    let page = mesh.caller.agent.metrics().unwrap();
    let value = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{name}: {page}"))
    };
    (value("hearth_link_silences_total "), value("hearth_link_silences_confirmed_total "))
}

#[test]
fn a_path_that_loses_one_packet_in_twenty_fails_no_post() {
    in_lab(|lab| {
        let mesh = Mesh::start(lab, &MeshSpec { kind: Kind::App, ..MeshSpec::default() }).unwrap();
        mesh.hot.iter().for_each(|node| node.host.loss(5.0).unwrap());
        let load = posts(&mesh, 20);
        answered(&load, 4000);
        let samples = load.finish();
        let failed: Vec<_> = samples.iter().filter(|s| s.error.is_some()).collect();
        let (silent, confirmed) = silences(&mesh);
        println!(
            "{} POSTs over three paths that lose 5 % each way, {} failed; {silent} silences, {confirmed} \
             confirmed",
            samples.len(),
            failed.len()
        );
        assert!(failed.is_empty(), "{failed:?}\n{}", reasons(&mesh));
        assert!(executed(&mesh).values().all(|&count| count == 1));
    });
}

/// What Hearth computes as far too rare to be seen; prints what is.
/// `HEARTH_MINUTES=10 cargo test … --test failover how_often -- --ignored --nocapture`
#[test]
#[ignore = "a measurement of minutes"]
fn how_often_healthy_hosts_on_lossy_paths_are_taken_for_lost() {
    let minutes = std::env::var("HEARTH_MINUTES").ok().and_then(|m| m.parse().ok()).unwrap_or(2);
    in_lab(|lab| {
        let mesh = Mesh::start(lab, &MeshSpec { kind: Kind::App, ..MeshSpec::default() }).unwrap();
        for percent in [1.0, 5.0, 10.0] {
            mesh.hot.iter().for_each(|node| node.host.loss(percent).unwrap());
            let before = silences(&mesh);
            let load = posts(&mesh, 20);
            std::thread::sleep(Duration::from_secs(60 * minutes));
            let samples = load.finish();
            let after = silences(&mesh);
            println!(
                "{percent} % loss each way of three hosts, {minutes} min: {} POSTs, {} failed; {} silences, \
                 {} confirmed",
                samples.len(),
                samples.iter().filter(|s| s.error.is_some()).count(),
                after.0 - before.0,
                after.1 - before.1,
            );
        }
        assert!(executed(&mesh).values().all(|&count| count == 1));
    });
}

/// Kills an application that no check would miss within the hour, and prints when its callers know.
fn unready_at_callers(mesh: &Mesh, what: &str) {
    let victim = mesh.hot[0].endpoint();
    mesh.hot[0].app().process().kill().unwrap();
    let killed = Instant::now();
    wait_for("the callers to know", SOON, || {
        match condition(&mesh.explain().map_err(|e| e.to_string())?, &victim) {
            found if found == "unready" => Ok(()),
            found => Err(found),
        }
    })
    .unwrap();
    println!(
        "{what}: unready at the caller {:.1} ms later",
        killed.elapsed().as_secs_f64() * 1000.0
    );
}

#[test]
fn an_application_whose_process_ends_is_unready_at_its_callers_before_anybody_asks() {
    in_lab(|lab| {
        let watched = MeshSpec { seldom_checked: true, watched: true, ..MeshSpec::default() };
        let mesh = Mesh::start(lab, &watched).unwrap();
        unready_at_callers(&mesh, "process ended, no traffic");
    });
}

#[test]
fn an_application_that_refuses_is_unready_at_its_callers_and_costs_no_post() {
    in_lab(|lab| {
        let seldom = MeshSpec { seldom_checked: true, kind: Kind::App, ..MeshSpec::default() };
        let mesh = Mesh::start(lab, &seldom).unwrap();
        let load = posts(&mesh, 0);
        unready_at_callers(&mesh, "application killed, 200 POSTs a second");
        answered(&load, 300);
        let samples = load.finish();
        let failed: Vec<_> = samples.iter().filter(|s| s.error.is_some()).collect();
        println!("{} POSTs, {} failed", samples.len(), failed.len());
        // One may have been within the application when it was killed.
        assert!(failed.len() <= 1, "{failed:?}");
        let elsewhere = executed_at(mesh.hot[1..].iter().chain(&mesh.warm));
        assert!(elsewhere.values().all(|&count| count == 1));
    });
}
