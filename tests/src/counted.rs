//! The agent as it is, with every allocation on record while somebody wants to know.
//!
//! `counted-agent run --config FILE` is `hearth-agent run --config FILE` with dhat's allocator and one more
//! thread, which answers on the Unix socket `FILE.count`: `start` begins a record, `stop` ends it, writes
//! `FILE.dhat.json` (for dhat's viewer, or [`crate::bench::allocations`]) and says how many blocks and bytes
//! were allocated. The agent itself does not know.
//!
//! Slow while it counts: each allocation is traced back to where it came from.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dhat::{HeapStats, Profiler};

/// Frames kept of each trace: enough to reach the traffic path from the depths of a library.
const FRAMES: usize = 40;

/// The program.
pub fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [verb, flag, config] = &arguments[..] else {
        eprintln!("usage: counted-agent run --config FILE");
        return ExitCode::FAILURE;
    };
    if verb != "run" || flag != "--config" {
        eprintln!("usage: counted-agent run --config FILE");
        return ExitCode::FAILURE;
    }
    let config = PathBuf::from(config);
    let socket = socket(&config);
    // Left by an agent that was killed.
    let _ = std::fs::remove_file(&socket);
    let listener = match UnixListener::bind(&socket) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("counted-agent: cannot listen on {}: {error}", socket.display());
            return ExitCode::FAILURE;
        }
    };
    let profile = profile(&config);
    std::thread::spawn(move || {
        let mut profiler = None;
        for stream in listener.incoming().flatten() {
            // Who asked has gone: nobody to tell.
            let _ = answer(stream, &mut profiler, &profile);
        }
    });
    hearth_agent::run::main(&config)
}

/// Where the agent with this configuration is asked.
#[must_use]
pub fn socket(config: &Path) -> PathBuf {
    config.with_extension("toml.count")
}

/// Where the record of the agent with this configuration is written.
#[must_use]
pub fn profile(config: &Path) -> PathBuf {
    config.with_extension("toml.dhat.json")
}

/// Blocks and bytes allocated in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Blocks.
    pub blocks: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Has the agent with this configuration begin a record.
///
/// # Errors
/// When it does not answer.
pub fn start(config: &Path) -> io::Result<()> {
    ask(config, "start").map(drop)
}

/// Has it end the record.
///
/// # Errors
/// When it does not answer with two numbers.
pub fn stop(config: &Path) -> io::Result<Totals> {
    let line = ask(config, "stop")?;
    let mut numbers = line.split_whitespace().map_while(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(blocks), Some(bytes)) => Ok(Totals { blocks, bytes }),
        _ => Err(io::Error::other(format!("not two numbers: {line:?}"))),
    }
}

fn ask(config: &Path, what: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket(config))?;
    writeln!(stream, "{what}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

fn answer(
    mut stream: UnixStream,
    profiler: &mut Option<Profiler>,
    profile: &Path,
) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    match (line.trim(), profiler.is_some()) {
        ("start", false) => {
            let builder = Profiler::builder().file_name(profile).trim_backtraces(Some(FRAMES));
            *profiler = Some(builder.build());
            writeln!(stream, "started")
        }
        ("stop", true) => {
            let stats = HeapStats::get();
            *profiler = None;
            writeln!(stream, "{} {}", stats.total_blocks, stats.total_bytes)
        }
        (_, running) => writeln!(stream, "cannot {line:?} while a record runs: {running}"),
    }
}
