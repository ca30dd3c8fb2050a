//! What a process holds, from `/proc`: memory and descriptors.

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

/// Lets the most it ever held begin anew.
///
/// # Errors
/// In words, where that may not be written.
pub fn forget_peak(pid: i32) -> Result<(), String> {
    let path = format!("/proc/{pid}/clear_refs");
    std::fs::write(&path, "5").map_err(|e| format!("{path}: {e}"))
}

/// Descriptors open now.
///
/// # Errors
/// In words, where the process is gone.
pub fn descriptors(pid: i32) -> Result<usize, String> {
    let path = format!("/proc/{pid}/fd");
    std::fs::read_dir(&path).map(Iterator::count).map_err(|e| format!("{path}: {e}"))
}

fn field(pid: i32, name: &str) -> Result<u64, String> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| format!("{path} has no {name}"))
}
