//! Becoming a member: tokens that are wrong, control planes that are not there or not the right one.

use std::net::TcpListener;
use std::time::Duration;

use hearth_tests::lab::wait::wait_for;
use hearth_tests::loopback::{ControlPlane, Place, agent_config, ended, join_table, log_lines};

use crate::world::{World, until_logged};

/// An agent tries for a minute to reach a control plane before it leaves it to the service manager.
const PATIENCE: Duration = Duration::from_secs(100);

/// The token with another secret.
fn unknown(token: &str) -> String {
    let (rest, secret) = token.rsplit_once('.').unwrap();
    format!("{rest}.{}", "A".repeat(secret.len()))
}

#[test]
fn a_node_that_cannot_join_says_why_and_what_to_do() {
    let mut world = World::new("join");
    let good = world.token("web-1");

    // These two take a minute; they run while the others are tried.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.book.port(nobody.port(), "NOBODY");
    let mesh = world.mesh_port();
    let absent = agent_config(&world.place, "absent", mesh, &[]) + &join_table(nobody, &good);
    let absent = world.agent("absent", &absent);
    let mesh = world.mesh_port();
    let nameless = agent_config(&world.place, "nameless", mesh, &[]) + &join_table(nobody, &good);
    let nameless = nameless.replace(&nobody.to_string(), "control.invalid:7945");
    let nameless = world.agent("nameless", &nameless);

    let mesh = world.mesh_port();
    let bare = agent_config(&world.place, "web-1", mesh, &[]);
    let done = world.fails("no [join], no identity", "web-1", &bare, "/D/web-1.toml");
    assert_eq!(done.code, Some(78));
    let joining = bare.clone() + &join_table(world.control.address(), &good);
    let tokenless = joining.replace(&format!("token = \"{good}\"\n"), "");
    let done = world.fails("[join] without a token", "web-1", &tokenless, "/D/web-1.toml");
    assert_eq!(done.code, Some(78));
    let path = world.place.path("token").display().to_string();
    let by_file =
        joining.replace(&format!("token = \"{good}\""), &format!("token_file = \"{path}\""));
    let done = world.fails("a token file that is missing", "web-1", &by_file, "/D/token");
    assert_eq!(done.code, Some(78));
    world.place.write("token", "hearth1.abc\n").unwrap();
    let done = world.fails("a token file that holds no token", "web-1", &by_file, "token");
    assert_eq!(done.code, Some(78));

    let wrong = joining.replace(&good, &unknown(&good));
    let done = world.fails("a token nobody made", "web-1", &wrong, "127.0.0.1:CONTROL");
    assert_eq!(done.code, Some(77));
    let others = world.token("web-2");
    let of_other = joining.replace(&good, &others);
    let done = world.fails("a token of another name", "web-1", &of_other, "127.0.0.1:CONTROL");
    assert_eq!(done.code, Some(77));
    let expired = expired_token(&world);
    let late = joining.replace(&good, &expired);
    let done = world.fails("a token that expired", "web-1", &late, "127.0.0.1:CONTROL");
    assert_eq!(done.code, Some(77));
    let used = world.token("spent");
    world.joining_with("spent", &used);
    let again = world.joining("spent", &used).replace("spent.state", "spent-again.state");
    let done = world.fails("a token that was used", "spent", &again, "127.0.0.1:CONTROL");
    assert_eq!(done.code, Some(77));

    let elsewhere = Place::new("join-elsewhere").unwrap();
    let foreign = ControlPlane::init(&elsewhere).unwrap();
    foreign.serve(&elsewhere).unwrap();
    let theirs = foreign.token(&elsewhere, "web-1").unwrap();
    let root = hearth_agent::enrol::JoinToken::parse(&theirs).unwrap().root;
    let short: String = root[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    world.book.word(&format!("{short}…"), "HASH");
    let of_other_mesh = joining.replace(&good, &theirs);
    let done = world.fails("a token of another mesh", "web-1", &of_other_mesh, "127.0.0.1:CONTROL");
    assert_eq!(done.code, Some(77));

    // The metrics port speaks HTTP without TLS.
    let metrics = log_lines(&world.control.process().stderr());
    let metrics = metrics.iter().find(|line| line["event"] == "listening").unwrap();
    let metrics = metrics["fields"]["metrics"].as_str().unwrap().to_owned();
    world.book.port(metrics.rsplit_once(':').unwrap().1.parse().unwrap(), "METRICS");
    let plain = joining.replace(&world.control.address().to_string(), &metrics);
    let done = world.fails("a port that is not the control API's", "web-1", &plain, "METRICS");
    assert_eq!(done.code, Some(75));

    // Within a second it is known why nothing happens; a minute later the service manager is told.
    for (case, name, process, place) in [
        ("a control plane that is not there", "absent", absent, "127.0.0.1:NOBODY"),
        ("a control plane whose name is not known", "nameless", nameless, "control.invalid:7945"),
    ] {
        let stderr = until_logged(&process, "not joined yet");
        let command = format!("hearth-agent run --config /D/{name}.toml");
        world.book.log(&format!("{case}, at once"), &command, &stderr, "not joined yet");
        let done = ended(&process, PATIENCE).unwrap();
        world.note(&format!("{case}, after a minute"), name, &done, place);
        assert_eq!(done.code, Some(75), "{case}");
    }
    world.book.close();
}

/// A token that was good for a second.
fn expired_token(world: &World) -> String {
    let dir = world.control.dir().display().to_string();
    let args = ["--dir", &dir, "token", "create", "web-1", "--ttl", "1s"];
    let made = world.place.hearth(&args).unwrap();
    assert_eq!(made.code, Some(0), "{made:?}");
    let until = std::time::Instant::now() + Duration::from_millis(1_100);
    wait_for("the token to expire", Duration::from_secs(5), || {
        if std::time::Instant::now() > until { Ok(()) } else { Err("it is good".to_owned()) }
    })
    .unwrap();
    made.stdout.trim().to_owned()
}
