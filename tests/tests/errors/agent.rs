//! The agent's own affairs: its configuration, its ports, its state directory, its seeds.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use hearth_tests::lab::binaries::ours;
use hearth_tests::lab::process::Program;
use hearth_tests::lab::wait::wait_for;
use hearth_tests::loopback::{LocalAgent, Place, agent_config, agent_program, free_ports};

use crate::book::Book;
use crate::world::{SOON, World, until_logged};

fn mode(path: &std::path::Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

const GOOD: &str = "name = \"web-1\"\nstate_dir = \"/D/state\"\n\n[mesh]\nlisten = \
                    \"127.0.0.1:7940\"\n";

#[test]
fn a_wrong_configuration_is_answered_with_its_place_and_its_remedy() {
    let place = Place::new("config").unwrap();
    let mut book = Book::open("config", place.dir());
    let command = "hearth-agent run --config /D/agent.toml";
    let cases: &[(&str, &str, &str)] = &[
        ("an unknown key", &format!("{GOOD}sedes = [\"10.0.0.2:7940\"]\n"), "agent.toml:6:1"),
        ("an unknown table", &format!("{GOOD}\n[outbond]\nhttp = \"off\"\n"), "agent.toml:7:2"),
        (
            "a duration without a unit, a duration that is none, one out of bounds",
            &format!(
                "{GOOD}\n[[endpoint]]\nservice = \"ledger\"\naddress = \
                 \"127.0.0.1:9000\"\n[endpoint.check]\ninterval = 5\ntimeout = \"half a \
                 second\"\n\n[[endpoint]]\nservice = \"ledger\"\naddress = \
                 \"127.0.0.1:9001\"\n[endpoint.check]\ninterval = \"1us\"\n"
            ),
            "agent.toml:11:12",
        ),
        ("no TOML", "name = web-1\n", "agent.toml:1:8"),
        ("no name", "[mesh]\nlisten = \"127.0.0.1:7940\"\n", "agent.toml"),
        ("a name that is none", &GOOD.replace("web-1", "Web_1"), "agent.toml:1:8"),
        (
            "nothing others could dial",
            &GOOD.replace("127.0.0.1:7940", "0.0.0.0:7940"),
            "agent.toml:5:10",
        ),
        (
            "a host name where an address must stand",
            &GOOD.replace("127.0.0.1:7940", "localhost:7940"),
            "agent.toml:5:10",
        ),
        (
            "one port twice",
            &format!("{GOOD}\n[[upstream]]\nservice = \"ledger\"\nlisten = \"127.0.0.1:7942\"\n"),
            "agent.toml:9:10",
        ),
        (
            "a hook of a hot endpoint, a role that is none, a scheme too many",
            &format!(
                "{GOOD}seeds = [\"udp://10.0.0.2:7940\"]\n\n[[endpoint]]\nservice = \
                 \"ledger\"\naddress = \"127.0.0.1:9000\"\n[endpoint.activate]\nkind = \
                 \"http\"\nurl = \"http://127.0.0.1:9000/activate\"\n\n[[endpoint]]\nservice = \
                 \"audit\"\naddress = \"127.0.0.1:9001\"\nrole = \"wram\"\n"
            ),
            "agent.toml:6:10",
        ),
        (
            "a token that was not copied whole",
            &format!("{GOOD}\n[join]\ncontrol = \"10.0.0.2:7945\"\ntoken = \"hearth1.abc\"\n"),
            "agent.toml:9:9",
        ),
    ];
    for (case, text, at) in cases {
        let program = agent_program(&place, "agent", text).unwrap();
        let done = place.run(program, SOON).unwrap();
        book.error(case, command, &done, at);
        assert_eq!(done.code, Some(78), "{case}");
    }
    let missing = place.path("nowhere.toml").display().to_string();
    let agent = |args: &[&str]| {
        Program::new("agent", ours("hearth-agent").unwrap()).args(args.iter().copied())
    };
    let done = place.run(agent(&["run", "--config", &missing]), SOON).unwrap();
    book.error(
        "a missing file",
        "hearth-agent run --config /D/nowhere.toml",
        &done,
        "nowhere.toml",
    );
    assert_eq!(done.code, Some(78));

    let file = place.write("agent.toml", GOOD).unwrap().display().to_string();
    let program = agent(&["run", "--config", &file]).env("HEARTH_MESH_LISTNE", "10.0.0.1:7940");
    let done = place.run(program, SOON).unwrap();
    let typo = format!("HEARTH_MESH_LISTNE=10.0.0.1:7940 {command}");
    book.error("a misspelt variable", &typo, &done, "HEARTH_MESH_LISTNE");
    let program = agent(&["run", "--config", &file]).env("HEARTH_MESH_LISTEN", "7940");
    let done = place.run(program, SOON).unwrap();
    let wrong = format!("HEARTH_MESH_LISTEN=7940 {command}");
    book.error("a wrong value in a variable", &wrong, &done, "HEARTH_MESH_LISTEN");

    let checked = "hearth-agent check --config /D/agent.toml";
    let done = place.run(agent(&["check", "--config", &file]), SOON).unwrap();
    book.answer("nothing wrong", checked, &done);
    place.write("agent.toml", &format!("{GOOD}sedes = []\n")).unwrap();
    let done = place.run(agent(&["check", "--config", &file]), SOON).unwrap();
    book.error("the same mistake, found before a start", checked, &done, "agent.toml:6:1");
    assert_eq!(done.code, Some(78));
    book.close();
}

#[test]
fn a_port_in_use_is_named_with_the_key_and_how_to_find_who_has_it() {
    let mut world = World::new("ports");
    let mesh = world.joined("web-1");
    let config = |mesh, tables: &str| agent_config(&world.place, "web-1", mesh, &[]) + tables;
    let (good, upstream) = (config(mesh, ""), |listen: &str| {
        config(mesh, &format!("[[upstream]]\nservice = \"ledger\"\nlisten = \"{listen}\"\n"))
    });

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = udp.local_addr().unwrap();
    let on_mesh = config(taken, "");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = tcp.local_addr().unwrap().to_string();
    let on_admin = good.replace("agent.sock\"\nhttp = \"off\"", "");
    let on_admin = on_admin.replacen("http = \"off\"", &format!("http = \"{busy}\""), 1);
    let at = good.rfind("http = \"off\"").unwrap();
    let on_outbound = good[..at].to_owned() + &good[at..].replace("off", &busy);
    let on_upstream = upstream(&busy);
    // Of the documentation's addresses (RFC 5737): no host has it.
    let foreign = upstream("192.0.2.1:8001");
    world.book.port(taken.port(), "TAKEN");
    world.book.port(tcp.local_addr().unwrap().port(), "TAKEN");
    for (case, config, at) in [
        ("the mesh port is in use", &on_mesh, "127.0.0.1:TAKEN"),
        ("admin.http is in use", &on_admin, "127.0.0.1:TAKEN"),
        ("outbound.http is in use", &on_outbound, "127.0.0.1:TAKEN"),
        ("an upstream's port is in use", &on_upstream, "127.0.0.1:TAKEN"),
        ("an upstream's address is not of this host", &foreign, "192.0.2.1:8001"),
    ] {
        let done = world.fails(case, "web-1", config, at);
        assert_eq!(done.code, Some(69), "{case}");
    }

    let program = agent_program(&world.place, "web-1", &good).unwrap();
    let _running = LocalAgent::start(&world.place, "web-1", mesh, program).unwrap();
    let other = world.mesh_port();
    let second =
        agent_config(&world.place, "web-2", other, &[]).replace("web-2.sock", "web-1.sock");
    let done = world.fails("another agent has the admin socket", "web-2", &second, "web-1.sock");
    assert_eq!(done.code, Some(69));
    let nowhere =
        agent_config(&world.place, "web-2", other, &[]).replace("web-2.sock", "run/web-2.sock");
    world.fails("the admin socket's directory is missing", "web-2", &nowhere, "/D/run/web-2.sock");
    world.book.close();
}

#[test]
fn a_state_directory_that_cannot_be_used_is_not_mended_in_silence() {
    let mut world = World::new("state");
    let mesh = world.joined("web-1");
    let good = agent_config(&world.place, "web-1", mesh, &[]);
    let state = world.place.path("web-1.state");

    mode(&state, 0o755);
    let done =
        world.fails("the state directory is open to others", "web-1", &good, "/D/web-1.state");
    assert_eq!(done.code, Some(77));
    mode(&state, 0o700);
    let identity = state.join("identity/identity.pem");
    mode(&identity, 0o640);
    let done = world.fails("the key is open to others", "web-1", &good, "identity.pem");
    assert_eq!(done.code, Some(77));
    mode(&identity, 0o600);

    let renamed = good.replace("name = \"web-1\"", "name = \"web-2\"");
    let done = world.fails("the identity is of another node", "web-1", &renamed, "/D/web-1.state");
    assert_eq!(done.code, Some(78));

    let whole = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(&identity, &whole[..whole.len() / 2]).unwrap();
    let done = world.fails("the identity is damaged", "web-1", &good, "/D/web-1.state/identity");
    assert_eq!(done.code, Some(78));
    std::fs::write(&identity, &whole).unwrap();
    let bundle = state.join("identity/bundle.pem");
    std::fs::rename(&bundle, world.place.path("bundle.pem")).unwrap();
    let done = world.fails("the trust bundle is missing", "web-1", &good, "bundle.pem");
    assert_eq!(done.code, Some(78));
    std::fs::rename(world.place.path("bundle.pem"), &bundle).unwrap();

    let file = world.place.write("a-file", "").unwrap().display().to_string();
    let on_file = good.replace(&state.display().to_string(), &file);
    world.fails("the state directory is a file", "web-1", &on_file, "/D/a-file");

    let program = agent_program(&world.place, "web-1", &good).unwrap();
    let running = LocalAgent::start(&world.place, "web-1", mesh, program).unwrap();
    world.book.word(&format!("process {}", running.process().pid()), "process PID");
    let done = world.fails("another agent runs on it", "web-1", &good, "/D/web-1.state");
    assert_eq!(done.code, Some(69));
    world.book.close();
}

#[test]
fn an_agent_whose_seeds_do_not_answer_runs_and_says_so() {
    let mut world = World::new("seeds");
    let mesh = world.joined("web-1");
    let [seed] = free_ports();
    world.book.port(seed.port(), "SEED");
    let config = agent_config(&world.place, "web-1", mesh, &[seed]);
    let config = config.replace("seeds = [", "seeds = [\"seed.invalid:7940\", ");
    let program = agent_program(&world.place, "web-1", &config).unwrap();
    let agent = LocalAgent::start(&world.place, "web-1", mesh, program).unwrap();
    let command = "hearth-agent run --config /D/web-1.toml";
    let stderr = until_logged(agent.process(), "no seed answers");
    world.book.log("no seed answers", command, &stderr, "no seed answers");
    world.book.log("a seed's name is not known", command, &stderr, "seed cannot be looked up");

    let socket = agent.socket().display().to_string();
    let status = world.place.hearth(&["--socket", &socket, "status"]).unwrap();
    assert_eq!(status.code, Some(0), "{status:?}");
    let phase = status.stdout.lines().find(|line| line.starts_with("phase")).unwrap_or_default();
    assert!(phase.contains("joining"), "{}", status.stdout);
    assert!(status.stdout.contains("1 alive"), "{}", status.stdout);
    let json = world.place.hearth(&["--socket", &socket, "-o", "json", "status"]).unwrap();
    let view: hearth_proto::view::StatusView = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((view.phase.as_str(), view.alive), ("joining", 1));

    // What it waits for comes: it is in the mesh without being started again.
    let token = world.token("seed-1");
    let seeding = agent_config(&world.place, "seed-1", seed, &[])
        + &hearth_tests::loopback::join_table(world.control.address(), &token);
    let program = agent_program(&world.place, "seed-1", &seeding).unwrap();
    let _seed = LocalAgent::start(&world.place, "seed-1", seed, program).unwrap();
    wait_for("the agent to find its seed", Duration::from_secs(30), || {
        let view: hearth_proto::view::StatusView =
            agent.get("/v1/status").map_err(|e| e.to_string())?;
        match (view.phase.as_str(), view.alive) {
            ("serving", 2) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
    world.book.close();
}
