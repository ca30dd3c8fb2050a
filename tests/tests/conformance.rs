//! The traffic path held to the rules of HTTP through a pair of real agents: caller's agent, mesh, owner's
//! agent, application.
//!
//! Each row of a table is a test of its own name (`h1::encoding::length_and_chunked`), so one can be run
//! alone: `cargo test --test conformance -- h1::encoding`. One pair serves all; it is started by the first
//! test that needs it. Where a rule leaves a choice the stricter side is demanded.
//!
//! `HEARTH_CONFORMANCE=full` raises sizes and counts (`make conformance`).

#[path = "conformance/curl.rs"]
mod curl;
#[path = "conformance/h1/mod.rs"]
mod h1;
#[path = "conformance/h2/mod.rs"]
mod h2;
#[path = "conformance/known.rs"]
mod known;
#[path = "conformance/large.rs"]
mod large;
#[path = "conformance/misbehaviour/mod.rs"]
mod misbehaviour;
#[path = "conformance/modern.rs"]
mod modern;
#[path = "conformance/nginx.rs"]
mod nginx;
#[path = "conformance/streams.rs"]
mod streams;
#[path = "conformance/world.rs"]
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Tests wait more than they compute.
const THREADS: usize = 4;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let mut trials = Vec::new();
    trials.extend(h1::cases().into_iter().map(|case| {
        let name = case.name.clone();
        Trial::test(name, move || world::lane()?.run(&case).map_err(Into::into))
    }));
    trials.extend(h2::trials());
    trials.extend(modern::trials());
    trials.extend(streams::trials());
    trials.extend(curl::trials());
    trials.extend(large::trials());
    trials.extend(misbehaviour::trials());
    let trials = trials.into_iter().map(known::marked).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    world::end(conclusion.has_failed());
    conclusion.exit_code()
}
