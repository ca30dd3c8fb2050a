//! `make sim`: whole meshes under a virtual clock; see `hearth_tests::sim`.

use std::process::{Command, ExitCode};

use clap::Parser;
use hearth_tests::sim::swim::{lifeguard, rapid, theory};
use hearth_tests::sim::{availability, fleet, run, scale, scenario, tally};

/// Runs meshes under a virtual clock and checks their invariants.
#[derive(Parser)]
struct Arguments {
    /// Run this seed and print its hash, its story and its numbers
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run these seeds (`A..B`, B not included) on all cores; print those that fail
    #[arg(long, value_parser = range, default_value = "0..200")]
    seeds: std::ops::Range<u64>,
    /// Hosts of the mesh
    #[arg(long, default_value_t = 20)]
    nodes: usize,
    /// Which scenario; `list` names them
    #[arg(long, default_value = "random")]
    scenario: String,
    /// Keep each seed's result of the scenario `failover` here as it comes, and run none that is here
    /// already: begin a new one with each new program
    #[arg(long)]
    journal: Option<std::path::PathBuf>,
    /// The mesh of the scenario `scale-one` begins whole, as those of more than 2,000 members do
    #[arg(long)]
    whole: bool,
    /// How far members are from each other in the scenario `scale-one`
    #[arg(long, value_enum, default_value = "lan")]
    paths: scale::Paths,
    /// Where the figures of the scenario `failover` are written
    #[arg(long, default_value = "target/sim/failover.json")]
    out: std::path::PathBuf,
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("write a range such as 0..200")?;
    let number = |t: &str| t.parse::<u64>().map_err(|e| format!("{t:?}: {e}"));
    Ok(number(from)?..number(to)?)
}

/// Scenarios that compare and are no pass of invariants over seeds.
fn compared(arguments: &Arguments) -> Option<ExitCode> {
    let seeds = arguments.seed.map_or(arguments.seeds.clone(), |seed| seed..seed + 1);
    let (table, holds, json) = match arguments.scenario.as_str() {
        "theory" => {
            let outcome = theory::check(seeds, arguments.nodes);
            (outcome.table(), outcome.holds(), serde_json::to_string_pretty(&outcome))
        }
        "lifeguard" | "lifeguard-slice" => {
            let outcome = lifeguard::compare(seeds, arguments.scenario == "lifeguard");
            (outcome.table(), outcome.holds(), serde_json::to_string_pretty(&outcome))
        }
        "rapid" => {
            let outcome = rapid::check(seeds, arguments.nodes);
            (outcome.table(), outcome.holds(), serde_json::to_string_pretty(&outcome))
        }
        "bootstrap" => {
            let sizes = [arguments.nodes / 2, arguments.nodes];
            let boots = sizes.map(|nodes| fleet::boot(seeds.start, nodes));
            let outcome = fleet::Boots(boots.into());
            (outcome.table(), outcome.holds(), serde_json::to_string_pretty(&outcome))
        }
        "scale" => {
            let mut sizes = vec![100, 1_000, arguments.nodes];
            sizes.retain(|size| *size <= arguments.nodes);
            sizes.dedup();
            let outcome = scale::measure(&sizes, |nodes, paths| {
                let mut one = Command::new("/proc/self/exe");
                let paths = clap::ValueEnum::to_possible_value(&paths);
                one.args(["--scenario", "scale-one", "--seed", &seeds.start.to_string()])
                    .args(["--nodes", &nodes.to_string(), "--paths"])
                    .args(paths.iter().map(clap::builder::PossibleValue::get_name));
                one
            });
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(error) => {
                    eprintln!("{error}");
                    return Some(ExitCode::from(70));
                }
            };
            let _ = std::fs::create_dir_all("target/sim");
            if let Err(error) = std::fs::write("target/sim/scale.svg", outcome.svg()) {
                eprintln!("target/sim/scale.svg cannot be written: {error}");
                return Some(ExitCode::from(74));
            }
            (outcome.table(), outcome.holds(), serde_json::to_string_pretty(&outcome))
        }
        "scale-one" => {
            let one = scale::one(seeds.start, arguments.nodes, arguments.paths, arguments.whole);
            println!("{}", serde_json::to_string(&one).unwrap_or_default());
            return Some(ExitCode::SUCCESS);
        }
        _ => return None,
    };
    print!("{table}");
    let path = std::path::Path::new("target/sim").join(format!("{}.json", arguments.scenario));
    let written = std::fs::create_dir_all("target/sim")
        .and_then(|()| std::fs::write(&path, json.unwrap_or_default() + "\n"));
    if let Err(error) = written {
        eprintln!("{} cannot be written: {error}", path.display());
        return Some(ExitCode::from(74));
    }
    Some(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(code) = compared(&arguments) {
        return code;
    }
    let Some(scenario) = scenario::named(&arguments.scenario) else {
        for s in scenario::SCENARIOS {
            println!("{:14} {}", s.name, s.about);
        }
        return if arguments.scenario == "list" { ExitCode::SUCCESS } else { ExitCode::from(64) };
    };
    let failed = match arguments.seed {
        Some(seed) => {
            let report = run::one(seed, arguments.nodes, scenario);
            for line in &report.story {
                println!("{line}");
            }
            print!("{report}");
            usize::from(!report.violations.is_empty())
        }
        None if scenario.name == "failover" => {
            let journal = arguments.journal.as_deref();
            let outcome = match tally::many(arguments.seeds, arguments.nodes, scenario, journal) {
                Ok(outcome) => outcome,
                Err(error) => {
                    eprintln!("the journal cannot be kept: {error}");
                    return ExitCode::from(74);
                }
            };
            print!("{}", outcome.table());
            if let Err(error) = outcome.write(&arguments.out) {
                eprintln!("{} cannot be written: {error}", arguments.out.display());
                return ExitCode::from(74);
            }
            usize::from(!outcome.holds())
        }
        None if scenario.name == "availability" => {
            let outcome = availability::many(arguments.seeds);
            print!("{}", outcome.table());
            match outcome.holds() {
                Ok(holds) => usize::from(!holds),
                Err(error) => {
                    eprintln!("{error}");
                    1
                }
            }
        }
        None => run::many(arguments.seeds, arguments.nodes, scenario),
    };
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
