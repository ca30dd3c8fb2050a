//! The demo: a mesh that keeps answering while it is taken apart, told as it happens.
//!
//! ```text
//! demo ─┬─ story      the steps: which fault, what must come of it
//!       ├─ narrator   lines with the time, and a pulse so that waiting is not silence
//!       ├─ traces     the incidents' traces: complete? drawn as trees
//!       ├─ summary    the table for people, summary.json for programs, what went wrong
//!       └─ interrupt  Ctrl-C: clean up and go
//! ```
//!
//! Ends with 0 only when no request failed, every warm endpoint that was needed was activated and
//! every incident's trace arrived whole. `KEEP=1` leaves it running until Ctrl-C.

mod interrupt;
mod narrator;
mod story;
mod summary;
mod traces;

use std::process::ExitCode;

use crate::lab::binaries::target_dir;
use crate::lab::entry::enter;
use crate::lab::{Lab, LabError};
use interrupt::Interrupt;
use narrator::Narrator;
use summary::Summary;

/// Runs the demo and says how it went as an exit code.
#[must_use]
pub fn run() -> ExitCode {
    if let Err(code) = enter("demo") {
        return code;
    }
    let say = Narrator::new();
    match play(&say) {
        Ok(summary) if summary.problems.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            say.line(&format!("the demo broke off: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn play(say: &Narrator) -> Result<Summary, LabError> {
    let lab = Lab::new()?;
    let interrupt = Interrupt::watch(lab.dir());
    let outcome = story::tell(&lab, say, |mesh| {
        if std::env::var("KEEP").is_ok_and(|keep| !keep.is_empty() && keep != "0") {
            print!("{}", summary::commands(mesh));
            interrupt.wait();
        }
    });
    let well = outcome.as_ref().is_ok_and(|summary| summary.problems.is_empty());
    if !well {
        lab.keep_files();
    }
    let dir = target_dir().join("demo");
    if let Ok(summary) = &outcome {
        say.line(&format!("figures: {}", dir.join("summary.json").display()));
        for problem in &summary.problems {
            say.line(&format!("PROBLEM: {problem}"));
        }
    }
    outcome
}
