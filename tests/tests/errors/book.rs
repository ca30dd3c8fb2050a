//! A book of printed texts: what each wrong step is answered with, beside what is expected.
//!
//! Expected texts are files under `tests/tests/errors/`, meant to be read: one section per case with the
//! command, the exit code and every line printed. What differs from run to run stands there as a word in
//! capitals: the directory as `/D`, ports and process ids by their role, moments as `TIME`. Log lines are
//! left out but where a case asks for one. `BLESS=1` writes the files anew, to be reviewed like code.

use std::path::{Path, PathBuf};

use hearth_tests::loopback::{Done, log_lines};
use serde_json::Value;

/// How a text says what to do.
const REMEDIES: [&str; 5] = ["hint: ", "tip: ", "; write ", "; allowed ", " must be "];

pub(crate) struct Book {
    file: PathBuf,
    dir: String,
    words: Vec<(String, String)>,
    text: String,
    poor: Vec<String>,
}

impl Book {
    /// The book `name`, of programs run in `dir`.
    pub(crate) fn open(name: &str, dir: &Path) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
        Self {
            file: here.join(format!("{name}.txt")),
            dir: dir.display().to_string(),
            words: Vec::new(),
            text: String::new(),
            poor: Vec::new(),
        }
    }

    /// From here on `port` is called `word`.
    pub(crate) fn port(&mut self, port: u16, word: &str) {
        self.word(&format!(":{port}"), &format!(":{word}"));
    }

    /// From here on `text`, where no digit follows, is called `word`.
    pub(crate) fn word(&mut self, text: &str, word: &str) {
        self.words.push((text.to_owned(), word.to_owned()));
    }

    /// What a program printed before it ended with an error. It must say where the mistake is and what to
    /// do, and never show what only a programmer reads.
    pub(crate) fn error(&mut self, case: &str, command: &str, done: &Done, place: &str) {
        let printed = self.normal(&without_log(&format!("{}{}", done.stdout, done.stderr)));
        let mut poor = |why: &str| self.poor.push(format!("{case}: {why} in\n{printed}"));
        if matches!(done.code, Some(0) | None) {
            poor("no exit code of an error");
        }
        if !printed.contains(place) {
            poor(&format!("no word of where ({place})"));
        }
        for bad in ["panicked", "RUST_BACKTRACE", "Some(", "Err(", "Os {", "Error {"] {
            if printed.contains(bad) {
                poor(&format!("{bad}, which is for programmers,"));
            }
        }
        if !REMEDIES.iter().any(|remedy| printed.contains(remedy)) {
            poor("no word of what to do");
        }
        let code = done.code.map_or_else(String::new, |code| code.to_string());
        self.section(case, command, &format!("exit {code}\n{printed}"));
    }

    /// What a program printed that went well.
    pub(crate) fn answer(&mut self, case: &str, command: &str, done: &Done) {
        assert_eq!(done.code, Some(0), "{case}: {done:?}");
        let printed = self.normal(&format!("{}{}", done.stdout, done.stderr));
        self.section(case, command, &format!("exit 0\n{printed}"));
    }

    /// The first line of a log with this event: a running agent has no other way to say it.
    pub(crate) fn log(&mut self, case: &str, command: &str, stderr: &str, event: &str) {
        let lines = log_lines(stderr);
        let line = lines.iter().find(|line| line["event"] == event);
        let line = line.unwrap_or_else(|| panic!("{case}: no line {event:?} in\n{stderr}"));
        let mut told = format!("log {} {event}\n", line["level"].as_str().unwrap_or_default());
        for (key, value) in line["fields"].as_object().into_iter().flatten() {
            let value = value.as_str().map_or_else(|| Value::to_string(value), str::to_owned);
            told.push_str(&format!("  {key}: {}\n", value.replace('\n', "\n  ")));
        }
        let told = self.normal(&told);
        self.section(case, command, &told);
    }

    fn section(&mut self, case: &str, command: &str, printed: &str) {
        let command = self.normal(command);
        self.text.push_str(&format!("== {case}\n$ {command}\n{}\n\n", printed.trim_end()));
    }

    fn normal(&self, text: &str) -> String {
        let mut text = text.replace(&self.dir, "/D");
        for (from, to) in &self.words {
            text = replace_word(&text, from, to);
        }
        moments(&text)
    }

    /// Compares the book with what is expected.
    pub(crate) fn close(self) {
        let text = format!("{}\n", self.text.trim_end());
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&self.file, &text).unwrap();
        }
        assert!(self.poor.is_empty(), "{}", self.poor.join("\n"));
        let expected = std::fs::read_to_string(&self.file).unwrap_or_default();
        if text == expected {
            return;
        }
        let sections = |text: &str| text.split("\n\n").map(str::to_owned).collect::<Vec<_>>();
        let (now, then) = (sections(text.trim_end()), sections(expected.trim_end()));
        for section in now.iter().filter(|section| !then.contains(section)) {
            println!("printed, and not expected:\n{section}\n");
        }
        for section in then.iter().filter(|section| !now.contains(section)) {
            println!("expected, and not printed:\n{section}\n");
        }
        panic!("{} differs; BLESS=1 writes it anew, for review", self.file.display());
    }
}

/// A text without the JSON lines of a log.
fn without_log(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with('{')).map(|line| format!("{line}\n")).collect()
}

/// Replaces `from` where no letter or digit follows.
fn replace_word(text: &str, from: &str, to: &str) -> String {
    let mut parts = text.split(from);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let whole = !part.starts_with(|c: char| c.is_ascii_alphanumeric());
        out.push_str(if whole { to } else { from });
        out.push_str(part);
    }
    out
}

/// Puts `TIME` where a moment stands (`2026-11-23T09:36:08Z`, with a space in place of the T too).
fn moments(text: &str) -> String {
    const SHAPE: &str = "dddd-dd-dd?dd:dd:ddZ";
    let fits = |text: &str| {
        text.len() >= SHAPE.len()
            && text.bytes().zip(SHAPE.bytes()).all(|(found, shape)| match shape {
                b'd' => found.is_ascii_digit(),
                b'?' => matches!(found, b'T' | b' '),
                exact => found == exact,
            })
    };
    let mut out = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if fits(rest) {
            out.push_str("TIME");
            rest = &rest[SHAPE.len()..];
        } else {
            out.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    out
}

#[test]
fn a_moment_and_a_port_become_words() {
    assert_eq!(moments("at 2026-11-23 09:36:08Z, 2026-11-23T09:36:08Z."), "at TIME, TIME.");
    assert_eq!(
        replace_word("127.0.0.1:80 127.0.0.1:8000", ":80", ":P"),
        "127.0.0.1:P 127.0.0.1:8000"
    );
}
