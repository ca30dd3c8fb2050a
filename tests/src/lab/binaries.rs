//! Where the programs are that the lab runs: our own binaries and the system's tools.

use std::path::{Path, PathBuf};

use super::error::LabError;

/// Where Debian keeps `ip`, `nft` and `nginx`; not in an ordinary user's `PATH`.
const SYSTEM: [&str; 6] =
    ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"];

/// The build directory: `CARGO_TARGET_DIR`, or the `target` this program lies in.
#[must_use]
pub fn target_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR") {
        return PathBuf::from(dir);
    }
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors()
        .find(|dir| dir.file_name().is_some_and(|name| name == "target"))
        .map_or_else(|| PathBuf::from("target"), Path::to_path_buf)
}

/// One of our binaries: `HEARTH_BIN_DIR`, else beside this program, else the build directory's
/// `lab`, `release`, `debug`.
///
/// # Errors
/// [`LabError::NoBinary`] with the places looked into.
pub fn ours(name: &str) -> Result<PathBuf, LabError> {
    let hint = "build it with `cargo build --workspace --bins`, or name its directory in \
                HEARTH_BIN_DIR";
    if let Some(dir) = std::env::var_os("HEARTH_BIN_DIR") {
        return first(name, &[PathBuf::from(dir)], hint);
    }
    let own = std::env::current_exe().unwrap_or_default();
    let mut places: Vec<PathBuf> = own.ancestors().skip(1).take(2).map(Into::into).collect();
    for profile in ["lab", "release", "debug"] {
        places.push(target_dir().join(profile));
    }
    first(name, &places, hint)
}

/// A tool of the system.
///
/// # Errors
/// [`LabError::NoBinary`] with the places looked into.
pub fn tool(name: &str) -> Result<PathBuf, LabError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(SYSTEM.map(PathBuf::from));
    let hint = "install it (Debian: iproute2, nftables, util-linux, nginx-light)";
    first(name, &places, hint)
}

fn first(name: &str, places: &[PathBuf], hint: &'static str) -> Result<PathBuf, LabError> {
    places.iter().map(|dir| dir.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        LabError::NoBinary {
            name: name.to_owned(),
            looked: places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "),
            hint,
        }
    })
}
