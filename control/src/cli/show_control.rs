//! What the control plane says, for people. Pure: values in, text out.

use std::time::Duration;

use hearth_proto::api::{ControlStatus, PolicyAnswer, PolicyVersion, TokenAnswer};

use hearth_proto::ids::NodeName;

use super::show::Page;
use super::table::{Table, pairs};
use crate::moment::{ago, length, utc};

/// `hearth policy apply`
pub fn applied(answer: &PolicyAnswer, dry_run: bool) -> String {
    let mut text = String::new();
    for warning in &answer.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    for change in &answer.changes {
        text.push_str(&format!("  {change}\n"));
    }
    let acknowledged: Vec<&str> = answer.acknowledged.iter().map(NodeName::as_str).collect();
    let verdict = match (answer.changes.is_empty(), dry_run) {
        (true, _) => format!("nothing changes; version {} stays in force", answer.version),
        (false, true) => format!("dry run: this would become version {}", answer.version),
        (false, false) if acknowledged.is_empty() => format!(
            "version {} is signed; no agent acknowledged it yet, the push goes on: hearth policy status",
            answer.version
        ),
        (false, false) => format!(
            "version {} is in force on {}; gossip carries it to the rest: hearth policy status",
            answer.version,
            acknowledged.join(", ")
        ),
    };
    text.push_str(&verdict);
    text.push('\n');
    text
}

/// `hearth policy show`
pub fn policy(version: &PolicyVersion, page: Page) -> String {
    if version.version == 0 {
        return "# no policy was applied yet: every service has the defaults\n".to_owned();
    }
    let (at, ago) = (utc(version.issued), ago(version.issued, page.now));
    let end = if version.text.ends_with('\n') { "" } else { "\n" };
    format!(
        "# version {}, applied by {} at {at} ({ago})\n{}{end}",
        version.version, version.by, version.text
    )
}

/// `hearth policy history`
pub fn history(list: &[PolicyVersion], page: Page) -> String {
    if list.is_empty() {
        return "no policy was applied yet\n".to_owned();
    }
    let mut table = Table::new(&["VERSION", "APPLIED", "AT", "BY", "LINES"]);
    for version in list {
        table.row([
            version.version.to_string(),
            ago(version.issued, page.now),
            utc(version.issued),
            version.by.clone(),
            version.text.lines().count().to_string(),
        ]);
    }
    table.render(page.style)
}

/// `hearth policy status`
pub fn status(status: &ControlStatus, page: Page) -> String {
    let behind = status.nodes.iter().filter(|(_, v)| *v < status.policy_version).count();
    let pushed = match status.last_push {
        Some(at) => ago(at, page.now),
        None => "never since the daemon started".to_owned(),
    };
    let known = status.nodes.len();
    let mut text = pairs(
        page.style,
        &[
            ("mesh", format!("{} (hearth-control {})", status.trust_domain, status.version)),
            ("policy", format!("version {}", status.policy_version)),
            ("last push", pushed),
            ("nodes", format!("{known} known, {} up to date, {behind} behind", known - behind)),
        ],
    );
    if known > 0 {
        let mut table = Table::new(&["NODE", "POLICY"]);
        for (node, version) in &status.nodes {
            table.row([node.to_string(), version.to_string()]);
        }
        text.push('\n');
        text.push_str(&table.render(page.style));
    }
    text
}

/// What is said beside a new token that was asked for `ttl`.
pub fn token(answer: &TokenAnswer, node: &str, ttl: Duration) -> String {
    format!("good once, for node {node}, for {} (until {})\n", length(ttl), utc(answer.expires))
}
