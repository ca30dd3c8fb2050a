//! Charts: scales that fit, nothing outside, text that is well-formed.

use super::super::input::{Scenario, Spec};
use super::terminal::Look;
use super::{Chart, svg, terminal};

fn scenario() -> Scenario {
    Spec {
        warm: 1,
        warm_failure_share: 0.25,
        activation_seconds: 30.0,
        detection_seconds: 0.2,
        ..Spec::new(3, 0, 3, 720.0, 1.0)
    }
    .parse()
    .unwrap()
}

fn charts() -> [Chart; 2] {
    [Chart::by_activation(&scenario()).unwrap(), Chart::by_warm(&scenario()).unwrap()]
}

/// The number after `key` at each place it occurs.
fn numbers(svg: &str, key: &str) -> Vec<f64> {
    svg.match_indices(key)
        .map(|(at, _)| {
            let rest = &svg[at + key.len()..];
            rest[..rest.find('"').unwrap()].parse().unwrap()
        })
        .collect()
}

#[test]
fn everything_drawn_lies_within_the_page() {
    for chart in charts() {
        let drawn = svg::render(&chart);
        for key in [" x=\"", " cx=\"", " x1=\"", " x2=\""] {
            assert!(numbers(&drawn, key).iter().all(|x| (0.0..=760.0).contains(x)), "{key}");
        }
        for key in [" y=\"", " cy=\"", " y1=\"", " y2=\""] {
            assert!(numbers(&drawn, key).iter().all(|y| (0.0..=420.0).contains(y)), "{key}");
        }
        assert_eq!(drawn.matches("<polyline").count(), chart.series.len());
        assert_eq!(drawn.matches("<text").count(), drawn.matches("</text>").count());
        assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
    }
}

#[test]
fn names_cannot_break_out_of_the_document() {
    let [mut chart, _] = charts();
    chart.title = "<script>\"&".into();
    let drawn = svg::render(&chart);
    assert!(!drawn.contains("<script>") && drawn.contains("&lt;script&gt;&quot;&amp;"));
}

#[test]
fn a_terminal_chart_is_as_wide_and_high_as_asked() {
    for chart in charts() {
        for (width, height) in [(80, 16), (120, 30), (0, 0)] {
            let drawn = terminal::render(&chart, Look { width, height, colour: false });
            let plot: Vec<&str> = drawn.lines().filter(|line| line.contains(['│', '┤'])).collect();
            assert_eq!(plot.len(), height.max(6), "{drawn}");
            let widest = drawn.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width.max(64), "{widest} of {width}\n{drawn}");
            assert!(!drawn.contains('\x1b') && drawn.contains('◉'));
        }
    }
}

#[test]
fn colours_add_escape_sequences_and_nothing_else() {
    for chart in charts() {
        let plain = terminal::render(&chart, Look::default());
        let coloured = terminal::render(&chart, Look { colour: true, ..Look::default() });
        let mut stripped = String::new();
        for piece in coloured.split('\x1b') {
            let text = piece.strip_prefix('[').and_then(|rest| rest.split_once('m'));
            stripped.push_str(text.map_or(piece, |(_, text)| text));
        }
        assert_ne!(plain, coloured);
        assert_eq!(plain, stripped);
    }
}

#[test]
fn every_curve_is_named() {
    for chart in charts() {
        let drawn = terminal::render(&chart, Look::default());
        assert!(chart.series.iter().all(|series| drawn.contains(&series.name)), "{drawn}");
        println!("{drawn}");
    }
}

#[test]
fn a_faster_activation_is_drawn_higher() {
    let [chart, _] = charts();
    for series in &chart.series[1..] {
        let frame = chart.frame();
        let up = |i: usize| frame.place(&series.points[i]).1;
        assert!(up(0) > up(series.points.len() - 1));
    }
}

#[test]
fn a_chart_of_nothing_is_still_a_chart() {
    let [mut chart, _] = charts();
    chart.series.clear();
    chart.here = None;
    assert!(svg::render(&chart).ends_with("</svg>\n"));
    assert!(terminal::render(&chart, Look::default()).contains('┤'));
}

#[test]
fn ticks_are_nines_and_downtime_per_year() {
    let [chart, _] = charts();
    let drawn = terminal::render(&chart, Look::default());
    assert!(drawn.contains("99.99 % ┤") && drawn.contains("├ 52.6 min"), "{drawn}");
    for label in ["10 ms", "100 ms", "1 s", "10 s", "100 s", "1000 s"] {
        assert!(drawn.contains(label), "{label}\n{drawn}");
    }
}
