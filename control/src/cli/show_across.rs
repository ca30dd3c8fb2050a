//! What several agents say of one thing, for people: an incident across hosts, a drill's report. Pure.

use hearth_proto::time::Wall;
use hearth_proto::view::{AcrossView, Answered, DrillPart, DrillReport, DrillView, Part};

use super::show::Page;
use super::table::{Table, pairs};
use crate::moment::{between, measured, utc};

/// The distance of a moment from a beginning, signed.
fn offset(begin: Wall, at: Wall) -> String {
    let (sign, distance) = match at < begin {
        true => ("-", between(at, begin)),
        false => ("+", between(begin, at)),
    };
    format!("{sign}{:.3} s", distance.as_secs_f64())
}

fn took(begin: Wall, at: Option<Wall>) -> String {
    at.map(|at| measured(between(begin, at))).unwrap_or_default()
}

/// Whom to name who did not say anything.
fn silent<T>(hosts: &[Part<T>], not_asked: usize) -> String {
    let names = |answered: Answered| -> Vec<&str> {
        hosts.iter().filter(|h| h.answered == answered).map(|h| h.node.as_str()).collect()
    };
    let mut text = String::new();
    let unaware = names(Answered::KnowsNothing);
    if !unaware.is_empty() {
        text.push_str(&format!("know nothing of it: {}\n", unaware.join(", ")));
    }
    let quiet = names(Answered::NoAnswer);
    if !quiet.is_empty() {
        text.push_str(&format!("did not answer: {}\n", quiet.join(", ")));
    }
    if not_asked > 0 {
        text.push_str(&format!("not asked, for there are too many: {not_asked} members\n"));
    }
    text
}

/// `hearth incident ID`
pub fn incident(view: &AcrossView, page: Page) -> String {
    let stable = match view.stable {
        Some(at) => {
            format!("after {}, on every host that saw it", measured(between(view.opened, at)))
        }
        None => "not on every host yet".to_owned(),
    };
    let mut facts = vec![
        ("incident", view.id.clone()),
        ("lost", view.lost.clone()),
        ("opened", utc(view.opened)),
        ("stable", stable),
        ("trace", view.trace_id.clone()),
    ];
    facts.extend(view.drill.as_ref().map(|drill| ("drill", format!("{drill}: made on purpose"))));
    let mut text = pairs(page.style, &facts);
    text.push('\n');
    let mut hosts =
        Table::new(&["HOST", "DETECTED", "MOVED IN", "STABLE IN", "CALLED UP", "REASON"]);
    for (node, v) in view.hosts.iter().filter_map(|h| Some((&h.node, h.view.as_ref()?))) {
        let shift = v.timeline.iter().find(|e| e.event == "shift").map(|e| e.at);
        hosts.row([
            node.to_string(),
            offset(view.opened, v.opened),
            took(v.opened, shift),
            took(v.opened, v.stable),
            v.activated.clone().unwrap_or_default(),
            v.reason.clone(),
        ]);
    }
    text.push_str(&hosts.render(page.style));
    text.push_str(&silent(&view.hosts, view.not_asked));
    text.push('\n');
    let mut lines = Table::new(&["AFTER", "HOST", "EVENT", "DETAIL"]);
    for e in &view.timeline {
        let at = offset(view.opened, e.at);
        lines.row([at, e.node.to_string(), e.event.clone(), e.detail.clone()]);
    }
    text.push_str(&lines.render(page.style));
    let mut inputs = view.hosts.iter().filter_map(|h| Some((&h.node, h.view.as_ref()?)));
    if let Some((node, v)) = inputs.find(|(_, v)| !v.inputs.is_empty()) {
        text.push_str(&format!("\nwhat {node} decided on:\n"));
        let rows: Vec<(&str, String)> =
            v.inputs.iter().map(|i| (i.name.as_str(), i.value.clone())).collect();
        text.push_str(&pairs(page.style, &rows));
    }
    text
}

/// What is said when a drill begins.
pub fn begun(view: &DrillView) -> String {
    let abort = match view.abort_above_percent {
        Some(percent) => format!(", or until more than {percent} % of an agent's requests fail"),
        None => String::new(),
    };
    format!(
        "{} of {}: {} is taken for lost for {} s{abort}\nit ends by itself; Ctrl-C ends it now\n",
        view.id, view.service, view.lose, view.length_s
    )
}

/// `hearth drill --list`
pub fn drills(list: &[DrillView], page: Page) -> String {
    if list.is_empty() {
        return "no drills\n".to_owned();
    }
    let mut table =
        Table::new(&["DRILL", "SERVICE", "LOSES", "BY", "LEFT", "REQUESTS", "FAILED", "OVER"]);
    for d in list {
        let left = if d.running { format!("{:.0} s", d.left_s) } else { String::new() };
        table.row([
            d.id.clone(),
            d.service.to_string(),
            d.lose.clone(),
            d.by.to_string(),
            left,
            d.part.requests.to_string(),
            d.part.failed.to_string(),
            d.why_over.clone().unwrap_or_default(),
        ]);
    }
    table.render(page.style)
}

/// `hearth drill SERVICE …`, when it is over
pub fn report(report: &DrillReport, page: Page) -> String {
    let drill = &report.drill;
    let share = match report.requests {
        0 => String::new(),
        n => format!(" ({:.3} %)", report.failed as f64 * 100.0 / n as f64),
    };
    let mut text = pairs(
        page.style,
        &[
            ("drill", drill.id.clone()),
            ("service", drill.service.to_string()),
            ("lost", drill.lose.clone()),
            ("begun", format!("{} on {}", utc(drill.started), drill.by)),
            ("ended", drill.why_over.clone().unwrap_or_else(|| "it still runs".to_owned())),
            ("requests", format!("{}, of which {} failed{share}", report.requests, report.failed)),
        ],
    );
    text.push('\n');
    let mut table = Table::new(&[
        "AGENT",
        "LEARNT",
        "LOST",
        "SHIFTED",
        "ACTIVATED",
        "STABLE",
        "OVER",
        "REQUESTS",
        "FAILED",
        "CALLED UP",
    ]);
    let views = report.hosts.iter().filter_map(|h| h.view.as_ref());
    for part in views.map(|v| &v.part) {
        table.row(row(drill.started, part));
    }
    text.push_str(&table.render(page.style));
    text.push_str(&silent(&report.hosts, report.not_asked));
    text.push_str("times are from the drill's beginning, by each host's own clock\n");
    text
}

fn row(started: Wall, part: &DrillPart) -> [String; 10] {
    let at = |moment: Option<Wall>| moment.map(|m| offset(started, m)).unwrap_or_default();
    [
        part.node.to_string(),
        at(Some(part.learnt)),
        at(part.detected),
        at(part.shifted),
        at(part.activated),
        at(part.stable),
        at(part.over),
        part.requests.to_string(),
        part.failed.to_string(),
        part.called.join(", "),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hearth_proto::ids::{NodeName, ServiceName};
    use hearth_proto::view::{IncidentEntry, IncidentInput, IncidentView, parts};

    use super::*;
    use crate::cli::table::Style;

    const BEGIN: u64 = 1_795_426_568_000_000;

    fn page() -> Page {
        Page { style: Style { width: 120, colour: false }, now: Wall(BEGIN) }
    }

    fn name(n: &str) -> NodeName {
        NodeName::parse(n).unwrap()
    }

    fn ledger() -> ServiceName {
        ServiceName::parse("ledger").unwrap()
    }

    fn seen(ms: u64) -> IncidentView {
        let at = |more: u64| Wall(BEGIN + (ms + more) * 1_000);
        let entry = |more: u64, event: &str, detail: &str| IncidentEntry {
            at: at(more),
            event: event.into(),
            detail: detail.into(),
        };
        IncidentView {
            id: "ledger-4f1d09ab".into(),
            trace_id: "4f1d".into(),
            service: ledger(),
            lost: "ledger@web-3".into(),
            reason: "silent".into(),
            opened: at(0),
            stable: Some(at(1_340)),
            recovered: None,
            activated: Some("ledger@spare-1".into()),
            policy_version: 7,
            drill: None,
            inputs: vec![IncidentInput { name: "needed".into(), value: "3".into() }],
            spans: Vec::new(),
            timeline: vec![entry(0, "evidence", "silent"), entry(7, "shift", "to web-1")],
        }
    }

    #[test]
    fn an_incident_across_hosts_names_who_saw_what_when_and_who_did_not_answer() {
        let asked = ["web-1", "web-2", "web-3", "web-4"].map(name);
        let answers = BTreeMap::from([
            (name("web-1"), Some(seen(5))),
            (name("web-2"), Some(seen(0))),
            (name("web-4"), None),
        ]);
        let view = AcrossView::of(parts(&asked, answers), 0).unwrap();
        let text = incident(&view, page());
        assert_eq!(
            text,
            "incident  ledger-4f1d09ab\n\
             lost      ledger@web-3\n\
             opened    2026-11-23 09:36:08Z\n\
             stable    after 1.3 s, on every host that saw it\n\
             trace     4f1d\n\
             \n\
             HOST   DETECTED  MOVED IN  STABLE IN  CALLED UP       REASON\n\
             web-2  +0.000 s  7 ms      1.3 s      ledger@spare-1  silent\n\
             web-1  +0.005 s  7 ms      1.3 s      ledger@spare-1  silent\n\
             know nothing of it: web-4\n\
             did not answer: web-3\n\
             \n\
             AFTER     HOST   EVENT     DETAIL\n\
             +0.000 s  web-2  evidence  silent\n\
             +0.005 s  web-1  evidence  silent\n\
             +0.007 s  web-2  shift     to web-1\n\
             +0.012 s  web-1  shift     to web-1\n\
             \n\
             what web-2 decided on:\n\
             needed  3\n"
        );
    }

    fn drilled(node: &str, learnt_ms: u64, failed: u64) -> DrillView {
        let at = |ms: u64| Wall(BEGIN + ms * 1_000);
        DrillView {
            id: "drill-00c0ffee00c0ffee".into(),
            service: ledger(),
            lose: "node web-3".into(),
            by: name("web-1"),
            started: Wall(BEGIN),
            length_s: 10.0,
            left_s: 0.0,
            abort_above_percent: Some(1.0),
            running: false,
            why_over: Some("its time is over".into()),
            part: DrillPart {
                node: name(node),
                learnt: at(learnt_ms),
                lost: vec!["ledger@web-3".into()],
                detected: Some(at(learnt_ms + 50)),
                shifted: Some(at(learnt_ms + 52)),
                called: vec!["ledger@spare-1".into()],
                activated: None,
                stable: None,
                over: Some(at(10_000 + learnt_ms)),
                back: None,
                requests: 500,
                failed,
                incidents: Vec::new(),
            },
        }
    }

    #[test]
    fn a_drills_report_adds_up_and_says_who_took_no_part() {
        let asked = ["web-1", "web-2", "web-3"].map(name);
        let answers = BTreeMap::from([
            (name("web-1"), Some(drilled("web-1", 0, 0))),
            (name("web-2"), Some(drilled("web-2", 3, 2))),
            (name("web-3"), None),
        ]);
        let made = DrillReport::of(drilled("web-1", 0, 0), parts(&asked, answers), 0);
        assert!(made.over);
        let text = report(&made, page());
        for part in [
            "requests  1000, of which 2 failed (0.200 %)",
            "web-2  +0.003 s  +0.053 s  +0.055 s",
            "know nothing of it: web-3",
            "ended     its time is over",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }
}
