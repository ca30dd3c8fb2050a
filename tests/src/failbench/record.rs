//! Every request on record: `failover.csv`, a line each, written cell by cell.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::cell::Cell;
use super::fault::Fault;
use super::figures::{Stream, ms};
use super::subject::Subject;
use crate::bench::BenchError;

const HEAD: &str =
    "run,fault,subject,method,scheduled_ms_from_fault,late_ms,latency_ms,served_by,error";

/// The file.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Record {
    /// Begins it anew in `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// [`BenchError::Write`].
    pub fn create(dir: &Path) -> Result<Self, BenchError> {
        let path = dir.join("failover.csv");
        let open = || -> io::Result<BufWriter<File>> {
            std::fs::create_dir_all(dir)?;
            let mut file = BufWriter::new(File::create(&path)?);
            writeln!(file, "{HEAD}")?;
            Ok(file)
        };
        let opened = open().map_err(|source| BenchError::Write { path: path.clone(), source });
        opened.map(|file| Self { path, file })
    }

    /// Adds a cell.
    ///
    /// # Errors
    /// [`BenchError::Write`].
    pub fn add(
        &mut self,
        run: usize,
        fault: Fault,
        subject: Subject,
        cell: &Cell,
    ) -> Result<(), BenchError> {
        let word = |value: Option<clap::builder::PossibleValue>| {
            value.map_or_else(String::new, |value| value.get_name().to_owned())
        };
        let (fault, subject) = (word(fault.to_possible_value()), word(subject.to_possible_value()));
        let cell_of = format!("{},{fault},{subject}", run + 1);
        let written = write(&mut self.file, &format!("{cell_of},GET"), &cell.gets)
            .and_then(|()| write(&mut self.file, &format!("{cell_of},POST"), &cell.posts))
            .and_then(|()| self.file.flush());
        written.map_err(|source| BenchError::Write { path: self.path.clone(), source })
    }
}

fn write(file: &mut impl Write, prefix: &str, stream: &Stream) -> io::Result<()> {
    for sample in &stream.samples {
        let from_fault = ms(sample.scheduled) - ms(stream.mark);
        let (late, latency) = (ms(sample.late), ms(sample.latency));
        let error = sample.error.as_deref().unwrap_or_default().replace(['"', '\n'], " ");
        let by = &sample.served_by;
        writeln!(file, "{prefix},{from_fault:.3},{late:.3},{latency:.3},{by},\"{error}\"")?;
    }
    Ok(())
}
