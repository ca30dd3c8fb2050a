//! The request line: method, target, version (RFC 9112 section 3).
//!
//! A path is passed on in one form only: what was matched is what the application sees. Which form is not
//! demanded here beyond this: dot segments are gone, an encoded slash stays encoded.

use hearth_tests::conformance::application::Request;
use hearth_tests::conformance::case::{Case, case, ok, one_of, saw};

use super::get;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = lines();
    cases.extend(forms());
    cases.extend(paths());
    cases.extend(methods());
    cases
}

fn line(line: &str) -> String {
    format!("{line}\r\nHost: svc\r\n\r\n")
}

fn lines() -> Vec<Case> {
    let bad: [(&str, &str); 26] = [
        ("two_spaces_before_the_target", "GET  /x HTTP/1.1"),
        ("two_spaces_before_the_version", "GET /x  HTTP/1.1"),
        ("a_tab_before_the_target", "GET\t/x HTTP/1.1"),
        ("a_tab_before_the_version", "GET /x\tHTTP/1.1"),
        ("a_space_before_the_method", " GET /x HTTP/1.1"),
        ("a_space_after_the_version", "GET /x HTTP/1.1 "),
        ("a_space_in_the_target", "GET /x y HTTP/1.1"),
        ("no_version", "GET /x"),
        ("no_target", "GET HTTP/1.1"),
        ("an_empty_target", "GET  HTTP/1.1"),
        ("nothing_but_a_method", "GET"),
        ("a_version_in_lower_case", "GET /x http/1.1"),
        ("a_version_of_another_protocol", "GET /x ICY/1.1"),
        ("a_version_with_a_suffix", "GET /x HTTP/1.1x"),
        ("a_version_without_minor", "GET /x HTTP/1"),
        ("a_version_with_two_digits", "GET /x HTTP/1.10"),
        ("a_method_that_is_no_token", "G@T /x HTTP/1.1"),
        ("a_method_with_a_colon", "GET: /x HTTP/1.1"),
        ("a_method_with_a_nul", "GE\0T /x HTTP/1.1"),
        ("a_fragment", "GET /x#y HTTP/1.1"),
        ("a_nul_in_the_target", "GET /x\0y HTTP/1.1"),
        ("a_control_in_the_target", "GET /x\x01y HTTP/1.1"),
        ("a_delete_in_the_target", "GET /x\x7fy HTTP/1.1"),
        ("a_target_without_slash", "GET x HTTP/1.1"),
        ("a_query_without_path", "GET ?x HTTP/1.1"),
        ("a_target_that_is_a_dot", "GET . HTTP/1.1"),
    ];
    let mut cases: Vec<Case> = bad
        .map(|(name, text)| case(&format!("refuses_{name}")).send(line(text)).refused(&[400, 505]))
        .into();
    let versions = [
        ("refuses_http_2_0", "GET /x HTTP/2.0"),
        ("refuses_http_3_0", "GET /x HTTP/3.0"),
        ("refuses_http_0_9", "GET /x HTTP/0.9"),
    ];
    cases.extend(versions.map(|(name, text)| case(name).send(line(text)).refused(&[400, 505])));
    cases
}

fn methods() -> Vec<Case> {
    let passed = |name: &str, method: &'static str| {
        case(name)
            .send(line(&format!("{method} /x HTTP/1.1")))
            .want(ok("ok").to(method))
            .saw(saw(method, "/x"))
    };
    vec![
        passed("an_extension_method", "PROPFIND"),
        passed("a_method_with_a_hyphen", "M-SEARCH"),
        passed("a_method_in_lower_case_is_another_one", "get"),
        passed("a_method_of_odd_characters", "!#$%&'*+-.^_`|~"),
        passed("put_without_content", "PUT"),
        case("connect_to_elsewhere_is_refused")
            .send("CONNECT example.org:80 HTTP/1.1\r\nHost: example.org:80\r\n\r\n")
            .want(one_of(&[400, 403, 404, 405, 501, 502, 503]))
            .either()
            .saw_nothing(),
        case("connect_with_a_path_is_refused")
            .send("CONNECT /x HTTP/1.1\r\nHost: svc\r\n\r\n")
            .want(one_of(&[400, 405, 501]))
            .either()
            .saw_nothing(),
        case("connect_with_content_smuggles_nothing")
            .send(
                "CONNECT example.org:80 HTTP/1.1\r\nHost: example.org:80\r\n\
                 Content-Length: 37\r\n\r\n"
                    .to_owned()
                    + &get("/smuggled"),
            )
            .want(one_of(&[400, 403, 404, 405, 501, 502, 503]))
            .either()
            .saw_nothing(),
        case("options_with_max_forwards_zero_goes_no_further")
            .send("OPTIONS /x HTTP/1.1\r\nHost: svc\r\nMax-Forwards: 0\r\n\r\n")
            .want(one_of(&[200, 204]).to("OPTIONS"))
            .saw_nothing(),
        case("trace_with_max_forwards_zero_goes_no_further")
            .send("TRACE /x HTTP/1.1\r\nHost: svc\r\nMax-Forwards: 0\r\n\r\n")
            .want(one_of(&[200, 405, 501]).to("TRACE"))
            .either()
            .saw_nothing(),
        case("options_with_max_forwards_counts_down")
            .send("OPTIONS /x HTTP/1.1\r\nHost: svc\r\nMax-Forwards: 9\r\n\r\n")
            .want(ok("ok").to("OPTIONS"))
            .saw(saw("OPTIONS", "/x").that("max-forwards 8 or 7", |r| {
                matches!(r.head.get("max-forwards").as_deref(), Some("8" | "7"))
            })),
        case("max_forwards_means_nothing_to_a_get")
            .send("GET /x HTTP/1.1\r\nHost: svc\r\nMax-Forwards: 0\r\n\r\n")
            .want(ok("ok"))
            .saw(saw("GET", "/x")),
    ]
}

fn forms() -> Vec<Case> {
    let absolute = |name: &str, target: &str, host: &str| {
        case(name).send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    };
    vec![
        absolute("absolute_form_becomes_origin_form", "http://svc.mesh/x?y=z", "svc.mesh")
            .want(ok("ok"))
            .saw(saw("GET", "/x?y=z").with("host", "svc.mesh")),
        absolute("absolute_form_with_port", "http://svc.mesh:8080/x", "svc.mesh:8080")
            .want(ok("ok"))
            .saw(saw("GET", "/x").with("host", "svc.mesh:8080")),
        absolute("absolute_form_without_path", "http://svc.mesh", "svc.mesh")
            .want(ok("ok"))
            .saw(saw("GET", "/")),
        absolute("absolute_form_with_only_a_query", "http://svc.mesh?y", "svc.mesh")
            .want(ok("ok"))
            .saw(saw("GET", "/?y")),
        absolute("absolute_form_scheme_in_upper_case", "HTTP://svc.mesh/x", "svc.mesh")
            .want(ok("ok"))
            .saw(saw("GET", "/x")),
        absolute("absolute_form_wins_over_another_host", "http://svc.mesh/x", "evil.mesh")
            .want(one_of(&[200, 400]))
            .either()
            .saw_that("no other host than the target's", |requests| {
                requests.iter().all(|r| r.head.all("host") == ["svc.mesh"])
            }),
        absolute(
            "refuses_absolute_form_with_user_information",
            "http://user:pw@svc.mesh/x",
            "svc.mesh",
        )
        .refused(&[400]),
        absolute("refuses_absolute_form_of_another_scheme", "ftp://svc.mesh/x", "svc.mesh")
            .refused(&[400, 404, 501, 502]),
        absolute("refuses_absolute_form_without_authority", "http:///x", "svc.mesh")
            .refused(&[400]),
        case("options_asterisk")
            .send("OPTIONS * HTTP/1.1\r\nHost: svc\r\n\r\n")
            .want(ok("ok").to("OPTIONS"))
            .saw(saw("OPTIONS", "*")),
        case("options_of_an_authority_becomes_asterisk")
            .send("OPTIONS http://svc.mesh HTTP/1.1\r\nHost: svc.mesh\r\n\r\n")
            .want(ok("ok").to("OPTIONS"))
            .saw(saw("OPTIONS", "*")),
        case("refuses_asterisk_for_a_get")
            .send("GET * HTTP/1.1\r\nHost: svc\r\n\r\n")
            .refused(&[400]),
        case("refuses_asterisk_and_more")
            .send("OPTIONS *x HTTP/1.1\r\nHost: svc\r\n\r\n")
            .refused(&[400]),
        case("refuses_authority_form_for_a_get")
            .send("GET svc:80 HTTP/1.1\r\nHost: svc\r\n\r\n")
            .refused(&[400]),
    ]
}

fn paths() -> Vec<Case> {
    let passed = |name: &str, target: &str| {
        case(name).send(get(target)).want(ok("ok")).saw(saw("GET", target))
    };
    let one = |name: &str, target: &str, allowed: &'static [&'static str]| {
        let what = format!("one of {allowed:?}, or nothing");
        case(name)
            .send(get(target))
            .want(one_of(&[200, 400]))
            .either()
            .saw_that(&what, move |requests| {
                requests.iter().all(|r: &Request| allowed.contains(&r.target()))
            })
    };
    vec![
        passed("a_query_is_not_touched", "/x?a=../b&c=%2e%2E//d&e=%zz"),
        passed("an_empty_query_stays", "/x?"),
        passed("a_question_mark_in_a_query", "/x?a?b"),
        passed("each_character_a_path_may_have", "/x-._~!$&'()*+,;=:@/y"),
        passed("encoded_characters_stay", "/a%20b%C3%BC"),
        passed("a_trailing_slash_stays", "/a/b/"),
        passed("dots_within_a_name_stay", "/a..b/...c/.d"),
        one("a_dot_segment_is_gone", "/a/./b", &["/a/b"]),
        one("two_dots_are_gone", "/a/../b", &["/b"]),
        one("two_dots_at_the_end_are_gone", "/a/b/..", &["/a/", "/a"]),
        one("dots_do_not_climb_above_the_root", "/../../x", &["/x"]),
        one("encoded_dots_are_dots", "/a/%2e%2e/b", &["/b"]),
        one("half_encoded_dots_are_dots", "/a/.%2E/b", &["/b"]),
        one("an_encoded_dot_is_a_dot", "/a/%2e/b", &["/a/b"]),
        one("an_encoded_slash_is_no_slash", "/a%2fb", &["/a%2fb", "/a%2Fb"]),
        one("dots_and_an_encoded_slash_climb_nowhere", "/a/..%2fb", &["/a/..%2fb", "/a/..%2Fb"]),
        one("an_encoded_backslash_climbs_nowhere", "/a/..%5cb", &["/a/..%5cb", "/a/..%5Cb"]),
        one("an_encoded_nul_is_not_decoded", "/a%00b", &["/a%00b"]),
        one("a_twice_encoded_dot_is_no_dot", "/a/%252e%252e/b", &["/a/%252e%252e/b"]),
        one("bytes_beyond_ascii_are_encoded", "/\u{fc}", &["/%C3%BC"]),
        one("an_encoded_letter_is_that_letter", "/%61", &["/a", "/%61"]),
        one("double_slashes", "/a//b", &["/a//b", "/a/b"]),
        one("a_double_slash_in_front_is_no_host", "//evil/b", &["//evil/b", "/evil/b"]),
        one("dots_between_double_slashes", "/a//../b", &["/a/b", "/b"]),
        case("refuses_a_broken_escape").send(get("/a%zz")).refused(&[400]),
        case("refuses_a_cut_escape").send(get("/a%2")).refused(&[400]),
        case("refuses_a_backslash").send(get("/a\\..\\b")).refused(&[400]),
    ]
}
