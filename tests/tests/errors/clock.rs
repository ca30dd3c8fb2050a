//! A clock that is two hours off. Programs are given another time by Debian's `faketime`; where that is
//! not installed the test says NOT RUN.

use std::path::PathBuf;

use hearth_tests::loopback::{LocalAgent, agent_config, agent_program, ended, join_table};

use crate::world::{SOON, World, at_another_time, until_logged};

/// Two hours and some minutes, so that it reads "2 h" however long the test takes.
const OFF: &str = "140m";

/// The library, wherever this machine's architecture has it.
fn library() -> Option<PathBuf> {
    let places = std::fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    let mut found = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1"));
    found.find(|path| path.is_file())
}

#[test]
fn a_clock_that_is_two_hours_off_is_named_with_both_times() {
    let Some(library) = library() else {
        println!("NOT RUN: a clock two hours off: faketime is not installed (Debian: faketime)");
        return;
    };
    let library = library.display().to_string();
    let mut world = World::new("clock");
    let token = world.token("web-1");
    let config = world.joining("web-1", &token);
    let at = |world: &World, config: &str, offset: &str| {
        let program = agent_program(&world.place, "web-1", config).unwrap();
        world.place.start(at_another_time(program, &library, offset)).unwrap()
    };

    // Behind: the control plane's certificate is of the future, the token is not spent on that.
    let done = ended(&at(&world, &config, &format!("-{OFF}")), SOON).unwrap();
    world.note("two hours behind, at the join", "web-1", &done, "127.0.0.1:CONTROL");
    assert_eq!(done.code, Some(75));

    // Ahead: found when the control plane says what time it has; the identity is kept, not used.
    let done = ended(&at(&world, &config, &format!("+{OFF}")), SOON).unwrap();
    world.note("two hours ahead, at the join", "web-1", &done, "127.0.0.1:CONTROL");
    assert_eq!(done.code, Some(75));

    // As the text promised: with the clock set right no new token is needed.
    let seed = world.mesh_port();
    let token = world.token("seed-1");
    let seeding = agent_config(&world.place, "seed-1", seed, &[])
        + &join_table(world.control.address(), &token);
    let program = agent_program(&world.place, "seed-1", &seeding).unwrap();
    let seed_agent = LocalAgent::start(&world.place, "seed-1", seed, program).unwrap();
    let seeded = config.replace("seeds = []", &format!("seeds = [\"{seed}\"]"));
    let right = world.agent("web-1", &seeded);
    until_logged(&right, "agent ready");
    right.kill().unwrap();

    // A member whose clock was set wrong: it runs, and says why it has no links.
    let wrong = at(&world, &seeded, &format!("-{OFF}"));
    let command = "hearth-agent run --config /D/web-1.toml";
    let stderr = until_logged(&wrong, "handshake refused");
    world.book.log("two hours behind, as a member", command, &stderr, "handshake refused");
    assert!(wrong.running(), "{}", wrong.stderr());
    assert!(seed_agent.process().running());
    world.book.close();
}
