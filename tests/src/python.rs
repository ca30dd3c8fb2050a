//! The clients and applications that exist only in Python, in `tests/clients`, run by the tests' own
//! interpreter (`tests/setup` makes it).

use std::path::{Path, PathBuf};

use crate::lab::binaries::target_dir;
use crate::lab::process::Program;

/// A script of `tests/clients` with its arguments.
///
/// # Errors
/// In words, when the interpreter or a module that the script needs is not there: it cannot be run.
pub fn script(name: &str, needs: &[&str], args: &[&str]) -> Result<Program, String> {
    let venv = target_dir().join("tools/venv");
    let python = venv.join("bin/python");
    if !python.is_file() {
        return Err(format!("{} is not there; run tests/setup", python.display()));
    }
    if let Some(lacking) = needs.iter().find(|module| !has(&venv, module)) {
        return Err(format!("{} lacks the module {lacking}; run tests/setup", venv.display()));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(format!("{name}.py"));
    let program = Program::new(name, python).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(program
        .env("PYTHONUNBUFFERED", "1")
        .arg(path.display().to_string())
        .args(args.iter().copied()))
}

fn has(venv: &Path, module: &str) -> bool {
    let versions = std::fs::read_dir(venv.join("lib")).into_iter().flatten().flatten();
    let mut packages = versions.map(|entry| entry.path().join("site-packages").join(module));
    packages.any(|path: PathBuf| path.is_dir())
}
