//! Content-Length in a request (RFC 9110 section 8.6, RFC 9112 section 6).

use hearth_tests::conformance::case::{Case, case, ok, saw};

use super::post_with;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = good();
    let bad = [
        ("two_that_differ", "Content-Length: 3\r\nContent-Length: 4"),
        ("two_that_differ_reversed", "Content-Length: 4\r\nContent-Length: 3"),
        ("two_that_are_equal", "Content-Length: 3\r\nContent-Length: 3"),
        ("a_list_of_equals", "Content-Length: 3, 3"),
        ("a_list_of_different_ones", "Content-Length: 3, 4"),
        ("a_plus_sign", "Content-Length: +3"),
        ("a_minus_sign", "Content-Length: -3"),
        ("minus_zero", "Content-Length: -0"),
        ("hexadecimal", "Content-Length: 0x3"),
        ("an_underscore", "Content-Length: 3_0"),
        ("a_space_within", "Content-Length: 3 0"),
        ("nothing", "Content-Length:"),
        ("only_spaces", "Content-Length:   "),
        ("a_word", "Content-Length: three"),
        ("a_fraction", "Content-Length: 3.0"),
        ("an_exponent", "Content-Length: 3e0"),
        ("more_than_64_bits", "Content-Length: 18446744073709551619"),
        ("more_than_any_integer", "Content-Length: 999999999999999999999999999999"),
        ("a_trailing_comma", "Content-Length: 3,"),
        ("a_trailing_semicolon", "Content-Length: 3;"),
        ("in_quotes", "Content-Length: \"3\""),
        ("a_vertical_tab", "Content-Length: \x0b3"),
        ("a_wide_digit", "Content-Length: \u{ff13}"),
        ("one_good_one_empty", "Content-Length: 3\r\nContent-Length:"),
    ];
    cases.extend(bad.map(|(name, fields)| {
        case(&format!("refuses_{name}")).send(post_with(fields, "abc")).refused(&[400])
    }));
    cases
}

fn good() -> Vec<Case> {
    vec![
        case("zero")
            .send(post_with("Content-Length: 0", ""))
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("").with("content-length", "0")),
        case("with_space_around")
            .send(post_with("Content-Length: \t 3 \t", "abc"))
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("abc").with("content-length", "3")),
        case("without_space")
            .send(post_with("Content-Length:3", "abc"))
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("abc")),
        case("with_leading_zeros")
            .send(post_with("Content-Length: 003", "abc"))
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("abc")),
        case("a_post_without_any_has_no_content")
            .send("POST /x HTTP/1.1\r\nHost: svc\r\n\r\n")
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("")),
        case("a_get_may_have_content")
            .send("GET /x HTTP/1.1\r\nHost: svc\r\nContent-Length: 3\r\n\r\nabc")
            .want(ok("ok"))
            .saw(saw("GET", "/x").body("abc")),
        case("a_delete_may_have_content")
            .send("DELETE /x HTTP/1.1\r\nHost: svc\r\nContent-Length: 3\r\n\r\nabc")
            .want(ok("ok").to("DELETE"))
            .saw(saw("DELETE", "/x").body("abc")),
        case("a_body_of_64_kib_is_passed_on_with_its_length")
            .send(post_with("Content-Length: 65536", &"0123456789abcdef".repeat(4096)))
            .want(ok("ok").to("POST"))
            .saw(
                saw("POST", "/x")
                    .body("0123456789abcdef".repeat(4096))
                    .with("content-length", "65536"),
            ),
        case("a_body_of_300_kib_is_passed_on_with_its_length")
            .send(post_with("Content-Length: 307200", &"0123456789abcdef".repeat(19_200)))
            .want(ok("ok").to("POST"))
            .saw(
                saw("POST", "/x")
                    .body("0123456789abcdef".repeat(19_200))
                    .with("content-length", "307200"),
            ),
        case("a_body_byte_by_byte")
            .send(post_with("Content-Length: 10", ""))
            .send_by(1, "0123456789")
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("0123456789")),
        case("each_byte_value_in_a_body")
            .send(post_with("Content-Length: 256", ""))
            .send((0..=255).collect::<Vec<u8>>())
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body((0..=255).collect::<Vec<u8>>())),
    ]
}
