//! A trace drawn as a tree, with times.
//!
//! Pure: spans in, text out. Times are milliseconds from the trace's first span. A span whose parent
//! was not received is drawn at the top and marked, never left out.

use std::fmt::Write as _;

use super::Span;

/// Draws the spans of one trace.
///
/// ```text
/// failover                     hot-2      0.0 ms   +341.2 ms  hearth.reason=link silence
/// ├─ detect                    caller     0.0 ms    +24.1 ms
/// ```
#[must_use]
pub fn draw(spans: &[Span]) -> String {
    let mut spans: Vec<&Span> = spans.iter().collect();
    spans.sort_by(|a, b| (a.start, &a.name, a.node()).cmp(&(b.start, &b.name, b.node())));
    let zero = spans.iter().map(|s| s.start).min().unwrap_or(0);
    let known = |id: &str| spans.iter().any(|s| s.span_id == id);
    let mut text = String::new();
    for root in spans.iter().filter(|s| !known(&s.parent)) {
        let orphan = if root.parent.is_empty() { "" } else { "  (parent not received)" };
        line(&mut text, "", root, zero, orphan);
        branch(&mut text, &spans, root, "", zero, 0);
    }
    text
}

/// Deeper than this is a loop among the ids, not a trace.
const DEEPEST: usize = 16;

fn branch(text: &mut String, all: &[&Span], of: &Span, indent: &str, zero: u64, depth: usize) {
    let children: Vec<_> =
        all.iter().filter(|s| s.parent == of.span_id && s.span_id != of.span_id).collect();
    let twigs = of.events.len() + children.len();
    let stem = |n: usize| {
        if n + 1 == twigs { ("└─ ", "   ") } else { ("├─ ", "│  ") }
    };
    for (n, event) in of.events.iter().enumerate() {
        let mark = format!("{indent}{}· {}", stem(n).0, event.name);
        let at = ms(event.at.saturating_sub(zero));
        let _ = writeln!(text, "{mark:<34}{:<12}{at:>10} ms", of.node());
    }
    for (n, child) in children.iter().enumerate() {
        let (mark, rest) = stem(of.events.len() + n);
        line(text, &format!("{indent}{mark}"), child, zero, "");
        if depth < DEEPEST {
            branch(text, all, child, &format!("{indent}{rest}"), zero, depth + 1);
        }
    }
}

fn line(text: &mut String, mark: &str, span: &Span, zero: u64, note: &str) {
    let name = format!("{mark}{}", span.name);
    let from = ms(span.start.saturating_sub(zero));
    let took = ms(span.end.saturating_sub(span.start));
    let mut why = String::new();
    for key in ["hearth.lost", "hearth.endpoint", "hearth.reason"] {
        if let Some(value) = span.attributes.get(key) {
            let _ = write!(why, "  {value}");
        }
    }
    let _ = writeln!(
        text,
        "{name:<34}{:<12}{from:>10} ms {:>11} ms{why}{note}",
        span.node(),
        format!("+{took}"),
    );
}

#[allow(clippy::cast_precision_loss)] // Durations of a demo fit a double's 53 bits.
fn ms(nanos: u64) -> String {
    format!("{:.1}", nanos as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Span};
    use super::draw;

    fn span(name: &str, id: &str, parent: &str, start: u64, end: u64) -> Span {
        let node = [("service.instance.id".to_owned(), "n1".to_owned())];
        Span {
            trace_id: "t".to_owned(),
            span_id: id.to_owned(),
            parent: parent.to_owned(),
            name: name.to_owned(),
            start: start * 1_000_000,
            end: end * 1_000_000,
            attributes: [].into(),
            events: Vec::new(),
            resource: node.into(),
        }
    }

    #[test]
    fn children_hang_below_their_parent_with_times_from_the_first_span() {
        let mut detect = span("detect", "b", "a", 100, 121);
        detect.events.push(Event {
            name: "suspect".to_owned(),
            at: 110_000_000,
            attributes: [].into(),
        });
        let text =
            draw(&[span("shift", "c", "a", 121, 130), detect, span("failover", "a", "", 100, 400)]);
        let words: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["failover", "n1", "0.0", "ms", "+300.0", "ms"]);
        assert_eq!(words[1], ["├─", "detect", "n1", "0.0", "ms", "+21.0", "ms"]);
        assert_eq!(words[2], ["│", "└─", "·", "suspect", "n1", "10.0", "ms"]);
        assert_eq!(words[3], ["└─", "shift", "n1", "21.0", "ms", "+9.0", "ms"]);
    }

    #[test]
    fn a_span_without_its_parent_is_drawn_and_marked() {
        let text = draw(&[span("activate", "b", "a", 0, 1)]);
        assert!(text.contains("parent not received"), "{text}");
    }

    #[test]
    fn ids_in_a_circle_do_not_hang_the_drawing() {
        let text = draw(&[span("x", "a", "b", 0, 1), span("y", "b", "a", 0, 1)]);
        assert!(text.is_empty());
    }
}
