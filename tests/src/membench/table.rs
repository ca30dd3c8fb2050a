//! The result as text: a line per figure, a column per kind; then what must not be.

use std::fmt::Write as _;

use super::figures::{Freeze, Kill, Taken};
use super::kind::Subject;
use super::plan::Plan;
use crate::bench::figures::Spread;
use crate::bench::machine::Machine;
use crate::bench::table::number;
use crate::failbench::table::aligned;

/// All of it.
#[must_use]
pub fn text(machine: &Machine, plan: &Plan, all: &[Taken]) -> String {
    let Machine { processor, cores, kernel, .. } = machine;
    let Plan { agents, kills, freezes, freeze_s, quiet_s, .. } = plan;
    let mut text = format!(
        "\n{processor}, {cores} cores, Linux {kernel}; {agents} agents of each kind, one kind after the other; \
         {kills} kills, {freezes} stops of {freeze_s} s, {quiet_s} s of quiet; median [least–most]\n\n"
    );
    text += &aligned(&lines(all));
    text.push('\n');
    for taken in all {
        text += &remarks(taken);
    }
    if !machine.is_release() && all.iter().any(|taken| taken.subject == Subject::Hearth) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "NOT A RELEASE BUILD: {}", machine.hearth_from);
    }
    text
}

/// A figure: its title, and how it is read off.
type Line = (&'static str, fn(&Taken) -> String);

/// All, in order.
const LINES: [Line; 17] = [
    ("all started, all see all: s", |t| t.cold.as_ref().map_or(none(), |c| number(c.whole_s))),
    ("  of it to start them", |t| t.cold.as_ref().map_or(none(), |c| number(c.started_s))),
    ("kill -9: the first knows, s", |t| over(&t.kills, Kill::first)),
    ("kill -9: the last knows, s", |t| over(&t.kills, Kill::last)),
    ("started again: all see it, s", |t| over(&t.kills, |k| k.back_s)),
    ("kills: verdicts on others", |t| sum(&t.kills, |k| k.others_failed)),
    ("stop: verdicts \"failed\"", |t| sum(&t.freezes, |f| f.failed)),
    ("stop: suspected by so many", |t| over(&t.freezes, |f| f.doubted as f64)),
    ("stop: told that it is dead", |t| {
        let times = t.freezes.iter().map(|f| f.rejoined).sum::<Option<u64>>();
        times.filter(|_| !t.freezes.is_empty()).map_or(none(), |times| times.to_string())
    }),
    ("stop: verdicts on others", |t| sum(&t.freezes, |f| f.others_failed)),
    ("goes on: all see all, s", |t| over(&t.freezes, |f| f.whole_s)),
    ("quiet: bytes/s sent by one", |t| t.quiet.as_ref().map_or(none(), |q| range(q.bytes))),
    ("quiet: frames/s sent by one", |t| t.quiet.as_ref().map_or(none(), |q| range(q.frames))),
    ("quiet: CPU s a minute of one", |t| {
        t.quiet.as_ref().map_or(none(), |q| format!("{}, mean {:.3}", range(q.cpu), q.cpu_mean))
    }),
    ("RSS MiB of one", |t| t.quiet.as_ref().map_or(none(), |q| range(q.rss))),
    ("PSS MiB of one", |t| t.quiet.as_ref().map_or(none(), |q| range(q.pss))),
    ("cores taken by others", |t| t.quiet.as_ref().map_or(none(), |q| number(q.others))),
];

fn lines(all: &[Taken]) -> Vec<Vec<String>> {
    let mut lines = vec![vec![String::new()]];
    lines[0].extend(all.iter().map(|taken| taken.subject.title().to_owned()));
    for (title, figure) in LINES {
        let mut line = vec![title.to_owned()];
        line.extend(all.iter().map(figure));
        lines.push(line);
    }
    lines
}

fn remarks(taken: &Taken) -> String {
    let mut text = String::new();
    let title = taken.subject.title();
    let failed: usize = taken.freezes.iter().map(|freeze| freeze.failed).sum();
    let told = taken.freezes.iter().filter(|f: &&Freeze| f.rejoined.unwrap_or(0) > 0).count();
    if failed > 0 || told > 0 {
        let _ = writeln!(
            text,
            "{title}: a stop must lead to no verdict: {failed} seen, {told} of {} stopped were told of one",
            taken.freezes.len()
        );
    }
    if taken.subject == Subject::Serf && !taken.freezes.is_empty() {
        let _ = writeln!(text, "{title}: tells a suspicion only where its own probe failed");
    }
    if taken.quiet.as_ref().is_some_and(|quiet| !quiet.settled) {
        let _ = writeln!(text, "{title}: traffic still fell when the quiet time began");
    }
    if let Some(why) = &taken.broke_off {
        let _ = writeln!(text, "{title}: NOT RUN to its end: {why}");
    }
    text
}

fn none() -> String {
    "–".to_owned()
}

fn sum<T>(all: &[T], of: fn(&T) -> usize) -> String {
    if all.is_empty() { none() } else { all.iter().map(of).sum::<usize>().to_string() }
}

fn over<T>(all: &[T], of: fn(&T) -> f64) -> String {
    Spread::of(all.iter().map(of)).map_or(none(), range)
}

/// A median, and the range where there is one.
fn range(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    match number(min) == number(max) {
        true => number(median),
        false => format!("{} [{}–{}]", number(median), number(min), number(max)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Freeze, Subject, Taken, lines, remarks};

    fn freeze(failed: usize, rejoined: Option<u64>) -> Freeze {
        Freeze {
            member: "node-002".to_owned(),
            failed,
            doubted: 9,
            rejoined,
            others_failed: 0,
            whole_s: 0.5,
        }
    }

    #[test]
    fn what_was_not_measured_is_a_dash_and_a_verdict_on_one_that_was_stopped_is_told() {
        let mut taken = Taken::none(Subject::Serf, 10);
        assert!(lines(&[taken.clone()])[1..].iter().all(|line| line[1] == "–"));
        assert_eq!(remarks(&taken), "");
        taken.freezes = vec![freeze(0, None)];
        assert!(!remarks(&taken).contains("verdict"), "{}", remarks(&taken));
        taken.freezes = vec![freeze(0, None), freeze(3, None)];
        assert!(remarks(&taken).contains("3 seen"), "{}", remarks(&taken));
        taken.freezes = vec![freeze(0, Some(0)), freeze(0, Some(1))];
        assert!(remarks(&taken).contains("1 of 2"), "{}", remarks(&taken));
    }
}
