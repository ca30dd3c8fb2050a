//! Tables and paragraphs for people: aligned, at most as wide as the terminal, coloured only where a
//! person looks.

use std::io::IsTerminal;

/// Narrowest and widest output.
const WIDTH: std::ops::RangeInclusive<usize> = 40..=140;
/// Where nobody says how wide it is: a pipe, a file.
const UNKNOWN: usize = 100;
/// Columns the last cell needs beside the others; with fewer it goes on lines of its own.
const BESIDE: usize = 24;

/// How to lay out.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Columns of the terminal.
    pub width: usize,
    /// Whether to colour.
    pub colour: bool,
}

impl Style {
    /// As the terminal and `NO_COLOR` have it (<https://no-color.org>).
    pub fn from_environment() -> Self {
        let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
        // A shell does not hand its COLUMNS on: the terminal is asked.
        let terminal = || {
            let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
            Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
        };
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self {
            width: columns.or_else(terminal).unwrap_or(UNKNOWN).clamp(*WIDTH.start(), *WIDTH.end()),
            colour: !plain && std::io::stdout().is_terminal(),
        }
    }

    /// A word of state in its colour: what serves green, what is in doubt yellow, what is out red.
    pub(super) fn paint(self, text: &str) -> String {
        let code = match text.trim() {
            "ready" | "alive" | "serve" | "up" => "32",
            "doubtful" | "activating" | "draining" | "suspect" | "unsteady" | "panic" | "wake"
            | "silent" | "joining" | "leaving" | "open" | "warning" => "33",
            "out" | "unready" | "down" | "none" | "error" => "31",
            _ => return text.to_owned(),
        };
        match self.colour {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// Rows under headings. The last column is wrapped where the line would be too long, under itself or,
/// where there is no room for that, under its row.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()] }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let dash = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell };
        self.rows.push(cells.into_iter().map(dash).collect());
    }

    /// The table as text.
    pub fn render(&self, style: Style) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let before_last: usize =
            widths.iter().take(columns.saturating_sub(1)).map(|width| width + 2).sum();
        let (longest, left) =
            (widths.last().copied().unwrap_or(0), style.width.saturating_sub(before_last));
        let (left, indent, below) = match left < BESIDE.min(longest) {
            true => (style.width.saturating_sub(4), 4, true),
            false => (left, before_last, false),
        };
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let padding = widths.get(column).map_or(0, |w| w - cell.chars().count());
                let painted = if number == 0 { cell.clone() } else { style.paint(cell) };
                if column + 1 == columns {
                    let next = format!("\n{}", " ".repeat(indent));
                    let wrapped = wrap(cell, left).join(&next);
                    if below && cell != "-" {
                        line.truncate(line.trim_end().len());
                        line.push_str(&next);
                    }
                    line.push_str(if wrapped == *cell { &painted } else { &wrapped });
                } else {
                    line.push_str(&painted);
                    line.push_str(&" ".repeat(padding + 2));
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Breaks a text at spaces into lines of at most `width` characters; a longer word keeps its line.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().map_or(0, |l| l.chars().count());
        match lines.last_mut() {
            Some(last) if line == 0 => last.push_str(word),
            Some(last) if line + 1 + word.chars().count() <= width => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `name  value` lines, aligned.
pub fn pairs(style: Style, items: &[(&str, String)]) -> String {
    let width = items.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let mut text = String::new();
    for (name, value) in items {
        let lines = wrap(value, style.width.saturating_sub(width).max(20));
        let value = lines.join(&format!("\n{}", " ".repeat(width)));
        text.push_str(format!("{name:<width$}{value}").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { width: 40, colour: false };

    #[test]
    fn columns_are_aligned_and_the_last_one_is_wrapped_under_itself() {
        let mut table = Table::new(&["NODE", "STATE", "REASON"]);
        table.row(["web-1".into(), "ready".into(), String::new()]);
        table.row(["a".into(), "out".into(), "link silent for 3 s, confirmed by two".into()]);
        assert_eq!(
            table.render(PLAIN),
            "NODE   STATE  REASON\n\
             web-1  ready  -\n\
             a      out    link silent for 3 s,\n\
             \x20             confirmed by two\n"
        );
    }

    #[test]
    fn in_a_narrow_terminal_the_last_column_goes_under_its_row() {
        let mut table = Table::new(&["INCIDENT", "OPENED", "REASON"]);
        table.row(["ledger-4f1d09ab".into(), "12 s ago".into(), "link silent for 3 s".into()]);
        table.row(["ledger-00000000".into(), "13 s ago".into(), String::new()]);
        assert_eq!(
            table.render(PLAIN),
            "INCIDENT         OPENED\n    REASON\n\
             ledger-4f1d09ab  12 s ago\n    link silent for 3 s\n\
             ledger-00000000  13 s ago  -\n"
        );
    }

    #[test]
    fn colour_does_not_disturb_the_columns() {
        let mut table = Table::new(&["STATE", "X"]);
        table.row(["out".into(), "y".into()]);
        let style = Style { width: 80, colour: true };
        assert_eq!(table.render(style), "STATE  X\n\x1b[31mout\x1b[0m    y\n");
    }
}
