//! What processes have cost so far, as the kernel accounts it under `/proc`.
//!
//! Reads only. Processor time is user plus system time of all threads, also of those that ended. What
//! the kernel does for a socket in an interrupt is charged to whoever ran at that moment; on the
//! loopback that is the sender, the same way for every pair that is compared.

use std::fs::read_to_string;
use std::io;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Ticks per second in `/proc`: the kernel scales to this value for programs, whatever its own is.
const TICKS: f64 = 100.0;
const KIB_PER_MIB: f64 = 1024.0;

/// Processes counted as one: a side of a pair, the application, the client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Watched {
    /// Name in the result.
    pub label: String,
    /// Its processes.
    pub pids: Vec<i32>,
}

/// A reading of everything watched, and of the machine.
#[derive(Debug, Clone)]
pub struct Reading {
    at: Instant,
    /// Processor seconds so far, in the order watched.
    seconds: Vec<f64>,
    /// Processor seconds so far of the whole machine, idle time left out.
    machine: f64,
}

/// What was used between two readings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Used {
    /// Wall-clock seconds between them.
    pub elapsed: f64,
    /// Processor seconds of everything watched, in the order watched.
    pub seconds: Vec<f64>,
    /// Processor seconds of everything else on the machine: what disturbed the measurement.
    pub others: f64,
}

/// Memory of one group of processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident set, MiB.
    pub rss: f64,
    /// Proportional set (pages shared with others counted in parts), MiB.
    pub pss: f64,
}

impl Reading {
    /// Reads it all now.
    ///
    /// # Errors
    /// When a watched process is gone: a figure without it would be a lie.
    pub fn take(watched: &[Watched]) -> io::Result<Self> {
        let at = Instant::now();
        let sum = |group: &Watched| group.pids.iter().map(|&pid| seconds(pid)).sum();
        let seconds = watched.iter().map(sum).collect::<io::Result<_>>()?;
        Ok(Self { at, seconds, machine: machine(&read_to_string("/proc/stat")?) })
    }

    /// What was used since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Used {
        let seconds: Vec<f64> =
            self.seconds.iter().zip(&before.seconds).map(|(now, was)| now - was).collect();
        let known: f64 = seconds.iter().sum();
        Used {
            elapsed: (self.at - before.at).as_secs_f64(),
            others: (self.machine - before.machine - known).max(0.0),
            seconds,
        }
    }
}

/// Memory of a group now.
///
/// # Errors
/// When one of its processes is gone.
pub fn memory(group: &Watched) -> io::Result<Memory> {
    let mut sum = Memory::default();
    for pid in &group.pids {
        let text = read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        sum.rss += field(&text, "Rss:") / KIB_PER_MIB;
        sum.pss += field(&text, "Pss:") / KIB_PER_MIB;
    }
    Ok(sum)
}

fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

fn seconds(pid: i32) -> io::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = read_to_string(&path)
        .map_err(|e| io::Error::other(format!("cannot read {path} (did it end?): {e}")))?;
    ticks(&text).map(|ticks| ticks / TICKS).ok_or_else(|| {
        io::Error::other(format!("{path} has not the form that proc(5) describes: {text}"))
    })
}

/// Fields 14 and 15 of `/proc/PID/stat`. The second, the name, may hold blanks and brackets.
fn ticks(stat: &str) -> Option<f64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

/// Seconds of the first line of `/proc/stat` without idle, iowait and the guests' (counted in user).
fn machine(stat: &str) -> f64 {
    let line = stat.lines().next().unwrap_or_default();
    let all = line.split_whitespace().skip(1).take(8).enumerate();
    let busy = all.filter(|(n, _)| !matches!(n, 3 | 4));
    busy.filter_map(|(_, text)| text.parse::<f64>().ok()).sum::<f64>() / TICKS
}

#[cfg(test)]
mod tests {
    use super::{Reading, Watched, machine, memory, ticks};

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 1 0 99 1 1";
        assert_eq!(ticks(stat), Some(300.0));
        assert_eq!(ticks("7 (x) S 1"), None);
    }

    #[test]
    fn idle_time_is_not_use() {
        let stat = "cpu  100 0 100 5000 300 0 50 50 20 0\ncpu0 1 1 1";
        assert!((machine(stat) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error_and_a_running_one_has_memory() {
        let group = |pid| Watched { label: "x".to_owned(), pids: vec![pid] };
        assert!(Reading::take(&[group(i32::MAX)]).is_err());
        let own = group(std::process::id().cast_signed());
        assert!(Reading::take(std::slice::from_ref(&own)).is_ok());
        assert!(memory(&own).unwrap().rss > 0.0);
    }
}
