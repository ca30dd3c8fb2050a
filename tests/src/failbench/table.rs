//! The result as text: a block per fault, a line per side; then every promise that was not kept and every
//! figure in which somebody else was better.

use std::fmt::Write as _;

use super::fault::Fault;
use super::figures::Figures;
use super::subject::Subject;
use super::verdict::{Figure, Row, Verdict};
use crate::bench::figures::Spread;
use crate::bench::table::number;

/// What a column's title is too short for.
pub const LEGEND: &str = "\"not in flight\": POSTs that failed and were on no lost host when it was lost, or that are more of \
                          those in flight than chance had sent there (failbench::flight)\n";

/// One fault.
#[must_use]
pub fn block(fault: Fault, row: &Row<'_>) -> String {
    let mut lines = vec![vec![String::new()]];
    lines[0].extend(Figure::ALL.map(|figure| figure.title().to_owned()));
    lines[0].extend(["slowest before ms", "client late ms"].map(str::to_owned));
    for (subject, runs) in row {
        let mut line = vec![subject.title().to_owned()];
        line.extend(Figure::ALL.map(|figure| cell(figure, figure.spread(runs))));
        let surroundings: [fn(&Figures) -> f64; 2] = [|f| f.before.slowest_ms, |f| f.late_ms];
        line.extend(
            surroundings.map(|of| {
                cell(Figure::Slowest, Spread::of(runs.iter().map(|figures| of(figures))))
            }),
        );
        lines.push(line);
    }
    format!("{}\n{}", fault.title(), aligned(&lines))
}

/// Columns as wide as what is in them: the first to the left, all others to the right.
pub(crate) fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let long = |text: &String| text.chars().count();
    let width = |n: usize| lines.iter().filter_map(|line| line.get(n)).map(long).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (n, (word, width)) in line.iter().zip(&widths).enumerate() {
            // Writing to a String cannot fail.
            let _ = match n {
                0 => write!(text, "  {word:<width$}"),
                _ => write!(text, "  {word:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

/// What is to be said about Hearth, and nothing where all is well.
#[must_use]
pub fn verdicts(all: &[Verdict]) -> String {
    let said: Vec<String> =
        all.iter().filter(|verdict| !verdict.is_good()).map(Verdict::text).collect();
    let promised = all.iter().filter(|verdict| verdict.kept.is_some()).count();
    let kept = all.iter().filter(|verdict| verdict.kept == Some(true)).count();
    if promised == 0 {
        return String::new();
    }
    let rests = rests_on(all.iter().map(|verdict| verdict.runs));
    let hearth = Subject::Hearth.title();
    let mut text = format!("{hearth}: {kept} of {promised} promises kept, {rests}\n");
    for line in said {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// How many runs there are to judge by.
fn rests_on(runs: impl Iterator<Item = usize> + Clone) -> String {
    match (runs.clone().min().unwrap_or(0), runs.max().unwrap_or(0)) {
        (1, 1) => "each judged by one run".to_owned(),
        (least, most) if least == most => format!("each judged by the worst of {most} runs"),
        (least, most) => format!("each judged by the worst of its runs, {least} to {most}"),
    }
}

/// A median, and the range where there is one.
fn cell(figure: Figure, spread: Option<Spread>) -> String {
    let count = matches!(
        figure,
        Figure::Failed | Figure::Over100 | Figure::PostsFailed | Figure::Beyond | Figure::Twice
    );
    let word = |value: f64| if count { format!("{value:.0}") } else { number(value) };
    match spread {
        None => "–".to_owned(),
        Some(s) if word(s.min) == word(s.max) => word(s.median),
        Some(s) => format!("{} [{}–{}]", word(s.median), word(s.min), word(s.max)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Figure, Spread, aligned, cell, rests_on};

    #[test]
    fn columns_are_as_wide_as_their_longest_word_in_letters() {
        let line = |words: [&str; 2]| words.map(str::to_owned).to_vec();
        let text = aligned(&[line(["", "failed"]), line(["Hearth", "0 [0–1]"])]);
        assert_eq!(text, "           failed\n  Hearth  0 [0–1]\n");
    }

    #[test]
    fn a_range_is_shown_where_runs_differ_and_counts_are_whole() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(cell(Figure::Failed, spread(&[0.0, 0.0])), "0");
        assert_eq!(cell(Figure::Over100, spread(&[3.0, 430.0, 13.0])), "13 [3–430]");
        assert_eq!(cell(Figure::Slowest, spread(&[21.26, 250.4, 22.0])), "22.0 [21.3–250]");
        assert_eq!(cell(Figure::Slowest, spread(&[])), "–");
    }

    #[test]
    fn it_is_said_how_many_runs_stand_behind_the_verdicts() {
        assert!(rests_on([1, 1].into_iter()).ends_with("one run"));
        assert!(rests_on([3, 3].into_iter()).ends_with("worst of 3 runs"));
        assert!(rests_on([3, 0, 2].into_iter()).ends_with("0 to 3"));
    }
}
