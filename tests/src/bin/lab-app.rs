//! The lab's own application: see `hearth_tests::app` for what it answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use hearth_tests::app::{AppSpec, serve};

/// A small HTTP service that names itself, can be activated, and counts what it executes.
#[derive(Parser)]
struct Flags {
    /// Name put into answers.
    #[arg(long)]
    host: String,
    /// Address to listen on.
    #[arg(long)]
    listen: SocketAddr,
    /// Start not activated: 503 until POST /activate.
    #[arg(long)]
    warm: bool,
    /// How long POST /activate takes, in milliseconds.
    #[arg(long, default_value_t = 0)]
    activate_ms: u64,
    /// File to which each executed id is added.
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// File to which each request's term is added, behind its moment.
    #[arg(long)]
    terms: Option<PathBuf>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let spec = AppSpec {
        host: flags.host,
        listen: flags.listen,
        warm: flags.warm,
        activate: Duration::from_millis(flags.activate_ms),
        ledger: flags.ledger,
        terms: flags.terms,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| runtime.block_on(serve(spec)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-app: cannot serve on {}: {error}", flags.listen);
            ExitCode::FAILURE
        }
    }
}
