//! `hearth`: no agent, no control plane, wrong files, wrong words.

use std::net::TcpListener;

use hearth_tests::loopback::{ControlPlane, LocalAgent, Place, agent_config, agent_program};

use crate::world::World;

#[test]
fn hearth_says_whom_it_asked_and_what_to_do() {
    let mut world = World::new("hearth");
    let mesh = world.joined("web-1");
    let dir = world.control.dir().display().to_string();
    let path = |name: &str| world.place.path(name).display().to_string();
    let elsewhere = Place::new("hearth-elsewhere").unwrap();
    let foreign = ControlPlane::init(&elsewhere).unwrap();
    world.book.word(&elsewhere.dir().display().to_string(), "/E");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.book.port(nobody.port(), "NOBODY");

    let (absent, plain, stale) = (path("absent.sock"), path("plain.sock"), path("stale.sock"));
    std::fs::write(&plain, "").unwrap();
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let url = format!("https://{}", world.control.address());
    let (dead, root) = (format!("https://{nobody}"), format!("{dir}/root.pem"));
    let foreign_root = foreign.dir().join("root.pem").display().to_string();
    let policy =
        |text: &str, name: &str| world.place.write(name, text).unwrap().display().to_string();
    let unknown = policy("[services.ledger]\nmin_hto = 2\n", "unknown.toml");
    let bad = policy("[services.ledger]\ntimeout = \"5\"\n", "bad.toml");
    let word = policy("[services.ledger]\nmode = \"hot-cold\"\n", "word.toml");
    let ownerless = policy("[services.db]\nmode = \"exclusive\"\n", "ownerless.toml");
    let lease = "exclusive = { owners = [\"a\", \"b\", \"c\"], lease = \"5m\" }";
    let lease = format!("[services.db]\nmode = \"exclusive\"\n{lease}\n");
    let endless = policy(&lease, "endless.toml");
    let good = agent_config(&world.place, "web-1", mesh, &[]);
    let program = agent_program(&world.place, "web-1", &good).unwrap();
    let agent = LocalAgent::start(&world.place, "web-1", mesh, program).unwrap();
    let socket = agent.socket().display().to_string();

    let cases: &[(&str, &[&str], i32, &str)] = &[
        ("no agent runs", &["--socket", &absent, "status"], 69, "/D/absent.sock"),
        ("the socket is a file", &["--socket", &plain, "status"], 69, "/D/plain.sock"),
        ("the agent that made it is gone", &["--socket", &stale, "status"], 69, "/D/stale.sock"),
        ("a service nobody knows", &["--socket", &socket, "explain", "legder"], 65, "legder"),
        (
            "an incident nobody knows",
            &["--socket", &socket, "incidents", "ledger-0"],
            65,
            "ledger-0",
        ),
        ("no control plane is named", &["policy", "show"], 64, "control plane"),
        ("no operator token", &["--control", &url, "--ca", &root, "policy", "show"], 77, "token"),
        (
            "nobody listens there",
            &["--control", &dead, "--token", "x", "--ca", &root, "policy", "show"],
            69,
            "127.0.0.1:NOBODY",
        ),
        (
            "a root of another mesh",
            &["--dir", &dir, "--ca", &foreign_root, "policy", "show"],
            69,
            "127.0.0.1:CONTROL",
        ),
        (
            "a root that is missing",
            &["--control", &url, "--token", "x", "--ca", "/nowhere/root.pem", "policy", "show"],
            66,
            "/nowhere/root.pem",
        ),
        (
            "an operator token that is none",
            &["--dir", &dir, "--token", "hearthop1.wrong", "policy", "show"],
            77,
            "operator token",
        ),
        (
            "a policy that is missing",
            &["--dir", &dir, "policy", "apply", "/nowhere.toml"],
            66,
            "/nowhere.toml",
        ),
        (
            "a policy with an unknown key",
            &["--dir", &dir, "policy", "apply", &unknown],
            65,
            "unknown.toml:2:1",
        ),
        (
            "a policy with a bad duration",
            &["--dir", &dir, "policy", "apply", &bad],
            65,
            "bad.toml:2:11",
        ),
        (
            "a policy with an unknown word",
            &["--dir", &dir, "policy", "apply", &word],
            65,
            "word.toml:2:8",
        ),
        (
            "an exclusive service without owners",
            &["--dir", &dir, "policy", "apply", &ownerless],
            65,
            "services.db",
        ),
        (
            "a lease that is too long",
            &["--dir", &dir, "policy", "apply", &endless],
            65,
            "endless.toml:3",
        ),
        ("a policy version that never was", &["--dir", &dir, "policy", "show", "9"], 65, "9"),
        (
            "a token that would live too long",
            &["--dir", &dir, "token", "create", "web-2", "--ttl", "30d"],
            65,
            "30",
        ),
        ("a node's name that is none", &["--dir", &dir, "token", "create", "Web_2"], 64, "Web_2"),
        ("a command that is none", &["--socket", &socket, "stauts"], 64, "stauts"),
    ];
    let mut wrong = Vec::new();
    for (case, args, code, place) in cases {
        let done = world.place.hearth(args).unwrap();
        let command = format!("hearth {}", args.join(" "));
        world.book.error(case, &command, &done, place);
        if done.code != Some(*code) {
            wrong.push(format!("{case}: exit {:?}, expected {code}", done.code));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    world.book.close();
}
