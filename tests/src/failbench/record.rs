//! Every request on record: `failover.csv`, a line each, written cell by cell. Of a cell that was measured more than
//! once all tries are there; `told` says of which the figures are told.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::fault::Fault;
use super::figures::{Stream, ms};
use super::subject::Subject;
use super::tries::Tries;
use crate::bench::BenchError;

const HEAD: &str =
    "run,fault,subject,try,told,method,scheduled_ms_from_fault,late_ms,latency_ms,served_by,error";

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

    /// Adds a cell, with every try that came to its end.
    ///
    /// # Errors
    /// [`BenchError::Write`].
    pub fn add(
        &mut self,
        run: usize,
        fault: Fault,
        subject: Subject,
        tries: &Tries,
    ) -> Result<(), BenchError> {
        let word = |value: Option<clap::builder::PossibleValue>| {
            value.map_or_else(String::new, |value| value.get_name().to_owned())
        };
        let (fault, subject) = (word(fault.to_possible_value()), word(subject.to_possible_value()));
        let cell_of = format!("{},{fault},{subject}", run + 1);
        let mut put = || -> io::Result<()> {
            for (attempt, cell) in tries.cells() {
                let told = if attempt == tries.told + 1 { "yes" } else { "no" };
                let of = |method: &str| format!("{cell_of},{attempt},{told},{method}");
                write(&mut self.file, &of("GET"), &cell.gets)?;
                write(&mut self.file, &of("POST"), &cell.posts)?;
            }
            self.file.flush()
        };
        let written = put();
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
