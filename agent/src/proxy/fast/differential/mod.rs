//! The fast path held to hyper's reading: the same bytes for both, over as many seeded messages as asked
//! for.
//!
//! The rule is one-sided. What ours takes, hyper takes too, and as the same message with the same end; what
//! ours leaves to hyper or refuses, hyper may do with as it likes. So ours is the stricter wherever the two
//! differ, and nothing can be smuggled between two hops of which one runs this and the other hyper.
//!
//! Each message has a seed of its own, and a failure prints the command that makes that one again. `make
//! fuzz` runs ten million, `cargo test` a slice; both print how many messages of each class there were, and
//! fail where a class that matters was hardly seen.
//!
//! | module | does |
//! |---|---|
//! | `dice` | seeded choices |
//! | `grammar` | messages, plain and odd |
//! | `mutation` | bytes of messages, tampered with |
//! | `oracle` | hyper's server and client over bytes in memory |
//! | `requests` | [`super::request`] against hyper's server |
//! | `forwarded` | [`super::owner::write_request`] against hyper's server |
//! | `answers` | [`super::response`] and [`super::chunked`] against hyper's client |
//! | `written` | [`super::answer`] against hyper's client |
//! | `frames` | what else a peer sends: frames, heads, blocks of fields |

mod answers;
mod dice;
mod forwarded;
mod frames;
mod grammar;
mod mutation;
mod oracle;
mod requests;
mod written;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::super::head::Fields;
use dice::Dice;

/// Messages of all tests together, unless `HEARTH_FUZZ_MESSAGES` says otherwise.
const MESSAGES: u64 = 200_000;

/// How many messages of each class there were.
#[derive(Default)]
struct Counts {
    classes: BTreeMap<&'static str, u64>,
    all: u64,
}

impl Counts {
    fn add(&mut self, class: &'static str) {
        *self.classes.entry(class).or_default() += 1;
    }

    /// Asserts that a class makes up at least so many per cent. A handful of messages shows no shares.
    fn at_least(&self, class: &str, percent: u64) {
        let seen = self.classes.get(class).copied().unwrap_or(0);
        assert!(
            self.all < 1000 || seen * 100 >= self.all * percent,
            "only {seen} of {} messages are {class}: the generator misses what it is for",
            self.all
        );
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(parsed.unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Runs `percent` of all messages through `check`, and prints what they were.
fn run(test: &str, percent: u64, mut check: impl FnMut(&mut Dice, &mut Counts)) -> Counts {
    let all = number("HEARTH_FUZZ_MESSAGES").unwrap_or(MESSAGES);
    let first = number("HEARTH_FUZZ_SEED").unwrap_or(0x4845_4152_5448_0000);
    let mut counts = Counts { all: (all * percent / 100).max(1), ..Counts::default() };
    let began = Instant::now();
    for n in 0..counts.all {
        let seed = first.wrapping_add(n);
        let checked = AssertUnwindSafe(|| check(&mut Dice::new(seed), &mut counts));
        if let Err(panic) = catch_unwind(checked) {
            eprintln!(
                "again: HEARTH_FUZZ_SEED={seed:#x} HEARTH_FUZZ_MESSAGES=1 cargo test --profile lab \
                 -p hearth-agent --lib {test} -- --nocapture"
            );
            resume_unwind(panic);
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!("{test}: {} in {took:.1} s, {:.0} per second", counts.all, counts.all as f64 / took);
    for (class, seen) in &counts.classes {
        println!("  {seen:>9}  {:>5.1} %  {class}", *seen as f64 * 100.0 / counts.all as f64);
    }
    counts
}

/// Bytes as they can be read in a failure.
fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Fields that are passed on, of those in `map`.
fn without(map: &HeaderMap, drop: impl Fn(&str) -> bool) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, value) in map {
        if !drop(name.as_str()) {
            kept.append(name, value.clone());
        }
    }
    kept
}

/// Reads lines that ours wrote, as strictly as a peer does.
fn fields_of(lines: &[u8]) -> HeaderMap {
    let fields = Fields::unread(Bytes::copy_from_slice(lines));
    HeaderMap::try_from(&fields)
        .unwrap_or_else(|e| panic!("it wrote lines with {e}: {}", shown(lines)))
}

/// Asserts that two sets of fields have the same names and values in the same order.
fn assert_same(ours: &HeaderMap, theirs: &HeaderMap, bytes: &[u8]) {
    assert!(
        ours.iter().eq(theirs.iter()),
        "fields differ\nours:   {ours:?}\ntheirs: {theirs:?}\nbytes:  {}",
        shown(bytes)
    );
}

/// `bytes` in one to five pieces.
fn cut<'b>(dice: &mut Dice, bytes: &'b [u8]) -> Vec<&'b [u8]> {
    let mut ends: Vec<usize> = (0..dice.below(5)).map(|_| dice.below(bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut start = 0;
    ends.into_iter()
        .map(|end| {
            let piece = &bytes[start..end];
            start = end;
            piece
        })
        .collect()
}

fn lines(text: &[u8]) -> Fields {
    Fields::unread(BytesMut::from(text).freeze())
}
