use hearth_proto::ids::{NodeName, ServiceName};

use super::*;

const STYLE: Style = Style { width: 90, colour: false };

fn finding(severity: &str, rule: &str, sentence: &str, mend: &str) -> FindingView {
    FindingView {
        service: ServiceName::parse("ledger").unwrap(),
        rule: rule.into(),
        severity: severity.into(),
        sentence: sentence.into(),
        mend: mend.into(),
    }
}

fn checked(findings: Vec<FindingView>) -> CheckView {
    CheckView {
        node: NodeName::parse("web-1").unwrap(),
        policy_version: 7,
        services: vec![ServiceName::parse("ledger").unwrap()],
        findings,
    }
}

#[test]
fn a_check_says_what_is_wrong_and_how_to_mend_it() {
    let view = checked(vec![
        finding(
            "error",
            "one-endpoint",
            "ledger@web-3 is its only endpoint: there is nobody to fail over to.",
            "offer it on a second host, hot or warm ([[endpoint]] there)",
        ),
        finding(
            "note",
            "zones-unknown",
            "1 endpoint is on a node that names no zone.",
            "zone = \"…\"",
        ),
    ]);
    assert_eq!(
        check(&view, STYLE),
        "error: ledger: ledger@web-3 is its only endpoint: there is nobody to fail over to.\n  \
         [one-endpoint]\n  \
         mend: offer it on a second host, hot or warm ([[endpoint]] there)\n\
         note: ledger: 1 endpoint is on a node that names no zone. [zones-unknown]\n  \
         mend: zone = \"…\"\n\
         \n\
         1 service: 1 error, 1 note; as seen from web-1, under policy version 7\n"
    );
    let clean = check(&checked(Vec::new()), STYLE);
    assert_eq!(clean, "1 service: nothing found; as seen from web-1, under policy version 7\n");
}

#[test]
fn colour_marks_the_severity_and_nothing_else() {
    let view = checked(vec![finding("error", "r", "It is so.", "so")]);
    let text = check(&view, Style { colour: true, ..STYLE });
    assert!(text.starts_with("\x1b[31merror\x1b[0m: ledger: It is so. [r]\n"), "{text:?}");
}

#[test]
fn a_check_ends_with_0_clean_1_warnings_2_errors_and_notes_are_no_fault() {
    let of = |severities: &[&str]| {
        let findings = severities.iter().map(|s| finding(s, "r", "x", "y")).collect();
        exit_code(&checked(findings))
    };
    assert_eq!(
        [of(&[]), of(&["note"]), of(&["note", "warning"]), of(&["warning", "error"])],
        [0, 0, 1, 2]
    );
}
