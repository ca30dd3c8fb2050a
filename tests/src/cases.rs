//! Many rules checked on one expensive fixture: every one runs, the broken ones are told together.
//!
//! A pair of agents takes seconds to start and a rule takes milliseconds, so rules share a pair. Each is
//! printed as it ends; [`Cases::finish`] fails the test with all that did not hold. What cannot be run is
//! said, and counted as neither.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use serde::Deserialize;

/// The rules of one fixture.
#[derive(Debug)]
pub struct Cases {
    area: &'static str,
    held: usize,
    broken: Vec<String>,
}

/// One line of a client that checks rules of its own (`tests/clients/cases.py`).
#[derive(Debug, Deserialize)]
struct Line {
    rule: String,
    held: bool,
    seen: String,
}

impl Cases {
    /// None yet.
    #[must_use]
    pub fn new(area: &'static str) -> Self {
        Self { area, held: 0, broken: Vec::new() }
    }

    /// Checks one rule: `body` returns what it saw, or what was wrong. A panic in it is wrong too.
    pub fn check(&mut self, rule: &str, body: impl FnOnce() -> Result<String, String>) {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let word = panic.downcast_ref::<&str>().map(|word| (*word).to_owned());
            Err(text.or(word).unwrap_or_else(|| "a panic without words".to_owned()))
        });
        let took = start.elapsed().as_secs_f64();
        match outcome {
            Ok(seen) => self.note(rule, true, &format!("{seen} [{took:.2} s]")),
            Err(why) => self.note(rule, false, &format!("{why} [{took:.2} s]")),
        }
    }

    /// Takes over the lines of a client that checked rules of its own. Having printed none is wrong.
    pub fn absorb(&mut self, who: &str, stdout: &str, stderr: &str) {
        let lines: Vec<Line> =
            stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        for line in &lines {
            self.note(&format!("{who}: {}", line.rule), line.held, &line.seen);
        }
        if lines.is_empty() {
            let text = crate::lab::process::tail(stderr, 6);
            self.note(
                &format!("{who} checks its rules"),
                false,
                &format!("it said nothing: {text}"),
            );
        }
    }

    /// Says that a rule was not checked, and why.
    pub fn not_run(&self, rule: &str, reason: &str) {
        println!("  NOT RUN {}: {rule}: {reason}", self.area);
    }

    fn note(&mut self, rule: &str, held: bool, seen: &str) {
        println!("  {} {}: {rule}  {seen}", if held { "ok    " } else { "BROKEN" }, self.area);
        if held {
            self.held += 1;
        } else {
            self.broken.push(format!("{rule}: {seen}"));
        }
    }

    /// Ends the test.
    ///
    /// # Panics
    /// With every rule that did not hold; also when none was checked at all.
    pub fn finish(self) {
        let Self { area, held, broken } = self;
        assert!(
            broken.is_empty(),
            "{area}: {held} rules hold, {} do not:\n  {}",
            broken.len(),
            broken.join("\n  ")
        );
        assert!(held > 0, "{area}: no rule was checked");
        println!("  {area}: all {held} rules hold");
    }
}
