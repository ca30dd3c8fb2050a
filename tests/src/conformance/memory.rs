//! How much memory a process holds, from `/proc`.

/// Resident bytes now.
///
/// # Errors
/// In words, where the process is gone.
pub fn resident(pid: i32) -> Result<u64, String> {
    field(pid, "VmRSS:")
}

/// The most it ever held.
///
/// # Errors
/// In words, where the process is gone.
pub fn peak(pid: i32) -> Result<u64, String> {
    field(pid, "VmHWM:")
}

fn field(pid: i32, name: &str) -> Result<u64, String> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| format!("{path} has no {name}"))
}
