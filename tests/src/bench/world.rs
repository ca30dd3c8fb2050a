//! What all pairs of a run share: a private directory, certificates, the applications and their files.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::authority::Authority;
use super::error::BenchError;
use super::hearth::Mesh;
use super::peers::{self, Subject};
use super::speech::Speech;
use super::{LARGE, SMALL};
use crate::lab::binaries::ours;
use crate::lab::wait::wait_for;
use crate::lab::{LabError, Process, Program};
use crate::loopback::{Place, free_ports, sweep};

/// Names of the places, and so of their directories: everything's, and one for each of Hearth's builds.
const NAME: &str = "bench";
const HEARTH: &str = "bench-hearth";
const BEFORE: &str = "bench-before";
const KIB: usize = 1024;
/// The large file: long enough that a download is bulk, short enough to stay in the page cache.
const LARGE_BYTES: usize = 64 * KIB * KIB;

/// The surroundings of every pair.
#[derive(Debug)]
pub struct World {
    /// Directory of everything; gone with this value, and with it all processes.
    pub place: Place,
    /// Certificates of those that are not Hearth.
    pub authority: Authority,
    /// What is in the large file.
    pub large: Vec<u8>,
    files: Application,
    /// Started when it is first asked for.
    speaker: OnceCell<Application>,
    mesh: OnceCell<Mesh>,
    before: OnceCell<Mesh>,
    hearth: HearthChoice,
}

/// What of Hearth a run may choose.
#[derive(Debug, Clone, Default)]
pub struct HearthChoice {
    /// Lines of policy for its service.
    pub policy: Vec<String>,
    /// Directory of an earlier build, to be measured beside this one.
    pub before: Option<PathBuf>,
}

/// An application behind the pairs.
#[derive(Debug, Clone)]
pub struct Application {
    /// Where it listens.
    pub address: SocketAddr,
    /// The program.
    pub process: Arc<Process>,
}

impl World {
    /// Makes certificates and files, starts the application and waits until it answers.
    ///
    /// # Errors
    /// [`BenchError`] with what could not be had.
    pub fn new(hearth: HearthChoice) -> Result<Self, BenchError> {
        sweep(&[NAME, HEARTH, BEFORE]);
        let place = Place::new(NAME)?;
        let authority = Authority::new(&place)?;
        let root = place.path("files");
        std::fs::create_dir_all(&root).map_err(LabError::file("create", &root))?;
        // Noise, the same in every run: nothing that could be compressed on the way.
        let mut large = vec![0; LARGE_BYTES];
        StdRng::seed_from_u64(7).fill_bytes(&mut large);
        let write = |path: &str, bytes: &[u8]| {
            let path: PathBuf = root.join(path.trim_start_matches('/'));
            std::fs::write(&path, bytes).map_err(LabError::file("write", &path))
        };
        write(SMALL, &large[..KIB])?;
        write(LARGE, &large)?;
        let [address] = free_ports();
        let process = peers::application(&place, address, &root)?;
        let files = Application { address, process };
        files.answers(Speech::Http)?;
        let (speaker, mesh, before) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Ok(Self { place, authority, large, files, speaker, mesh, before, hearth })
    }

    /// The application that speaks this.
    ///
    /// # Errors
    /// [`BenchError::Lab`] when it does not come up.
    pub fn application(&self, speech: Speech) -> Result<&Application, BenchError> {
        if speech == Speech::Http {
            return Ok(&self.files);
        }
        if let Some(speaker) = self.speaker.get() {
            return Ok(speaker);
        }
        let [address] = free_ports();
        let own = std::env::current_exe().map_err(LabError::file("find", "this program"))?;
        let program =
            Program::new("speaker", own).args(["speaker".to_owned(), address.to_string()]);
        let speaker = Application { address, process: self.place.start(program)? };
        speaker.answers(speech)?;
        Ok(self.speaker.get_or_init(|| speaker))
    }

    /// Hearth's agents of this build or of the earlier one, joined when they are first asked for.
    ///
    /// # Errors
    /// As [`Mesh::join`], or when there is no earlier build.
    pub fn mesh(&self, subject: Subject) -> Result<&Mesh, BenchError> {
        let before = subject == Subject::HearthBefore;
        let (cell, name) = if before { (&self.before, BEFORE) } else { (&self.mesh, HEARTH) };
        if let Some(mesh) = cell.get() {
            return Ok(mesh);
        }
        let agent = match (&self.hearth.before, before) {
            (_, false) => ours("hearth-agent")?,
            (Some(dir), true) => dir.join("hearth-agent"),
            (None, true) => return Err(BenchError::NoBefore),
        };
        let (app, policy) = (self.files.address, &self.hearth.policy);
        let mesh = Mesh::join(Place::new(name)?, agent, app, policy)?;
        Ok(cell.get_or_init(|| mesh))
    }
}

impl Application {
    fn answers(&self, speech: Speech) -> Result<(), BenchError> {
        Ok(wait_for("the application to answer", Duration::from_secs(10), || {
            let answered = speech.probe(self.address, Duration::from_secs(2));
            answered.map_err(|e| format!("{e}; {}", self.process.stderr()))
        })?)
    }
}
