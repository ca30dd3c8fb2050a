//! `make sim-exclusive`: the owners of an exclusive service under every fault, many seeds, one process.
//!
//! A small world of its own beside `make sim`, over the same [`Seat`](hearth_proto::exclusive::Seat) that
//! agents run: it knows nothing of meshes, so that ten thousand seeds cost minutes. A seed that fails
//! prints the command that repeats it. `--break RULE` breaks a rule on purpose and must find a violation.

mod clock;
mod faults;
mod world;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use world::{Broken, Report, Tally};

struct Arguments {
    seeds: std::ops::Range<u64>,
    broken: Option<Broken>,
    story: bool,
}

fn main() -> ExitCode {
    let arguments = match read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!(
                "{why}\nusage: sim-exclusive [--seeds A..B | --seed N] [--break {}]",
                Broken::ALL.map(Broken::word).join("|")
            );
            return ExitCode::from(64);
        }
    };
    let (failed, tally) = many(&arguments);
    let seeds = arguments.seeds.end.saturating_sub(arguments.seeds.start);
    match arguments.broken {
        None => {
            println!("{seeds} seeds of exclusive: {failed} failed\n{tally}");
            if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Some(broken) => {
            println!("{seeds} seeds with the rule {:?} broken: {failed} found it", broken.word());
            if failed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

fn read(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { seeds: 0..500, broken: None, story: false };
    let number = |t: &str| t.parse::<u64>().map_err(|e| format!("{t:?}: {e}"));
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--seeds" => {
                let (from, to) = value.split_once("..").ok_or("write a range such as 0..200")?;
                arguments.seeds = number(from)?..number(to)?;
            }
            "--seed" => {
                let seed = number(&value)?;
                (arguments.seeds, arguments.story) = (seed..seed + 1, true);
            }
            "--break" => {
                let broken = Broken::ALL.into_iter().find(|b| b.word() == value);
                arguments.broken = Some(broken.ok_or_else(|| format!("{value:?} is no rule"))?);
            }
            _ => return Err(format!("{word:?} is not known")),
        }
    }
    Ok(arguments)
}

/// Runs all seeds on all cores. Returns how many failed.
fn many(arguments: &Arguments) -> (usize, Tally) {
    let next = AtomicU64::new(arguments.seeds.start);
    let sum = Mutex::new((0, Tally::default()));
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= arguments.seeds.end {
                        break;
                    }
                    let report = world::run(seed, arguments.broken, arguments.story);
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    show(seed, arguments, &report, sum.0);
                    sum.0 += usize::from(!report.violations.is_empty());
                    sum.1.add(&report.tally);
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn show(seed: u64, arguments: &Arguments, report: &Report, failed_before: usize) {
    report.story.iter().for_each(|line| println!("{line}"));
    if report.violations.is_empty() || (arguments.broken.is_some() && failed_before >= 1) {
        return;
    }
    println!("seed {seed}:");
    report.violations.iter().take(4).for_each(|v| println!("  VIOLATED {v}"));
    let broken = arguments.broken.map_or(String::new(), |b| format!(" --break {}", b.word()));
    println!(
        "  again: cargo run --profile lab -p hearth-proto --example sim-exclusive -- --seed {seed}{broken}"
    );
}
