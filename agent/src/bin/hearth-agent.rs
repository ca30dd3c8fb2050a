//! `hearth-agent`: the agent's command line. Everything it does is in the library.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use hearth_agent::config::Config;
use hearth_agent::exit::Exit;
use hearth_agent::run;

/// Hearth's agent: finds the other agents, carries the services' traffic to each other over mutual TLS, and
/// moves it by itself when a host dies, hangs or falls silent.
#[derive(Parser)]
#[command(
    name = "hearth-agent",
    version,
    after_help = "\
Signals: SIGTERM drains, leaves the mesh and stops; a second one stops at once. SIGHUP reloads the
configuration, or keeps the old one and says why.

Every key of the configuration can be set by environment as HEARTH_<SECTION>_<KEY>, for example
HEARTH_MESH_LISTEN=0.0.0.0:7940.

Examples:
  hearth-agent check --config /etc/hearth/agent.toml
  hearth-agent run --config /etc/hearth/agent.toml
"
)]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Run the agent.
    Run {
        /// The configuration.
        #[arg(long, default_value = "/etc/hearth/agent.toml")]
        config: PathBuf,
    },
    /// Check a configuration as `run` and a reload would, and change nothing.
    Check {
        /// The configuration.
        #[arg(long, default_value = "/etc/hearth/agent.toml")]
        config: PathBuf,
    },
    /// Print the version.
    Version,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(told) => {
            // Nothing is left to do if even this cannot be printed.
            let _ = told.print();
            return if told.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    match arguments.command {
        What::Run { config } => run::main(&config),
        What::Check { config } => match Config::load(&config, std::env::vars()) {
            Ok(_) => {
                println!("{}: no mistakes found", config.display());
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                Exit::Config.into()
            }
        },
        What::Version => {
            println!("hearth-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}
