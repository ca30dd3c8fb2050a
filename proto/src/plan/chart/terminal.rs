//! A chart for a terminal: curves in braille dots, eight to a character, with labels at both edges.

use super::{Chart, Frame, Scale, Series, Tick};

/// How large, and whether escape sequences may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Columns in all; less than 64 is taken as 64.
    pub width: usize,
    /// Rows of the plot itself; less than 6 is taken as 6.
    pub height: usize,
    /// Whether curves are coloured (not with `NO_COLOR`, nor into a file).
    pub colour: bool,
}

/// A terminal nobody asked: 80 columns, no colour.
impl Default for Look {
    fn default() -> Self {
        Self { width: 80, height: 16, colour: false }
    }
}

/// Columns left of the plot: "99.999999 % ┤".
const LEFT: usize = 14;
/// Columns right of it: " 52.6 min".
const RIGHT: usize = 11;
/// Dots per character, across and up.
const ACROSS: usize = 2;
const UP: usize = 4;
/// A braille character's dots by column and row from the top (Unicode chapter 21.1).
const DOTS: [[u32; UP]; ACROSS] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
/// Bright enough on dark, dark enough on light.
const COLOURS: [&str; 6] = ["34", "33", "32", "35", "36", "31"];

/// Draws `chart`; every line ends with a line feed.
pub fn render(chart: &Chart, look: Look) -> String {
    let frame = chart.frame();
    let mut plot = Plot::new(look.width.max(64) - LEFT - RIGHT, look.height.max(6));
    for tick in frame.y_ticks() {
        plot.rule(tick.at);
    }
    for (index, series) in chart.series.iter().enumerate() {
        plot.curve(&frame, series, index);
    }
    for index in 0..chart.series.len() {
        plot.name(&frame, &chart.series, index);
    }
    if let Some(here) = &chart.here {
        plot.put(frame.place(here), '◉', None);
    }
    let mut text = format!("  {}\n", chart.title);
    let ticks = frame.y_ticks();
    for row in 0..plot.height {
        let tick = ticks.iter().find(|tick| plot.row(tick.at) == row);
        let line = plot.line(row, look.colour);
        match tick {
            Some(Tick { label, other, .. }) => {
                text.push_str(&format!("{label:>12} ┤{line}├ {other}"));
            }
            None => text.push_str(&format!("{:12} │{line}│", "")),
        }
        text.push('\n');
    }
    text.push_str(&bottom(&frame, plot.width));
    text.push_str(&format!("{:LEFT$}{:^width$}\n", "", chart.x_label, width = plot.width));
    if chart.here.is_some() {
        text.push_str(&format!("{:LEFT$}◉ this plan; right edge: down per year\n", ""));
    }
    text
}

/// The axis with its ticks, and their labels under it, as far as they do not touch.
fn bottom(frame: &Frame, width: usize) -> String {
    let mut axis = vec!['─'; width];
    let mut labels: Vec<char> = vec![' '; width + RIGHT];
    let mut free = 0;
    for tick in frame.x_ticks() {
        let column = column(tick.at, width);
        axis[column] = '┬';
        let length = tick.label.chars().count();
        let start = column.saturating_sub(length / 2);
        if start >= free && start + length <= labels.len() {
            labels.splice(start..start + length, tick.label.chars());
            free = start + length + 1;
        }
    }
    let axis: String = axis.into_iter().collect();
    let labels: String = labels.into_iter().collect();
    format!("{:12} └{axis}┘\n{:LEFT$}{}\n", "", "", labels.trim_end())
}

/// 0..=1 to a column.
fn column(at: f64, width: usize) -> usize {
    // Within 0..width by the clamp.
    (at.clamp(0.0, 1.0) * (width - 1) as f64).round() as usize
}

/// What a character of the plot holds.
#[derive(Clone, Copy)]
enum Cell {
    /// Nothing, or a grid line.
    Ground { rule: bool },
    /// Dots of a curve.
    Dots { bits: u32, series: usize },
    /// A letter.
    Text { letter: char, series: Option<usize> },
}

struct Plot {
    width: usize,
    height: usize,
    cells: Vec<Cell>,
}

impl Plot {
    fn new(width: usize, height: usize) -> Self {
        Self { width, height, cells: vec![Cell::Ground { rule: false }; width * height] }
    }

    /// The row of a height from 0 (last) to 1 (first).
    fn row(&self, up: f64) -> usize {
        self.height - 1 - (up.clamp(0.0, 1.0) * (self.height - 1) as f64).round() as usize
    }

    fn rule(&mut self, up: f64) {
        let row = self.row(up);
        for cell in &mut self.cells[row * self.width..(row + 1) * self.width] {
            *cell = Cell::Ground { rule: true };
        }
    }

    /// A dot by the fine grid, from the top left. Where curves meet, the later one has the cell's colour.
    fn dot(&mut self, x: usize, y: usize, series: usize) {
        let cell = &mut self.cells[y / UP * self.width + x / ACROSS];
        let bit = DOTS[x % ACROSS][y % UP];
        let bits = if let Cell::Dots { bits, .. } = *cell { bits } else { 0 };
        *cell = Cell::Dots { bits: bits | bit, series };
    }

    /// Straight lines between a curve's points, in each dot column all dots from the last height on.
    fn curve(&mut self, frame: &Frame, series: &Series, index: usize) {
        let columns = self.width * ACROSS;
        // The centres of first and last row are the ends of the scale, as for labels.
        let fine = |up: f64| {
            let from_top = (1.0 - up.clamp(0.0, 1.0)) * ((self.height - 1) * UP) as f64;
            (from_top + UP as f64 / 2.0).floor() as usize
        };
        let mut dots = Vec::new();
        for pair in series.points.windows(2) {
            let ((x0, y0), (x1, y1)) = (frame.place(&pair[0]), frame.place(&pair[1]));
            let (from, to) = (column(x0, columns), column(x1, columns));
            let mut last = fine(y0);
            for x in from..=to {
                let along = if to > from { (x - from) as f64 / (to - from) as f64 } else { 1.0 };
                let y = fine(y0 + (y1 - y0) * along);
                dots.extend((last.min(y)..=last.max(y)).map(|y| (x, y)));
                last = y;
            }
        }
        for (x, y) in dots {
            self.dot(x, y, index);
        }
        if frame.scale == Scale::Count {
            for point in &series.points {
                self.put(frame.place(point), '●', Some(index));
            }
        }
    }

    fn put(&mut self, (across, up): (f64, f64), letter: char, series: Option<usize>) {
        let place = self.row(up) * self.width + column(across, self.width);
        self.cells[place] = Cell::Text { letter, series };
    }

    /// The curve's name above or below it, where it is farthest from the others (and if that is so in
    /// many places, rather to the right), in the nearest row with room.
    fn name(&mut self, frame: &Frame, all: &[Series], index: usize) {
        let series = &all[index];
        let letters: Vec<char> = series.name.chars().take(self.width / 2).collect();
        let anchor =
            series.points.iter().enumerate().max_by(|a, b| {
                alone(frame, all, index, a.0).total_cmp(&alone(frame, all, index, b.0))
            });
        let Some((_, anchor)) = anchor else { return };
        let (across, up) = frame.place(anchor);
        let (middle, near) = (column(across, self.width), self.row(up));
        let last = self.width.saturating_sub(letters.len() + 2).max(1);
        let start = middle.saturating_sub(letters.len() / 2).clamp(1, last);
        let free = |row: usize| {
            let from = row * self.width + start - 1;
            self.cells[from..from + letters.len() + 2]
                .iter()
                .all(|cell| matches!(cell, Cell::Ground { .. }))
        };
        let rows = (0..self.height).filter(|&row| free(row));
        let Some(row) = rows.min_by_key(|row| row.abs_diff(near)) else { return };
        for (i, letter) in letters.into_iter().enumerate() {
            self.cells[row * self.width + start + i] = Cell::Text { letter, series: Some(index) };
        }
    }

    fn line(&self, row: usize, colour: bool) -> String {
        let mut line = String::new();
        for cell in &self.cells[row * self.width..(row + 1) * self.width] {
            let (letter, series) = match *cell {
                Cell::Ground { rule: true } => ('┈', None),
                Cell::Ground { rule: false } => (' ', None),
                Cell::Dots { bits, series } => {
                    // The braille block has all 256 patterns.
                    (char::from_u32(0x2800 + bits).unwrap_or(' '), Some(series))
                }
                Cell::Text { letter, series } => (letter, series),
            };
            match series.filter(|_| colour) {
                Some(series) => {
                    let code = COLOURS[series % COLOURS.len()];
                    line.push_str(&format!("\x1b[{code}m{letter}\x1b[0m"));
                }
                None => line.push(letter),
            }
        }
        line
    }
}

/// How far a curve is from the nearest other one at its `at`th point, as a share of the height; a
/// fifth is as good as any more.
fn alone(frame: &Frame, all: &[Series], index: usize, at: usize) -> f64 {
    let height = |series: &Series| series.points.get(at).map(|point| frame.place(point).1);
    let Some(own) = height(&all[index]) else { return 0.0 };
    all.iter()
        .enumerate()
        .filter(|(other, _)| *other != index)
        .filter_map(|(_, other)| height(other))
        .map(|other| (other - own).abs())
        .fold(0.2, f64::min)
}
