//! The real `hearth-control` and `hearth` on loopback: join, replay, renew, policy, restart, errors.

mod agent;
mod client;
mod daemon;

use hearth_control::directory::Directory;
use hearth_control::moment;
use hearth_proto::api::{Enrolment, JoinRequest, RenewRequest};
use hearth_proto::document::DocumentKind;
use hearth_proto::ids::NodeName;
use hearth_proto::time::Wall;
use hearth_proto::view::ErrorView;

use agent::FakeAgent;
use client::{Api, NodeKey};
use daemon::{Daemon, Scratch, hearth, until};

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn join_request(token: &str, key: &NodeKey, mesh_address: &str) -> JoinRequest {
    JoinRequest {
        token: token.into(),
        name: name("web-1"),
        csr_pem: key.csr(),
        mesh_address: mesh_address.into(),
    }
}

fn new_token(daemon: &Daemon, node: &str) -> String {
    let done = hearth(&["--dir", &daemon.dir(), "token", "create", node]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.starts_with(&format!("good once, for node {node}, for ")), "{done:?}");
    done.stdout.trim().to_owned()
}

/// Joins `web-1`, reachable at `mesh_address`.
fn join(daemon: &Daemon, mesh_address: &str) -> (NodeKey, Enrolment) {
    let key = NodeKey::new();
    let request = join_request(&new_token(daemon, "web-1"), &key, mesh_address);
    let answer = Api::of(daemon).post("/v1/join", &request);
    assert_eq!(answer.status, 200, "{}", answer.text);
    (key, answer.json())
}

#[test]
fn a_joined_node_has_its_certificate_and_a_replayed_token_is_refused_counted_and_logged() {
    let scratch = Scratch::new("join");
    let daemon = Daemon::start(&scratch);
    let token = new_token(&daemon, "web-1");
    let api = Api::of(&daemon);
    let key = NodeKey::new();
    let answer = api.post("/v1/join", &join_request(&token, &key, "127.0.0.1:1"));
    assert_eq!(answer.status, 200, "{}", answer.text);
    let enrolment: Enrolment = answer.json();
    assert_eq!(enrolment.trust_domain.as_str(), "mesh.example");
    let kinds: Vec<DocumentKind> = enrolment.documents.iter().map(|d| d.kind).collect();
    assert_eq!(kinds, [DocumentKind::Trust]);

    let replayed = api.post("/v1/join", &join_request(&token, &NodeKey::new(), "127.0.0.1:1"));
    assert_eq!(replayed.status, 403);
    let told: ErrorView = replayed.json();
    assert!(told.error.starts_with("the join token was used already, at "), "{told:?}");
    assert!(told.hint.ends_with("make a new one: hearth token create web-1"), "{told:?}");

    let line = daemon.event("join_refused");
    assert_eq!(line["fields"]["reason"], "token_replayed");
    assert_eq!(line["fields"]["remote"], "127.0.0.1");
    assert_eq!(line["fields"]["node"], "web-1");
    assert_eq!(line["fields"]["audit"], true);
    let metrics = daemon.metrics();
    let counted = "hearth_control_joins_total{result=\"token_replayed\"} 1\n";
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.contains("hearth_control_joins_total{result=\"ok\"} 1\n"), "{metrics}");
}

#[test]
fn the_joining_side_can_know_the_control_plane_by_the_hash_in_the_token() {
    let scratch = Scratch::new("pin");
    let daemon = Daemon::start(&scratch);
    let token = new_token(&daemon, "web-1");
    let chain = Api::of(&daemon).chain();
    assert_eq!(chain.len(), 2, "leaf and root are sent");
    let root_hash = hearth_control::authority::sha256(&chain[1]);
    assert!(hearth_control::token::read_join_token(&token, &root_hash).is_ok());
}

#[test]
fn a_renewal_needs_the_certificate_of_a_node_that_is_valid_now() {
    let scratch = Scratch::new("renew");
    let daemon = Daemon::start(&scratch);
    let (key, enrolment) = join(&daemon, "127.0.0.1:1");
    let request = RenewRequest { csr_pem: key.csr(), mesh_address: "127.0.0.1:1".into() };
    let api = Api::of(&daemon);

    let renewed = api.as_node(&key, &enrolment.certificate_pem).post("/v1/renew", &request);
    assert_eq!(renewed.status, 200, "{}", renewed.text);
    assert_ne!(renewed.json::<Enrolment>().certificate_pem, enrolment.certificate_pem);

    let nobody = api.post("/v1/renew", &request);
    assert_eq!(nobody.status, 401);
    assert_eq!(
        nobody.json::<ErrorView>().error,
        "a renewal needs the present certificate as TLS client certificate"
    );
    assert_eq!(daemon.event("renewal_refused")["fields"]["reason"], "no_certificate");

    let (_, authority) = Directory::find(scratch.control()).unwrap().authority().unwrap();
    let two_days_ago = Wall(moment::now().0 - 2 * 86_400_000_000);
    let expired = authority.issue_node(&key.csr(), &name("web-1"), two_days_ago).unwrap();
    let refused = api.as_node(&key, &expired.pem).try_post("/v1/renew", &request);
    assert!(refused.is_err(), "an expired certificate was taken: {:?}", refused.unwrap().text);
    assert_eq!(daemon.event("handshake_refused")["fields"]["reason"], "expired");

    let stranger = NodeKey::new();
    let refused =
        api.as_node(&stranger, &stranger.own_certificate()).try_post("/v1/renew", &request);
    assert!(refused.is_err(), "a certificate of nobody's was taken");
    let counted = "hearth_control_handshakes_refused_total{reason=\"certificate\"} 1\n";
    until("the refused handshake to be counted", || match daemon.metrics() {
        text if text.contains(counted) => Ok(()),
        text => Err(text),
    });
}

#[test]
fn an_applied_policy_reaches_an_agent_survives_kill_9_and_is_in_the_history() {
    let scratch = Scratch::new("policy");
    let daemon = Daemon::start(&scratch);
    let agent = FakeAgent::bind();
    let (key, enrolment) = join(&daemon, &agent.address().to_string());
    agent.serve(&key, &enrolment);

    let file = scratch.write("mesh.toml", "[services.ledger]\nmin_hot = 2\n");
    let dir = daemon.dir();
    let dry = hearth(&["--dir", &dir, "policy", "apply", &file, "--dry-run"]);
    assert_eq!(
        (dry.code, dry.stdout.as_str()),
        (
            0,
            "  services.ledger: defaults -> named\n  services.ledger.min_hot: 100% -> 2\n\
             dry run: this would become version 1\n"
        )
    );
    let applied = hearth(&["--dir", &dir, "policy", "apply", &file]);
    assert_eq!(
        (applied.code, applied.stdout.as_str()),
        (
            0,
            "  services.ledger: defaults -> named\n  services.ledger.min_hot: 100% -> 2\nversion 1 is \
             in force on web-1; gossip carries it to the rest: hearth policy status\n"
        ),
        "{applied:?}\n{}",
        daemon.log()
    );
    assert_eq!(agent.policy_version(), 1);
    let again = hearth(&["--dir", &dir, "policy", "apply", &file]);
    assert_eq!(again.stdout, "nothing changes; version 1 stays in force\n");

    agent.forget();
    let daemon = daemon.kill_and_restart(&scratch);
    until("the restarted daemon to push what is newest", || match agent.policy_version() {
        1 => Ok(()),
        other => Err(format!("the agent has version {other}\n{}", daemon.log())),
    });
    scratch.write("mesh.toml", "[services.ledger]\nmin_hot = 3\n");
    let second = hearth(&["--dir", &dir, "policy", "apply", &file]);
    assert!(second.stdout.contains("  services.ledger.min_hot: 2 -> 3\nversion 2 "), "{second:?}");

    let history = hearth(&["--dir", &dir, "-o", "json", "policy", "history"]);
    let versions: Vec<hearth_proto::api::PolicyVersion> =
        serde_json::from_str(&history.stdout).unwrap();
    let told: Vec<_> = versions.iter().map(|v| (v.version, v.by.as_str())).collect();
    assert_eq!(told, [(2, "admin"), (1, "admin")]);
    let show = hearth(&["--dir", &dir, "policy", "show", "1"]);
    assert!(show.stdout.starts_with("# version 1, applied by admin at "), "{show:?}");
    assert!(show.stdout.ends_with("\n[services.ledger]\nmin_hot = 2\n"), "{show:?}");
    until("the status to show the node up to date", || {
        let status = hearth(&["--dir", &dir, "policy", "status"]);
        match status.stdout.contains("1 known, 1 up to date, 0 behind") {
            true => Ok(()),
            false => Err(format!("{status:?}")),
        }
    });
    assert_eq!(daemon.stop(), Some(0), "SIGTERM is an orderly end");
}

#[test]
fn a_push_is_not_given_to_an_agent_under_another_name() {
    let scratch = Scratch::new("impostor");
    let daemon = Daemon::start(&scratch);
    let agent = FakeAgent::bind();
    // web-2 sits where web-1 said it would be.
    let (_, _) = join(&daemon, &agent.address().to_string());
    let key = NodeKey::new();
    let (_, authority) = Directory::find(scratch.control()).unwrap().authority().unwrap();
    let issued = authority.issue_node(&key.csr(), &name("web-2"), moment::now()).unwrap();
    agent.serve_as(&key, &issued.pem, authority.bundle_pem());
    until("a push to be refused", || match daemon.metrics() {
        text if text.contains("hearth_control_push_total{result=\"handshake\"}") => Ok(()),
        text => Err(text),
    });
    assert_eq!(agent.policy_version(), 0);
    assert_eq!(agent.received(), 0, "an impostor was told");
}

#[test]
fn each_error_of_the_programs_says_what_where_and_what_to_do() {
    let scratch = Scratch::new("errors");
    let daemon = Daemon::start(&scratch);
    let dir = daemon.dir();
    let told = |done: daemon::Done| (done.code, scratch.anonymous(&done.stderr));

    let locked = daemon::control(&["token", "--dir", &dir, "--node", "web-1"]);
    assert_eq!(
        told(locked),
        (
            75,
            "error: the store /D/control/store.redb is in use by another process\n  hint: \
             hearth-control serve is running on it; use the API (hearth token create NODE), or stop \
             it first\n"
                .into()
        )
    );
    let exists = daemon::control(&["init", "--dir", &dir, "--trust-domain", "mesh.example"]);
    assert_eq!(
        told(exists),
        (
            73,
            "error: /D/control holds a control plane already (trust domain mesh.example)\n  hint: \
             start it with: hearth-control serve --dir /D/control; a new mesh needs another \
             directory\n"
                .into()
        )
    );
    let domain = daemon::control(&["init", "--dir", "/nowhere", "--trust-domain", "Mesh"]);
    assert_eq!(domain.code, 64);
    assert!(
        domain.stderr.contains(
            "the trust domain \"Mesh\" has 'M' at position 1; allowed are a-z, 0-9, '.', '-' and \
             '_'"
        ),
        "{domain:?}"
    );

    let port = daemon.address().port();
    let other = scratch.path("other");
    let listen = daemon.address().to_string();
    daemon::control(&["init", "--dir", &other, "--trust-domain", "o.example", "--listen", &listen]);
    let taken = daemon::control(&["serve", "--dir", &other]);
    assert_eq!(
        told(taken),
        (
            69,
            format!(
                "error: cannot listen on {listen} (`listen` in control.toml): Address already in use \
                 (os error 98)\n  hint: see who has the port: ss -ltnp 'sport = :{port}'; stop that, \
                 or change `listen`\n"
            )
        )
    );
    let url = format!("https://{listen}");
    let ca = format!("{other}/root.pem");
    let foreign = hearth(&["--dir", &dir, "--ca", &ca, "policy", "show"]);
    assert_eq!(
        told(foreign),
        (
            69,
            format!(
                "error: {url} shows a certificate of another root than /D/other/root.pem\n  hint: \
                 take root.pem of that control plane; if it is the right one, somebody else answers \
                 there\n"
            )
        )
    );
    let token = hearth(&["--dir", &dir, "--token", "hearthop1.wrong", "policy", "show"]);
    assert_eq!(
        told(token),
        (
            77,
            "error: the operator token is not known here\n  hint: use the token hearth-control init \
             printed for this mesh; lost? hearth-control operator makes a new one\n"
                .into()
        )
    );
    let bad = scratch.write("bad.toml", "[services.ledger]\nmin_hto = 2\n");
    let policy = hearth(&["--dir", &dir, "policy", "apply", &bad]);
    assert_eq!(
        told(policy),
        (
            65,
            "error: /D/bad.toml:2:1: unknown field `min_hto`, expected one of `mode`, `min_hot`, \
             `failback`, `timeout`, `hedge`, `retries`, `panic`, `allow`, `per_try_timeout`, \
             `idle_timeout`, `retry_on`, `max_requests`, `rate_limit`, `drills`, `exclusive`, \
             `relay`, `balance`, `locality`, `affinity`, `ramp`, `damping`\n  hint: did you mean \
             `min_hot`?\n"
                .into()
        )
    );
    let missing = hearth(&["--dir", &dir, "policy", "apply", "/nowhere.toml"]);
    assert_eq!(
        told(missing),
        (
            66,
            "error: cannot read the policy /nowhere.toml: No such file or directory (os error 2)\n  \
             hint: check the path; - reads standard input\n"
                .into()
        )
    );
    let version = hearth(&["--dir", &dir, "policy", "show", "9"]);
    assert_eq!(
        told(version),
        (65, "error: there is no policy version 9\n  hint: see hearth policy history\n".into())
    );
    daemon.stop();
    let gone = hearth(&["--dir", &dir, "--control", &url, "policy", "show"]);
    assert_eq!(
        told(gone),
        (
            69,
            format!(
                "error: no control plane at {url}: nobody listens there\n  hint: start it (systemctl \
                 start hearth-control), or check the port; traffic does not need it\n"
            )
        )
    );
}

#[test]
fn hearth_asks_the_agent_over_its_socket_and_prints_tables_or_the_json_untouched() {
    let scratch = Scratch::new("socket");
    let socket = scratch.path("agent.sock");
    let absent = hearth(&["--socket", &socket, "status"]);
    assert_eq!(
        (absent.code, scratch.anonymous(&absent.stderr)),
        (
            69,
            "error: no agent at /D/agent.sock: there is no such socket\n  hint: start it (systemctl \
             start hearth-agent), or name its socket: --socket PATH or HEARTH_SOCKET\n"
                .into()
        )
    );
    let json = r#"[{"service":"ledger","decision":"serve","reason":"all hot serve", "picks":["ledger@web-1"],"needed":1,"serving":1,"called":[],"later":1}]"#;
    agent::answer_on_socket(&socket, json);
    let table = hearth(&["--socket", &socket, "routes"]);
    assert_eq!(
        (table.code, table.stdout.as_str()),
        (
            0,
            "SERVICE  DECISION  SERVING  GOES TO  WHY\n\
             ledger   serve     1/1      web-1    all hot serve\n"
        ),
        "{table:?}"
    );
    let raw = hearth(&["--socket", &socket, "-o", "json", "routes"]);
    assert_eq!(raw.stdout.trim_end(), json);
}

#[test]
fn requests_out_of_bounds_are_refused_and_the_api_lives_on() {
    let scratch = Scratch::new("bounds");
    let daemon = Daemon::start(&scratch);
    let api = Api::of(&daemon);
    for (body, status) in
        [(vec![b'x'; 2 * 1024 * 1024], 413), (b"{}".to_vec(), 400), (b"[[[[".to_vec(), 400)]
    {
        let answer = api.post_bytes("/v1/join", body);
        assert_eq!(answer.status, status, "{}", answer.text);
        let told: ErrorView = answer.json();
        assert!(!told.error.is_empty() && !told.hint.is_empty(), "{told:?}");
    }
    assert_eq!(api.post("/v1/nothing", &()).status, 404);
    assert_eq!(api.post("/v1/status", &()).status, 405);
    // Neither TLS nor HTTP: dropped, counted, and nobody else notices.
    std::io::Write::write_all(
        &mut std::net::TcpStream::connect(daemon.address()).unwrap(),
        b"GET / HTTP/1.1\r\n\r\n",
    )
    .unwrap();
    daemon.event("handshake_refused");
    assert_eq!(api.post("/v1/nothing", &()).status, 404);
}
