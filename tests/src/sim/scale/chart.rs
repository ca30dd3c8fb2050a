//! The figures over the size of the mesh, both in decades: a panel each, a line for each kind of paths.

use std::fmt::Write as _;

use super::{Known, Measured, Paths};

type Figure = (&'static str, fn(&Measured) -> f64);

const FIGURES: [Figure; 6] = [
    ("bytes a second per host at rest", |m| m.rest_bytes[0]),
    ("seconds until all know all, from one seed", |m| match m.known {
        Known::After(seconds) => seconds,
        Known::Told | Known::Never => f64::NAN,
    }),
    ("seconds until 99 % hold a changed advert", |m| m.news_s[1]),
    ("seconds from a death to the verdict, median", |m| m.detection_s[0]),
    ("the same, 99 %", |m| m.detection_s[1]),
    ("bytes of memory per host that knows all by itself", |m| match m.known {
        Known::After(_) => m.memory as f64,
        Known::Told | Known::Never => f64::NAN,
    }),
];
const LINES: [(Paths, &str); 2] = [(Paths::Lan, "#0969da"), (Paths::Places, "#bc4c00")];
const PANEL: (f64, f64) = (420.0, 210.0);
/// Where a panel's plot lies in it.
const PLOT: (f64, f64, f64, f64) = (64.0, 32.0, 330.0, 136.0);
const TITLE: f64 = 56.0;

/// A picture of the whole.
pub(super) fn svg(all: &[Measured]) -> String {
    let (width, height) = (2.0 * PANEL.0, TITLE + 3.0 * PANEL.1);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#24292f\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n<text x=\"12\" y=\"24\" font-size=\"16\" \
         font-weight=\"600\">How a mesh grows</text>\n"
    );
    for (n, (paths, colour)) in LINES.into_iter().enumerate() {
        let (x, name) = (12 + 130 * n, paths.name());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "<text x=\"{x}\" y=\"44\" fill=\"{colour}\">&#9679; {name}</text>");
    }
    for (n, (title, of)) in FIGURES.into_iter().enumerate() {
        let corner = ((n % 2) as f64 * PANEL.0, TITLE + (n / 2) as f64 * PANEL.1);
        panel(&mut text, corner, title, all, of);
    }
    text.push_str("</svg>\n");
    text
}

/// Whole decades around some values.
fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let logs: Vec<f64> = values.filter(|v| *v > 0.0).map(f64::log10).collect();
    if logs.is_empty() {
        return (0.0, 1.0);
    }
    let (low, high) = logs.into_iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    let (low, high) = (low.floor(), high.ceil());
    if low < high { (low, high) } else { (low, low + 1.0) }
}

fn panel(
    text: &mut String,
    corner: (f64, f64),
    title: &str,
    all: &[Measured],
    of: fn(&Measured) -> f64,
) {
    let (left, top) = (corner.0 + PLOT.0, corner.1 + PLOT.1);
    let (right, bottom) = (left + PLOT.2, top + PLOT.3);
    let across = decades(all.iter().map(|m| m.nodes as f64));
    let up = decades(all.iter().map(of));
    let x = |v: f64| left + (v.log10() - across.0) / (across.1 - across.0) * PLOT.2;
    let y = |v: f64| bottom - (v.log10() - up.0) / (up.1 - up.0) * PLOT.3;
    let _ = writeln!(
        text,
        "<text x=\"{}\" y=\"{}\" font-weight=\"600\">{title}</text>\n<rect x=\"{left}\" y=\"{top}\" \
         width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#d0d7de\"/>",
        corner.0 + 12.0,
        corner.1 + 20.0,
        PLOT.2,
        PLOT.3
    );
    for exponent in across.0 as i32..=across.1 as i32 {
        let at = x(10f64.powi(exponent));
        let (label, below) = (10f64.powi(exponent), bottom + 16.0);
        let _ =
            writeln!(text, "<text x=\"{at}\" y=\"{below}\" text-anchor=\"middle\">{label}</text>");
    }
    for exponent in up.0 as i32..=up.1 as i32 {
        let (at, label) = (y(10f64.powi(exponent)), 10f64.powi(exponent));
        let _ = writeln!(
            text,
            "<line x1=\"{left}\" y1=\"{at}\" x2=\"{right}\" y2=\"{at}\" stroke=\"#eaeef2\"/>\n\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>",
            left - 6.0,
            at + 4.0
        );
    }
    for (paths, colour) in LINES {
        let points = all.iter().filter(|m| m.paths == paths && of(m) > 0.0);
        let points: Vec<(f64, f64)> = points.map(|m| (x(m.nodes as f64), y(of(m)))).collect();
        let line: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for (x, y) in points {
            let _ =
                writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
    }
}
