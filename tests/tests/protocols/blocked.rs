//! UDP dropped between hosts: the same links run over TCP, found out by themselves, and go back.

use std::time::{Duration, Instant};

use hearth_tests::lab::entry::in_lab;
use hearth_tests::lab::mesh::{Mesh, MeshSpec, SERVICE, UPSTREAM};
use hearth_tests::lab::wait::wait_for;
use hearth_tests::lab::web::Kind;
use hearth_tests::load::{Load, LoadSpec};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);
/// What a link may take to come up over TCP by itself.
const LIMIT: Duration = Duration::from_secs(3);
/// Found out late on a busy machine is not found out: how long the test goes on looking.
const PATIENCE: Duration = Duration::from_secs(15);

fn spec() -> MeshSpec {
    MeshSpec { hot: 2, warm: 0, kind: Kind::App, ..MeshSpec::default() }
}

/// The caller's links by node: whether `/v1/status` says that they run over TCP.
fn lanes(mesh: &Mesh) -> Result<Vec<(String, bool)>, String> {
    let status: Value = mesh.caller.agent.get("/v1/status").map_err(|e| e.to_string())?;
    let links = status["links"].as_array().cloned().unwrap_or_default();
    let of = |link: &Value| {
        let fields = link.as_object().into_iter().flatten();
        // Whatever the field is called: its words are what an operator reads.
        let mut words =
            fields.filter(|(key, _)| *key != "node").filter_map(|(_, value)| value.as_str());
        let tcp = words.any(|word| word.to_ascii_lowercase().contains("tcp"));
        (link["node"].as_str().unwrap_or_default().to_owned(), tcp)
    };
    Ok(links.iter().map(of).collect())
}

/// Waits until the links to all hot hosts are up and run over TCP, or are up and do not.
fn wait_lanes(mesh: &Mesh, tcp: bool, within: Duration) -> Result<Duration, String> {
    let start = Instant::now();
    let what = if tcp { "every link to run over TCP" } else { "every link to be back on QUIC" };
    let seen = wait_for(what, within, || {
        let lanes = lanes(mesh)?;
        let hot: Vec<_> = lanes.iter().filter(|(node, _)| node.starts_with("hot-")).collect();
        let all = hot.len() == mesh.hot.len() && hot.iter().all(|(_, over)| *over == tcp);
        if all { Ok(()) } else { Err(format!("{lanes:?}")) }
    });
    seen.map(|()| start.elapsed()).map_err(|e| e.to_string())
}

fn load(mesh: &Mesh) -> Load {
    let target = std::net::SocketAddr::from(([127, 0, 0, 1], UPSTREAM));
    let spec = LoadSpec { rate: 200, deadline: Duration::from_secs(5), ..LoadSpec::new(target) };
    Load::start(&mesh.caller.host, spec).unwrap()
}

fn sent(load: &Load, mark: Duration, count: usize) {
    wait_for("requests", SOON * 2, || {
        match load.samples().iter().filter(|s| s.scheduled >= mark).count() {
            got if got >= count => Ok(()),
            got => Err(got.to_string()),
        }
    })
    .unwrap();
}

#[test]
fn a_link_whose_udp_is_cut_off_moves_to_tcp_and_back_and_no_request_fails() {
    in_lab(|lab| {
        let mesh = Mesh::start(lab, &spec()).unwrap();
        let load = load(&mesh);
        sent(&load, Duration::ZERO, 200);
        let cut = load.mark();
        mesh.caller.host.block_udp().unwrap();
        let took = wait_lanes(&mesh, true, PATIENCE).unwrap_or_else(|e| {
            let said = mesh.caller.agent.hearth(&["status"]).unwrap().stdout;
            panic!("with UDP dropped the links did not come up over TCP: {e}\n{said}")
        });
        let moved = load.mark();
        let during = load.between(cut, moved);
        println!("on TCP after {took:.2?}; meanwhile {} of {} failed", during.failed, during.sent);
        assert!(took < LIMIT, "the links came up over TCP only after {took:.2?}");
        let said = mesh.caller.agent.hearth(&["status"]).unwrap().success().unwrap();
        assert!(
            said.to_ascii_lowercase().contains("tcp"),
            "`hearth status` does not say so:\n{said}"
        );
        let seconds = if std::env::var_os("HEARTH_FULL").is_some() { 60 } else { 5 };
        sent(&load, moved, 200 * seconds);
        let over = load.since(moved);
        assert_eq!(over.failed, 0, "over TCP: {over:?}");

        mesh.caller.host.heal().unwrap();
        let back = wait_lanes(&mesh, false, SOON * 2)
            .unwrap_or_else(|e| panic!("UDP is back and the links did not return to QUIC: {e}"));
        let home = load.mark();
        sent(&load, home, 400);
        let after = load.since(moved);
        println!(
            "back on QUIC after {back:.2?}; since TCP {} of {} failed",
            after.failed, after.sent
        );
        assert_eq!(after.failed, 0, "on the way back: {after:?}");
    });
}

#[test]
fn a_host_that_never_had_udp_joins_and_calls_over_tcp() {
    in_lab(|lab| {
        let spec = MeshSpec { udp_blocked: true, ..spec() };
        let start = Instant::now();
        let mesh = Mesh::start(lab, &spec)
            .unwrap_or_else(|e| panic!("without UDP the mesh did not come together: {e}"));
        wait_lanes(&mesh, true, LIMIT).unwrap();
        println!("a mesh without UDP stood after {:.1?}", start.elapsed());
        // The route is known and used.
        assert_eq!(mesh.explain().unwrap().service.as_str(), SERVICE);
        let load = load(&mesh);
        sent(&load, Duration::ZERO, 600);
        let all = load.since(Duration::ZERO);
        assert_eq!((all.failed, all.served.len()), (0, 2), "{all:?}");
    });
}
