//! What is done to a group, in this order: start, quiet minute, kills, stops.

use std::time::{Duration, Instant};

use hearth_proto::time::Wall;

use super::figures::{Cold, Freeze, Kill, Quiet, Taken};
use super::group::Group;
use super::kind::seconds;
use super::plan::Plan;
use crate::bench::BenchError;
use crate::bench::account::{Reading, memory};
use crate::bench::figures::Spread;
use crate::lab::{Lab, LabError, Sent};

/// For a view to become whole, or a loss to be known by all. Far beyond every figure.
const PATIENCE: Duration = Duration::from_secs(180);
/// Traffic is settled when a window carries no less than this part of the one before.
const STILL_FALLING: f64 = 0.9;
/// Traffic that falls for so long is measured all the same, and that is told.
const SETTLING: Duration = Duration::from_secs(180);

/// Measures everything of a group that has just been started, as far as it comes; what was measured before an
/// error stays in `taken`.
///
/// # Errors
/// [`BenchError`] with the step that failed.
pub fn measure(
    lab: &Lab,
    group: &mut Group,
    plan: &Plan,
    taken: &mut Taken,
) -> Result<(), BenchError> {
    let tell = |what: &str| eprintln!("{}: {what}", taken.subject.title());
    tell("a quiet time");
    taken.quiet = Some(quiet(lab, group, plan)?);
    for n in plan.killed() {
        let kill = kill(group, n)?;
        let (member, first, last, back) = (&kill.member, kill.first(), kill.last(), kill.back_s);
        tell(&format!(
            "{member} killed, known after {first:.2} to {last:.2} s; back in {back:.2} s"
        ));
        taken.kills.push(kill);
    }
    for n in plan.frozen() {
        let freeze = freeze(group, plan, n)?;
        let Freeze { member, failed, doubted, .. } = &freeze;
        tell(&format!("{member} stopped, suspected by {doubted}, failed for {failed}"));
        taken.freezes.push(freeze);
    }
    Ok(())
}

/// Waits for the whole view of a group whose first member was up at `began`, and whose last was started at `last`.
///
/// # Errors
/// [`LabError::Deadline`].
pub fn cold(group: &mut Group, began: Wall, last: Wall) -> Result<Cold, LabError> {
    let whole = group.whole(PATIENCE)?;
    Ok(Cold { started_s: seconds(began, last), whole_s: seconds(began, whole) })
}

/// What members need while nothing happens and nobody asks them anything.
fn quiet(lab: &Lab, group: &Group, plan: &Plan) -> Result<Quiet, BenchError> {
    let begun = Instant::now();
    let settled = settle(lab, plan.window())?;
    let settled_s = begun.elapsed().as_secs_f64();
    let watched = group.watched();
    let account = |error: std::io::Error| BenchError::NotComparable(error.to_string());
    let (sent, before) = (lab.sent()?, Reading::take(&watched).map_err(account)?);
    std::thread::sleep(plan.quiet());
    let (sent_later, after) = (lab.sent()?, Reading::take(&watched).map_err(account)?);
    let used = after.since(&before);
    let memories: Vec<_> =
        watched.iter().map(memory).collect::<std::io::Result<_>>().map_err(account)?;
    let rate = |of: fn(&Sent) -> u64| {
        let pairs = sent.iter().zip(&sent_later);
        over(pairs.map(|(then, now)| (of(now) - of(then)) as f64 / used.elapsed))
    };
    let minute = 60.0 / used.elapsed;
    Ok(Quiet {
        settled_s,
        settled,
        seconds: used.elapsed,
        bytes: rate(|sent| sent.bytes)?,
        frames: rate(|sent| sent.frames)?,
        rss: over(memories.iter().map(|memory| memory.rss))?,
        pss: over(memories.iter().map(|memory| memory.pss))?,
        cpu: over(used.seconds.iter().map(|seconds| seconds * minute))?,
        cpu_mean: used.seconds.iter().sum::<f64>() * minute / watched.len() as f64,
        others: used.others / used.elapsed,
    })
}

/// Waits until traffic no longer falls. Says whether it came to that.
fn settle(lab: &Lab, window: Duration) -> Result<bool, LabError> {
    let total = || -> Result<u64, LabError> { Ok(lab.sent()?.iter().map(|s| s.bytes).sum()) };
    let (begun, mut last, mut before) = (Instant::now(), total()?, f64::INFINITY);
    while begun.elapsed() < SETTLING {
        std::thread::sleep(window);
        let now = total()?;
        let carried = (now - last) as f64;
        if carried >= before * STILL_FALLING {
            return Ok(true);
        }
        (last, before) = (now, carried);
    }
    Ok(false)
}

/// A member dies, all others learn it, and it comes back.
fn kill(group: &mut Group, n: usize) -> Result<Kill, BenchError> {
    let others = group.watched().len() - 1;
    let killed = group.kill(n)?;
    let what = format!("all to know that {} has failed", group.name(n));
    let learnt = group.wait(&what, PATIENCE, Some(n), |views| {
        let learnt = views.learnt(n, killed);
        if learnt.len() == others { Ok(learnt) } else { Err(format!("{} do", learnt.len())) }
    })?;
    let started = group.restart(n)?;
    let what = format!("all to see {} again, and it to see all", group.name(n));
    let back = group.wait(&what, PATIENCE, None, |views| {
        views.back(n, started).ok_or_else(|| format!("{} pairs do not", views.lacking()))
    })?;
    // Whoever was accused wrongly must not meet the next kill.
    group.whole(PATIENCE)?;
    Ok(Kill {
        member: group.name(n),
        learnt_s: learnt.into_iter().map(|at| seconds(killed, at)).collect(),
        back_s: seconds(started, back),
        others_failed: group.views(|views| views.opinion(n, killed)).others_failed,
    })
}

/// A member stands still for a moment; everybody else goes on.
fn freeze(group: &mut Group, plan: &Plan, n: usize) -> Result<Freeze, BenchError> {
    let before = group.rejoined(n);
    let stopped = group.stop(n)?;
    group.watch(plan.freeze(), Some(n));
    let went_on = group.cont(n)?;
    // A suspicion that was not refuted everywhere runs out later.
    group.watch(plan.watch(), None);
    let whole = group.whole(PATIENCE)?;
    let opinion = group.views(|views| views.opinion(n, stopped));
    let rejoined =
        before.zip(group.rejoined(n)).map(|(before, after)| after.saturating_sub(before));
    Ok(Freeze {
        member: group.name(n),
        failed: opinion.failed,
        doubted: opinion.doubted,
        rejoined,
        others_failed: opinion.others_failed,
        whole_s: seconds(went_on, whole),
    })
}

fn over(values: impl IntoIterator<Item = f64>) -> Result<Spread, BenchError> {
    Spread::of(values).ok_or(BenchError::Nothing)
}
