//! A chart as a stand-alone SVG document: no script, no font to load, readable on light and dark.

use std::fmt::Write as _;

use super::{Chart, Frame, Scale, Series};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 86.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 58.0;

/// Okabe and Ito's colours: told apart by all kinds of colour vision.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#444}.t{font-size:16px;font-weight:600;\
fill:#111}.g{stroke:#ccc;stroke-width:1}.c{fill:none;stroke-width:2.2;stroke-linejoin:round;\
stroke-linecap:round}.b{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#bbb}.t{fill:#eee}\
.g{stroke:#444}.b{fill:#15181c}}";

/// Draws `chart`.
pub fn render(chart: &Chart) -> String {
    let frame = chart.frame();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" role=\"img\"><title>{title}</title><style>{STYLE}</style>\
         <rect class=\"b\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"8\"/>\
         <text class=\"t\" x=\"{LEFT}\" y=\"28\">{title}</text>\n",
        title = escaped(&chart.title)
    );
    grid(&mut svg, &frame, &chart.x_label);
    for (series, colour) in chart.series.iter().zip(COLOURS.iter().cycle()) {
        curve(&mut svg, &frame, series, colour);
    }
    names(&mut svg, chart);
    if let Some(here) = &chart.here {
        let (x, y) = placed(frame.place(here));
        text(
            &mut svg,
            &format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6\" fill=\"none\" stroke=\"#d00\" \
                 stroke-width=\"2\"><title>this plan</title></circle>\n"
            ),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn text(svg: &mut String, piece: &str) {
    svg.push_str(piece);
}

/// From shares of the plot to the page, y down.
fn placed((across, up): (f64, f64)) -> (f64, f64) {
    (LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM))
}

fn grid(svg: &mut String, frame: &Frame, x_label: &str) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for tick in frame.y_ticks() {
        let (_, y) = placed((0.0, tick.at));
        let base = y + 4.0;
        // Writing to a String cannot fail.
        let _ = writeln!(
            svg,
            "<line class=\"g\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{}</text>\
             <text x=\"{:.1}\" y=\"{base:.1}\">{}</text>",
            LEFT - 8.0,
            escaped(&tick.label),
            right + 8.0,
            escaped(&tick.other),
        );
    }
    for tick in frame.x_ticks() {
        let (x, _) = placed((tick.at, 0.0));
        let _ = writeln!(
            svg,
            "<line class=\"g\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            escaped(&tick.label),
        );
    }
    let (middle, _) = placed((0.5, 0.0));
    let _ = writeln!(
        svg,
        "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">available</text>\
         <text x=\"{:.1}\" y=\"{:.1}\">down per year</text>",
        bottom + 42.0,
        escaped(x_label),
        LEFT - 8.0,
        TOP - 12.0,
        right - 8.0,
        TOP - 12.0,
    );
}

fn curve(svg: &mut String, frame: &Frame, series: &Series, colour: &str) {
    let points: Vec<String> = series
        .points
        .iter()
        .map(|point| {
            let (x, y) = placed(frame.place(point));
            format!("{x:.1},{y:.1}")
        })
        .collect();
    let line = points.join(" ");
    let _ = writeln!(svg, "<polyline class=\"c\" stroke=\"{colour}\" points=\"{line}\"/>");
    if frame.scale == Scale::Count {
        for point in &series.points {
            let (x, y) = placed(frame.place(point));
            let _ =
                writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
        }
    }
}

/// The legend, in a row under the title.
fn names(svg: &mut String, chart: &Chart) {
    let mut x = LEFT + 90.0;
    let here = chart.here.map(|_| ("this plan", "#d00"));
    let series = chart.series.iter().map(|series| series.name.as_str());
    for (name, colour) in series.zip(COLOURS.into_iter().cycle()).chain(here) {
        let base = TOP - 12.0;
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{base:.1}\">{}</text>",
            base - 4.0,
            x + 9.0,
            escaped(name),
        );
        // About seven units per letter in the font's size, and a gap.
        x += 7.0 * name.chars().count() as f64 + 34.0;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
