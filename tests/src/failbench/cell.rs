//! One cell: a side is started, called, struck by a fault, watched, healed, and taken down again.
//!
//! What was executed is read when the fault is over and nobody executes anything any more: what a stopped
//! process or a dead path held back would be executed a second time only then.
//!
//! Everything is new for each cell: what one fault left in a sidecar's memory must not help or hurt it in
//! the next. Dropping the lab kills all processes and removes all namespaces.

use std::time::{Duration, Instant};

use hyper::Method;

use super::fault::Fault;
use super::field::Field;
use super::figures::{Figures, Stream, figures};
use super::flight::{Losses, Strike};
use super::plan::Plan;
use super::subject::Subject;
use crate::bench::BenchError;
use crate::bench::authority::Authority;
use crate::lab::wait::wait_for;
use crate::lab::{Lab, LabError};
use crate::load::{Load, LoadSpec};

/// Beyond a failback: a host that was taken for lost meanwhile is served by a warm one for so long.
const SOON: Duration = Duration::from_secs(90);
/// What is looked at to see whether all is well.
const WINDOW: Duration = Duration::from_secs(1);

/// A measured cell, with every request of it.
#[derive(Debug)]
pub struct Cell {
    /// What they say.
    pub figures: Figures,
    /// The GETs.
    pub gets: Stream,
    /// The POSTs.
    pub posts: Stream,
}

/// Measures one. With `keep` the lab's logs stay.
///
/// # Errors
/// [`BenchError`] when the side does not come up, is not well before the fault, or the fault cannot be
/// made.
pub fn measure(
    authority: &Authority,
    subject: Subject,
    fault: Fault,
    plan: &Plan,
    keep: bool,
) -> Result<Cell, BenchError> {
    let lab = Lab::new()?;
    if keep {
        lab.keep_files();
    }
    let field = Field::start(&lab, authority, subject, fault, plan)?;
    let gets = LoadSpec { rate: plan.rate, ..LoadSpec::new(field.entry()) };
    let posts = LoadSpec {
        method: Method::POST,
        path: "/once?id={n}".to_owned(),
        rate: plan.posts,
        ..LoadSpec::new(field.entry())
    };
    let (gets, posts) = (Load::start(&field.caller, gets)?, Load::start(&field.caller, posts)?);
    well(&field, &gets, &posts, subject)?;
    std::thread::sleep(plan.before());
    let (marks, now) = ([gets.mark(), posts.mark()], Instant::now());
    let made = fault.happen(&field, plan.window())?;
    let untils = [gets.mark(), posts.mark()];
    let stream = |samples, n: usize| Stream { samples, mark: marks[n], until: untils[n] };
    let (gets, posts) = (stream(gets.finish(), 0), stream(posts.finish(), 1));
    let by_posts = |moment: Instant| posts.mark + moment.saturating_duration_since(now);
    let strike =
        |[begun, made]: [Instant; 2]| Strike { begun: by_posts(begun), made: by_posts(made) };
    let losses = Losses {
        hosts: fault.lost(&field).iter().map(|lost| lost.host.name().to_owned()).collect(),
        strikes: made.into_iter().map(strike).collect(),
        known: fault.known(plan),
    };
    let least = fault.end(&field, plan.window())?;
    let executed = field.executed_at_last(least)?;
    let figures = figures(&gets, &posts, plan.before(), &losses, &executed);
    Ok(Cell { figures, gets, posts })
}

/// Waits until every host that is to serve does and a whole second passed in which nothing failed.
fn well(field: &Field, gets: &Load, posts: &Load, subject: Subject) -> Result<(), LabError> {
    let what = format!("{} to serve from all its hosts without a failure", subject.title());
    wait_for(&what, SOON, || {
        let (get, post) = (gets.lately(WINDOW), posts.lately(WINDOW));
        let whole = gets.mark() > 2 * WINDOW && get.failed + post.failed == 0;
        let served = field.served_well(get.served.keys());
        if whole && served.is_ok() {
            return Ok(());
        }
        let who = served.err().unwrap_or_default();
        Err(format!("{who} {:?}, {:?}, {:?}", get.served, get.errors, post.errors))
    })
}
