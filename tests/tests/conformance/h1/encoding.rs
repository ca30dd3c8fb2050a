//! Transfer-Encoding in a request, and everything by which it can be hidden from one of two readers
//! (RFC 9112 sections 6.1 and 11.2).

use hearth_tests::conformance::case::{Case, case, ok, saw};

use super::post_with;

/// Read as chunked: `abc`. Read by a length of 3: `3\r\n`, and a request in front of the next.
const REST: &str = "3\r\nabc\r\n0\r\n\r\n";
/// Read as chunked: nothing. Read by its length: a whole request of the attacker's behind it.
const HIDDEN: &str = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: svc\r\n\r\n";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let refused = |name: &str, fields: &str, rest: &str| {
        case(&format!("refuses_{name}")).send(post_with(fields, rest)).refused(&[400, 501])
    };
    let hidden = HIDDEN.len();
    cases.push(refused(
        "length_then_chunked",
        &format!("Content-Length: {hidden}\r\nTransfer-Encoding: chunked"),
        HIDDEN,
    ));
    cases.push(refused(
        "chunked_then_length",
        &format!("Transfer-Encoding: chunked\r\nContent-Length: {hidden}"),
        HIDDEN,
    ));
    cases.push(refused(
        "length_zero_and_chunked",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        REST,
    ));
    cases.push(refused(
        "length_and_identity",
        "Content-Length: 3\r\nTransfer-Encoding: identity",
        "abc",
    ));
    cases.push(refused(
        "length_and_unknown",
        "Content-Length: 3\r\nTransfer-Encoding: xchunked",
        "abc",
    ));
    let bad = [
        ("gzip", "Transfer-Encoding: gzip"),
        ("gzip_then_chunked", "Transfer-Encoding: gzip, chunked"),
        ("chunked_then_gzip", "Transfer-Encoding: chunked, gzip"),
        ("chunked_twice", "Transfer-Encoding: chunked, chunked"),
        ("chunked_in_two_fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("chunked_and_identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        ("identity_and_chunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
        ("identity", "Transfer-Encoding: identity"),
        ("nothing", "Transfer-Encoding:"),
        ("a_comma", "Transfer-Encoding: ,"),
        ("a_prefix", "Transfer-Encoding: xchunked"),
        ("a_suffix", "Transfer-Encoding: chunkedx"),
        ("a_misspelling", "Transfer-Encoding: chunke"),
        ("a_parameter", "Transfer-Encoding: chunked;q=1"),
        ("in_quotes", "Transfer-Encoding: \"chunked\""),
        ("a_leading_comma", "Transfer-Encoding: ,chunked"),
        ("a_trailing_comma", "Transfer-Encoding: chunked,"),
        ("a_vertical_tab", "Transfer-Encoding: \x0bchunked"),
        ("a_form_feed", "Transfer-Encoding: chunked\x0c"),
        ("a_no_break_space", "Transfer-Encoding: chunked\u{a0}"),
        ("a_space_before_the_colon", "Transfer-Encoding : chunked"),
        ("a_tab_before_the_colon", "Transfer-Encoding\t: chunked"),
        ("a_space_before_the_name", " Transfer-Encoding: chunked"),
        ("a_folded_value", "Transfer-Encoding:\r\n chunked"),
        ("folded_behind_another_field", "X-A: b\r\n Transfer-Encoding: chunked"),
        ("a_bare_lf_before_it", "X-A: b\nTransfer-Encoding: chunked"),
        ("a_bare_cr_before_it", "X-A: b\rTransfer-Encoding: chunked"),
        ("a_bare_cr_in_it", "Transfer-Encoding: chun\rked"),
        ("a_nul_in_it", "Transfer-Encoding: chunked\0"),
        ("a_nul_in_its_name", "Transfer-Encoding\0: chunked"),
    ];
    cases.extend(bad.map(|(name, fields)| refused(name, fields, REST)));
    cases.extend(good());
    cases
}

fn good() -> Vec<Case> {
    let good = [
        ("in_lower_case", "transfer-encoding: chunked"),
        ("in_upper_case", "TRANSFER-ENCODING: CHUNKED"),
        ("without_space", "Transfer-Encoding:chunked"),
        ("with_a_tab", "Transfer-Encoding:\tchunked\t"),
        ("named_by_connection", "Connection: transfer-encoding\r\nTransfer-Encoding: chunked"),
    ];
    good.map(|(name, fields)| {
        case(&format!("chunked_{name}"))
            .send(post_with(fields, REST))
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("abc"))
    })
    .into()
}
