//! `hearth plan` and `hearth check`, for people. Pure: values in, text out.

use hearth_proto::plan::basis::{Basis, Source, at_least_without_loss};
use hearth_proto::plan::chart::terminal::{self, Look};
use hearth_proto::plan::input::{Parameter, SECONDS_PER_HOUR};
use hearth_proto::plan::report::{Section, duration, percent};
use hearth_proto::plan::shortcut::{Quantity, Shortcut};
use hearth_proto::view::{CheckView, FindingView, PlanView};

use super::plan::{Plan, written};
use super::table::{Style, Table, pairs, wrap};

/// Rows of the chart.
const HEIGHT: usize = 14;
/// Of what buys most, so many are shown.
const PURCHASES: usize = 5;

/// `hearth plan`
pub(super) fn plan(plan: &Plan, shortcuts: bool, style: Style) -> String {
    let mut text = String::new();
    let paragraph = |text: &mut String, words: &str| {
        text.push_str(&wrap(words, style.width).join("\n"));
        text.push('\n');
    };
    if let Some(seen) = &plan.seen {
        paragraph(&mut text, &seen_from(seen));
        text.push('\n');
    }
    text.push_str(&pairs(style, &expected(plan)));
    text.push_str("\nRests on\n");
    text.push_str(&rests_on(&plan.basis).render(style));
    for note in notes(plan) {
        text.push('\n');
        paragraph(&mut text, &note);
    }
    for (section, rows) in
        [(plan.report.made_of(), usize::MAX), (plan.report.buys_most(), PURCHASES)]
    {
        text.push_str(&format!("\n{}\n", section.title));
        text.push_str(&table(&section, rows).render(style));
    }
    if let Some(chart) = &plan.chart {
        let look = Look { width: style.width, height: HEIGHT, colour: style.colour };
        text.push('\n');
        text.push_str(&terminal::render(chart, look));
    }
    text.push('\n');
    if shortcuts {
        let section = plan.report.goes_wrong();
        text.push_str(&format!("{}\n", section.title));
        text.push_str(&table(&section, usize::MAX).render(style));
    } else {
        paragraph(&mut text, &furthest_off(&plan.report.shortcuts));
    }
    text
}

fn expected(plan: &Plan) -> Vec<(&'static str, String)> {
    let forecast = &plan.report.forecast;
    let counts = forecast.scenario.counts;
    let first = match forecast.mttf_hours {
        None => "never".to_owned(),
        Some(hours) => duration(hours * SECONDS_PER_HOUR),
    };
    vec![
        (
            "service",
            format!("{} hot, {} warm, {} needed", counts.hot(), counts.warm(), counts.needed()),
        ),
        (
            "available",
            format!(
                "{}{}, {} down per year",
                percent(forecast.unavailability),
                nines(forecast.unavailability),
                duration(forecast.downtime_seconds_per_year)
            ),
        ),
        (
            "the first",
            format!(
                "{}: {}, from all well",
                duration(forecast.interval.hours * SECONDS_PER_HOUR),
                percent(forecast.interval.down_share)
            ),
        ),
        (
            "outages",
            format!(
                "{:.3} per year, {} each, the first after {first}",
                forecast.outages_per_year,
                duration(forecast.outage_seconds)
            ),
        ),
        (
            "requests",
            format!(
                "{} answered at the first try; the mesh tries again what may be repeated",
                percent(forecast.request_loss)
            ),
        ),
    ]
}

fn nines(unavailability: f64) -> String {
    if unavailability > 0.0 {
        format!(" ({:.1} nines)", -unavailability.log10())
    } else {
        String::new()
    }
}

fn seen_from(seen: &PlanView) -> String {
    let losses = match seen.losses {
        0 => "no loss".to_owned(),
        1 => "1 loss".to_owned(),
        n => format!("{n} losses"),
    };
    format!(
        "{} as {} has seen it for {}: {} serve, {} must; its endpoints served {} in all, with \
         {losses}.",
        seen.service,
        seen.node,
        duration(seen.watched_s),
        seen.serving,
        seen.needed,
        duration(seen.served_s)
    )
}

/// What to bear in mind.
fn notes(plan: &Plan) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(seen) = &plan.seen {
        if let Some(hours) = at_least_without_loss(seen) {
            notes.push(format!(
                "Nothing was lost while it was looked at: a mean time to failure below {} is \
                 improbable (one in forty), and no more is known.",
                duration(hours * SECONDS_PER_HOUR)
            ));
        }
        if seen.needed < seen.hot {
            notes.push(format!(
                "The plan calls up a warm endpoint for each loss; this mesh waits until fewer than {} \
                 serve.",
                seen.needed
            ));
        }
    }
    notes.extend(plan.report.cautions());
    notes
}

fn rests_on(basis: &[Basis]) -> Table {
    let mut table = Table::new(&["NUMBER", "VALUE", "FROM"]);
    for b in basis {
        let value = b.value.map_or_else(|| "each".to_owned(), |v| written(b.parameter, v));
        let from = match &b.source {
            Source::Given => "given".to_owned(),
            Source::Declared => "declared in the mesh".to_owned(),
            Source::Measured { count, limits: None } => format!("measured, {count} times"),
            Source::Measured { count, limits: Some((low, high)) } => format!(
                "measured, {count} times; 95 %: {} to {}",
                written(b.parameter, *low),
                written(b.parameter, *high)
            ),
            Source::Assumed(why) => format!("assumed: {why}"),
        };
        table.row([label(b.parameter).to_owned(), value, from]);
    }
    table
}

fn label(parameter: Parameter) -> &'static str {
    match parameter {
        Parameter::Hot => "hot",
        Parameter::Warm => "warm",
        Parameter::Needed => "needed",
        Parameter::MttfHours => "time to failure",
        Parameter::WarmFailureShare => "failures standing by",
        Parameter::MttrHours => "time to repair",
        Parameter::Crews => "repaired at once",
        Parameter::DetectionSeconds => "detection",
        Parameter::ActivationSeconds => "activation",
        Parameter::Coverage => "failures noticed",
        Parameter::RecoverySeconds => "unnoticed ones found after",
        Parameter::CommonCauseShare => "common causes",
        Parameter::HorizonHours => "interval",
    }
}

fn table(section: &Section, rows: usize) -> Table {
    let headings: Vec<String> = section.columns.iter().map(|c| c.to_uppercase()).collect();
    let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    for row in section.rows.iter().take(rows) {
        table.row(row.iter().cloned());
    }
    table
}

/// The shortcut everybody knows, and the one that is furthest off here.
fn furthest_off(all: &[Shortcut]) -> String {
    let mut text = String::new();
    if let Some(known) = all.iter().find(|s| s.formula == "A = 1 − f·t") {
        text = format!("{} says {:.4} here, it is {:.4}. ", known.formula, known.says, known.truth);
    }
    let down = |s: &&Shortcut| s.quantity == Quantity::Unavailability;
    let far = |s: &Shortcut| s.factor().map_or(0.0, |factor| factor.ln().abs());
    let worst = all.iter().filter(down).max_by(|a, b| far(a).total_cmp(&far(b)));
    if let Some(worst) = worst {
        let factor = worst.factor().map_or_else(String::new, |f| format!(", {f:.3} times as much"));
        text += &format!(
            "Furthest off is \"{}\": it says {:.3e} down, and it is {:.3e}{factor}. All of them: \
             --shortcuts",
            worst.name, worst.says, worst.truth
        );
    }
    text
}

/// `hearth check`
pub(super) fn check(view: &CheckView, style: Style) -> String {
    let mut text = String::new();
    for f in &view.findings {
        let said = format!("{}: {}: {} [{}]", f.severity, f.service, f.sentence, f.rule);
        let mut lines = wrap(&said, style.width.saturating_sub(2)).into_iter();
        if let Some(first) = lines.next() {
            // The word is painted after the breaking: colours have no width.
            let rest = first.strip_prefix(f.severity.as_str()).unwrap_or_default();
            text.push_str(&format!("{}{rest}\n", style.paint(&f.severity)));
        }
        lines.for_each(|line| text.push_str(&format!("  {line}\n")));
        let mend = wrap(&format!("mend: {}", f.mend), style.width.saturating_sub(2));
        mend.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    if !view.findings.is_empty() {
        text.push('\n');
    }
    text.push_str(&format!(
        "{}: {}; as seen from {}, under policy version {}\n",
        plural(view.services.len(), "service"),
        verdict(&view.findings),
        view.node,
        view.policy_version
    ));
    text
}

fn verdict(findings: &[FindingView]) -> String {
    let of = |severity: &str| findings.iter().filter(|f| f.severity == severity).count();
    let parts: Vec<String> = ["error", "warning", "note"]
        .iter()
        .filter(|severity| of(severity) > 0)
        .map(|severity| plural(of(severity), severity))
        .collect();
    if parts.is_empty() { "nothing found".to_owned() } else { parts.join(", ") }
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// How a check ends: 0 clean (notes are no fault), 1 warnings, 2 errors.
pub(super) fn exit_code(view: &CheckView) -> u8 {
    let any = |severity: &str| view.findings.iter().any(|f| f.severity == severity);
    match (any("error"), any("warning")) {
        (true, _) => 2,
        (false, true) => 1,
        (false, false) => 0,
    }
}

#[cfg(test)]
mod tests;
