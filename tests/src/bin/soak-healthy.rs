//! `make soak-healthy`: see `hearth_tests::soak`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use hearth_tests::lab::Lab;
use hearth_tests::lab::binaries::target_dir;
use hearth_tests::lab::entry::enter;
use hearth_tests::soak::{Strain, run};

/// Keeps a mesh of real agents under a strain that kills nobody, and counts whom they take for dead. Ends
/// with 0 when nobody was, and no POST was executed twice.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    strain: Word,
    /// For how long
    #[arg(long, global = true, default_value_t = 10.0, value_name = "MINUTES")]
    minutes: f64,
    /// Requests per second, of all callers together; a tenth are POSTs
    #[arg(long, global = true, default_value_t = 100)]
    rate: u32,
    /// Lines of the service's policy beside the lab's own, such as 'max_requests = "auto"'
    #[arg(long, global = true, default_value = "", value_name = "LINES")]
    policy: String,
}

#[derive(Subcommand)]
enum Word {
    /// Frames are lost by chance on the links of the hosts that serve, each way
    Loss {
        /// How many, per cent
        percent: f32,
    },
    /// Twice as many busy processes as cores
    Saturated,
    /// The caller's agent is stopped for 0.1 to 10 s, again and again
    ObserverStopped,
    /// Applications get ten times the requests they can answer
    Overload,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(code) = enter("soak-healthy") {
        return code;
    }
    let strain = match arguments.strain {
        Word::Loss { percent } => Strain::Loss(percent),
        Word::Saturated => Strain::Saturated,
        Word::ObserverStopped => Strain::ObserverStopped,
        Word::Overload => Strain::Overload,
    };
    let length = Duration::from_secs_f64(arguments.minutes.max(0.05) * 60.0);
    let verdict =
        Lab::new().and_then(|lab| run(&lab, strain, length, arguments.rate, &arguments.policy));
    match verdict {
        Ok(verdict) => {
            print!("{verdict}");
            let path = target_dir().join("soak-healthy.jsonl");
            let line = serde_json::to_string(&verdict).unwrap_or_default();
            let written =
                std::fs::OpenOptions::new().create(true).append(true).open(&path).and_then(
                    |mut file| std::io::Write::write_all(&mut file, (line + "\n").as_bytes()),
                );
            if let Err(error) = written {
                eprintln!("soak-healthy: cannot write {}: {error}", path.display());
            }
            if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("soak-healthy: {error}");
            ExitCode::from(70)
        }
    }
}
