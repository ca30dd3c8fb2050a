//! A cell measured as often as the machine asks for, and everything that came of it.
//!
//! What is told is the try in which the client was least late itself: that is the machine's doing, and never depends
//! on what the client saw. The others are set aside and stay on record.

use serde::Serialize;

use super::cell::Cell;
use super::figures::Figures;
use crate::bench::BenchError;

/// So late a client may be itself before a cell is called disturbed and measured again, ms.
pub const LATE_MS: f64 = 10.0;
/// A cell is measured so often at most.
const MOST: usize = 3;

/// All tries of a cell.
#[derive(Debug)]
pub struct Tries {
    /// What each came to: a cell, or why there is none. In order.
    pub all: Vec<Result<Cell, String>>,
    /// Which is told.
    pub told: usize,
}

/// A try that is not told.
#[derive(Debug, Clone, Serialize)]
pub struct Aside {
    /// Its number, from 1.
    pub attempt: usize,
    /// What it came to, if it came to its end.
    pub figures: Option<Figures>,
    /// Why it did not.
    pub error: Option<String>,
}

impl Tries {
    /// Measures a cell, again where the machine stood still for the client.
    ///
    /// # Errors
    /// Those of the first try. One that fails later is on record beside it.
    pub fn take(mut measure: impl FnMut() -> Result<Cell, BenchError>) -> Result<Self, BenchError> {
        let mut tries = Self { all: vec![Ok(measure()?)], told: 0 };
        while tries.late_ms() > LATE_MS && tries.all.len() < MOST {
            eprintln!("  disturbed, client late {:.1} ms: once more", tries.late_ms());
            let other = measure().map_err(|error| error.to_string().trim_end().to_owned());
            match &other {
                Ok(cell) if cell.figures.late_ms < tries.late_ms() => tries.told = tries.all.len(),
                Ok(_) => {}
                Err(reason) => eprintln!("  that broke off: {reason}"),
            }
            tries.all.push(other);
        }
        Ok(tries)
    }

    /// Those that came to their end, with their numbers from 1.
    pub fn cells(&self) -> impl Iterator<Item = (usize, &Cell)> {
        (1..).zip(&self.all).filter_map(|(attempt, one)| Some((attempt, one.as_ref().ok()?)))
    }

    /// The figures that are told, and all others.
    ///
    /// # Panics
    /// Never: one is told that came to its end.
    #[must_use]
    pub fn figures(self) -> (Figures, Vec<Aside>) {
        let (mut told, mut aside) = (None, Vec::new());
        for (n, one) in self.all.into_iter().enumerate() {
            match one {
                Ok(cell) if n == self.told => told = Some(cell.figures),
                Ok(cell) => {
                    let figures = Some(cell.figures);
                    aside.push(Aside { attempt: n + 1, figures, error: None });
                }
                Err(error) => {
                    aside.push(Aside { attempt: n + 1, figures: None, error: Some(error) });
                }
            }
        }
        (told.unwrap_or_else(|| unreachable!("the told try came to its end")), aside)
    }

    /// How late the client was in the try that is told, ms.
    fn late_ms(&self) -> f64 {
        match self.all.get(self.told) {
            Some(Ok(cell)) => cell.figures.late_ms,
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BenchError, Cell, Tries};
    use crate::failbench::figures::{Stream, figures};
    use crate::failbench::flight::Losses;

    /// One try each, with this lateness of the client; none is an error.
    fn tries(late: &[Option<f64>]) -> Result<Tries, BenchError> {
        let mut late = late.iter();
        Tries::take(|| match late.next().expect("no more tries than were foreseen") {
            Some(late_ms) => {
                let none =
                    Stream { samples: Vec::new(), mark: Duration::ZERO, until: Duration::ZERO };
                let mut figures = figures(&none, &none, Duration::ZERO, &Losses::default(), &[]);
                figures.late_ms = *late_ms;
                Ok(Cell { figures, gets: none.clone(), posts: none })
            }
            None => Err(BenchError::NotComparable("it broke off".to_owned())),
        })
    }

    #[test]
    fn a_cell_that_nothing_disturbed_is_measured_once() {
        let tries = tries(&[Some(2.0)]).unwrap();
        assert_eq!((tries.all.len(), tries.told), (1, 0));
        assert!(tries.figures().1.is_empty());
    }

    #[test]
    fn the_least_disturbed_try_is_told_and_the_others_stay_on_record() {
        let tries = tries(&[Some(40.0), Some(15.0), Some(20.0)]).unwrap();
        assert_eq!(tries.cells().count(), 3);
        let (told, aside) = tries.figures();
        assert_eq!(told.late_ms, 15.0);
        let late: Vec<f64> = aside.iter().map(|a| a.figures.as_ref().unwrap().late_ms).collect();
        assert_eq!((late, aside[1].attempt), (vec![40.0, 20.0], 3));
    }

    #[test]
    fn an_error_in_a_later_try_throws_nothing_away_and_the_next_goes_on() {
        let tries = tries(&[Some(40.0), None, Some(3.0)]).unwrap();
        let (told, aside) = tries.figures();
        assert_eq!(told.late_ms, 3.0);
        let errors = aside.iter().filter_map(|a| a.error.as_deref()).collect::<Vec<_>>();
        assert!(aside.len() == 2 && errors.len() == 1, "{aside:?}");
        assert!(errors[0].contains("it broke off"), "{errors:?}");
    }

    #[test]
    fn a_first_try_that_fails_is_no_cell() {
        assert!(tries(&[None]).is_err());
    }
}
