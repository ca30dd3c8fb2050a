//! Field lines of a request (RFC 9112 section 5), their number and their size.

use hearth_tests::conformance::application::Request;
use hearth_tests::conformance::case::{Case, case, ok, one_of, saw};

use super::{get, get_with};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = good();
    let bad: [(&str, &str); 23] = [
        ("a_space_before_the_colon", "X-A : b"),
        ("a_tab_before_the_colon", "X-A\t: b"),
        ("a_folded_value", "X-A: b\r\n c"),
        ("a_value_folded_with_a_tab", "X-A: b\r\n\tc"),
        ("an_empty_folded_line", "X-A: b\r\n \r\nX-B: c"),
        ("a_bare_lf_between_fields", "X-A: b\nX-B: c"),
        ("a_bare_cr_in_a_value", "X-A: b\rc"),
        ("a_bare_cr_at_the_end_of_a_value", "X-A: b\r\r\nX-B: c"),
        ("a_nul_in_a_value", "X-A: b\0c"),
        ("a_bell_in_a_value", "X-A: b\x07c"),
        ("a_backspace_in_a_value", "X-A: b\x08c"),
        ("an_escape_in_a_value", "X-A: \x1b[2J"),
        ("a_delete_in_a_value", "X-A: b\x7fc"),
        ("a_name_in_brackets", "(X-A): b"),
        ("a_space_in_a_name", "X A: b"),
        ("an_at_sign_in_a_name", "X@A: b"),
        ("a_slash_in_a_name", "X/A: b"),
        ("a_nul_in_a_name", "X\0A: b"),
        ("a_quote_in_a_name", "X\"A: b"),
        ("a_name_beyond_ascii", "X-\u{e4}: b"),
        ("an_empty_name", ": b"),
        ("a_line_without_colon", "X-A"),
        ("a_request_line_among_the_fields", "GET /y HTTP/1.1"),
    ];
    cases.extend(bad.map(|(name, fields)| {
        case(&format!("refuses_{name}")).send(get_with(fields)).refused(&[400])
    }));
    cases.extend(line_ends());
    cases.extend(sizes());
    cases
}

fn line_ends() -> Vec<Case> {
    vec![
        case("refuses_a_space_before_the_first_field")
            .send("GET /x HTTP/1.1\r\n X-A: b\r\nHost: svc\r\n\r\n")
            .refused(&[400]),
        case("refuses_bare_lf_throughout").send("GET /x HTTP/1.1\nHost: svc\n\n").refused(&[400]),
        case("refuses_bare_lf_after_the_request_line")
            .send("GET /x HTTP/1.1\nHost: svc\r\n\r\n")
            .refused(&[400]),
        case("refuses_a_bare_lf_at_the_end_of_the_head")
            .send("GET /x HTTP/1.1\r\nHost: svc\r\n\n")
            .refused(&[400]),
        case("refuses_bare_cr_throughout")
            .send("GET /x HTTP/1.1\rHost: svc\r\r\n\r\n")
            .refused(&[400]),
    ]
}

fn good() -> Vec<Case> {
    let passed = |name: &str, line: &str, field: &'static str, value: &str| {
        case(name).send(get_with(line)).want(ok("ok")).saw(saw("GET", "/x").with(field, value))
    };
    let each = |request: &Request| request.head.all("x-a") == ["1", "2", "3"];
    vec![
        passed("an_empty_value", "X-A:", "x-a", ""),
        passed("no_space_after_the_colon", "X-A:b", "x-a", "b"),
        passed("much_space_around_a_value", "X-A: \t  b  \t", "x-a", "b"),
        passed("a_tab_in_a_value", "X-A: b\tc", "x-a", "b\tc"),
        passed(
            "quotes_and_commas_in_a_value",
            "X-A: \"b, c\", d;e=\"f\"",
            "x-a",
            "\"b, c\", d;e=\"f\"",
        ),
        passed("a_colon_in_a_value", "X-A: b: c", "x-a", "b: c"),
        passed("utf8_in_a_value", "X-A: \u{fc}ber", "x-a", "\u{fc}ber"),
        passed("each_character_of_a_name", "!#$%&'*+-.^_`|~: b", "!#$%&'*+-.^_`|~", "b"),
        case("latin1_in_a_value")
            .send(b"GET /x HTTP/1.1\r\nHost: svc\r\nX-A: caf\xe9\r\n\r\n")
            .want(ok("ok"))
            .saw(saw("GET", "/x").that("the byte e9", |r| {
                r.head.fields.iter().any(|(n, v)| n == "x-a" && v == b"caf\xe9")
            })),
        case("a_field_thrice_keeps_its_order")
            .send(get_with("X-A: 1\r\nX-B: x\r\nX-A: 2\r\nX-A: 3"))
            .want(ok("ok"))
            .saw(saw("GET", "/x").that("1, 2, 3, each a field or a member", move |r| {
                each(r) || r.head.get("x-a").is_some_and(|v| v.replace(' ', "") == "1,2,3")
            })),
        case("cookies_and_authorization_are_passed_on")
            .send(get_with("Cookie: a=b; c=d\r\nAuthorization: Bearer x.y"))
            .want(ok("ok"))
            .saw(saw("GET", "/x").with("cookie", "a=b; c=d").with("authorization", "Bearer x.y")),
        case("a_head_byte_by_byte")
            .send_by(1, get_with("X-A: b"))
            .want(ok("ok"))
            .saw(saw("GET", "/x").with("x-a", "b")),
    ]
}

fn sizes() -> Vec<Case> {
    let many = |n: usize| (0..n).map(|i| format!("X-{i}: {i}")).collect::<Vec<_>>().join("\r\n");
    let long = |n: usize| format!("X-A: {}", "a".repeat(n));
    let too_large = |name: &str, bytes: String| {
        case(name).send(bytes).want(one_of(&[400, 414, 431, 501])).closed().saw_nothing()
    };
    vec![
        case("eighty_fields")
            .send(get_with(&many(80)))
            .want(ok("ok"))
            .saw(saw("GET", "/x").with("x-0", "0").with("x-79", "79")),
        case("a_field_of_32_kib")
            .send(get_with(&long(32 * 1024)))
            .want(ok("ok"))
            .saw(saw("GET", "/x").with("x-a", &"a".repeat(32 * 1024))),
        case("a_target_of_8_kib")
            .send(get(&format!("/{}", "a".repeat(8 * 1024))))
            .want(ok("ok"))
            .saw(saw("GET", &format!("/{}", "a".repeat(8 * 1024)))),
        case("431_for_a_field_of_256_kib")
            .send(get_with(&long(256 * 1024)))
            .want(one_of(&[431]))
            .closed()
            .saw_nothing(),
        case("431_for_fields_of_512_kib")
            .send(get_with(
                &(0..64)
                    .map(|i| format!("X-{i}: {}", "a".repeat(8192)))
                    .collect::<Vec<_>>()
                    .join("\r\n"),
            ))
            .want(one_of(&[431]))
            .closed()
            .saw_nothing(),
        case("431_for_ten_thousand_fields")
            .send(get_with(&many(10_000)))
            .want(one_of(&[431]))
            .closed()
            .saw_nothing(),
        case("431_for_a_name_of_256_kib")
            .send(get_with(&format!("{}: b", "X".repeat(256 * 1024))))
            .want(one_of(&[431, 400]))
            .closed()
            .saw_nothing(),
        case("a_target_of_256_kib_is_too_long")
            .send(get(&format!("/{}", "a".repeat(256 * 1024))))
            .want(one_of(&[414, 431, 400]))
            .closed()
            .saw_nothing(),
        too_large(
            "a_method_of_256_kib_is_none",
            format!("{} / HTTP/1.1\r\nHost: svc\r\n\r\n", "A".repeat(256 * 1024)),
        ),
        too_large("empty_lines_without_end_are_none", "\r\n".repeat(512 * 1024)),
    ]
}
