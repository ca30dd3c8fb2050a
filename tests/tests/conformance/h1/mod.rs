//! HTTP/1.1 byte for byte (RFC 9110, 9112), by what is tried.

mod answers;
mod chunked;
mod connections;
mod encoding;
mod expect;
mod fields;
mod hops;
mod hosts;
mod interim;
mod length;
mod targets;
mod upgrade;

use hearth_tests::conformance::case::Case;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let tables: [(&str, Vec<Case>); 12] = [
        ("connections", connections::cases()),
        ("length", length::cases()),
        ("encoding", encoding::cases()),
        ("chunked", chunked::cases()),
        ("fields", fields::cases()),
        ("targets", targets::cases()),
        ("hosts", hosts::cases()),
        ("expect", expect::cases()),
        ("interim", interim::cases()),
        ("upgrade", upgrade::cases()),
        ("hops", hops::cases()),
        ("answers", answers::cases()),
    ];
    let named = |(table, cases): (&str, Vec<Case>)| {
        let prefix = format!("h1::{table}::");
        cases.into_iter().map(move |case| case.under(&prefix))
    };
    tables.into_iter().flat_map(named).collect()
}

/// A request without a body.
fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: svc\r\n\r\n")
}

/// A GET with these further field lines (without the last line end).
fn get_with(fields: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: svc\r\n{fields}\r\n\r\n")
}

/// A POST with these field lines (without the last line end) and what follows the head.
fn post_with(fields: &str, rest: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: svc\r\n{fields}\r\n\r\n{rest}")
}

/// A POST in chunks: these bytes after the head.
fn chunks(rest: &str) -> String {
    post_with("Transfer-Encoding: chunked", rest)
}
