//! The forms of targets and the canonical path, by example and by law.

use proptest::prelude::*;

use super::*;

fn canon(path: &str) -> String {
    canonical(path).unwrap().into_owned()
}

#[test]
fn dot_segments_are_removed_as_rfc_3986_has_them_however_they_are_spelt() {
    for (raw, expected) in [
        ("/a/b/c/./../../g", "/a/g"),
        ("/./a", "/a"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/..", "/"),
        ("/../../a", "/a"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a/%2e/b", "/a/b"),
        ("/a/.../b", "/a/.../b"),
        ("/a/.b", "/a/.b"),
        ("/a/..b/c", "/a/..b/c"),
        ("/a/../?x=/../y", "/?x=/../y"),
    ] {
        assert_eq!(canon(raw), expected, "{raw}");
    }
}

#[test]
fn empty_segments_stay_and_nothing_climbs_over_them() {
    for (raw, expected) in [
        ("//", "//"),
        ("//a", "//a"),
        ("/a//b", "/a//b"),
        ("/fetch/http://x/y", "/fetch/http://x/y"),
        ("/a//../b", "/a/b"),
        ("/public/..//admin", "//admin"),
    ] {
        assert_eq!(canon(raw), expected, "{raw}");
    }
}

#[test]
fn unreserved_characters_are_decoded_and_separators_never() {
    for (raw, expected) in [
        ("/%61%7e%5F", "/a~_"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%5cb", "/a%5Cb"),
        ("/%c3%a9", "/%C3%A9"),
        ("/é", "/%C3%A9"),
        ("/a%20b", "/a%20b"),
        ("/a%3fb", "/a%3Fb"),
        ("/a%25b", "/a%25b"),
        ("/a{b}|\"", "/a%7Bb%7D%7C%22"),
        ("/a?b%2fc={d}", "/a?b%2fc={d}"),
        ("/a?é", "/a?%C3%A9"),
        ("/a?b?c", "/a?b?c"),
    ] {
        assert_eq!(canon(raw), expected, "{raw}");
    }
}

#[test]
fn what_servers_read_differently_is_refused() {
    for raw in [
        "/a b", "/a\\b", "/a#b", "/a\0", "/a%00", "/a\x7f", "/%", "/%4", "/%zz", "/%+1", "/a?b#c",
        "/a?b c", "/a\tb", "a", "",
    ] {
        assert!(canonical(raw).is_err(), "{raw:?} was taken");
    }
}

#[test]
fn plain_paths_cost_no_copy() {
    for raw in ["/", "/a/b.c?d=e&f=%20", "/a:b@c;d=1,2"] {
        assert!(matches!(canonical(raw), Ok(Cow::Borrowed(_))), "{raw}");
    }
}

#[test]
fn each_form_of_a_target_is_for_its_methods() {
    let parse = |m, t| Target::parse(m, t).map(|t| (t.authority, t.path.into_owned()));
    assert_eq!(parse("GET", "/a/../b?c"), Ok((None, "/b?c".into())));
    assert_eq!(parse("GET", "http://x:80/a"), Ok((Some("x:80"), "/a".into())));
    assert_eq!(parse("GET", "HTTPS://x"), Ok((Some("x"), "/".into())));
    assert_eq!(parse("GET", "http://x?a"), Ok((Some("x"), "/?a".into())));
    assert_eq!(parse("OPTIONS", "http://x"), Ok((Some("x"), "*".into())));
    assert_eq!(parse("OPTIONS", "*"), Ok((None, "*".into())));
    assert_eq!(parse("GET", "*"), Err(BadTarget::Asterisk));
    assert_eq!(parse("CONNECT", "x:80"), Ok((Some("x:80"), String::new())));
    for (method, target, why) in [
        ("CONNECT", "x", BadTarget::Tunnel),
        ("CONNECT", "/a", BadTarget::Tunnel),
        ("CONNECT", "http://x/", BadTarget::Tunnel),
        ("GET", "x:80", BadTarget::Form),
        ("GET", "ftp://x/", BadTarget::Form),
        ("GET", "http:///a", BadTarget::Authority),
        ("GET", "http://a@b/", BadTarget::Authority),
        ("GET", "http://a b/", BadTarget::Authority),
        ("GET", "http://x#y", BadTarget::Form),
    ] {
        assert_eq!(parse(method, target), Err(why), "{method} {target}");
    }
}

#[test]
fn an_authority_is_a_host_and_perhaps_a_port() {
    for good in
        ["a", "a.b:80", "10.0.0.1", "[::1]", "[::1]:80", "a_b", "a:", "xn--e1afmkfd.x:65535"]
    {
        assert!(valid_authority(good), "{good}");
    }
    for bad in
        ["", ":80", "a:b", "a:65536", "a:80:80", "::1", "[::1", "[x]", "a b", "a/b", "a@b", "é"]
    {
        assert!(!valid_authority(bad), "{bad} was taken");
    }
}

proptest! {
    #[test]
    fn the_canonical_form_is_its_own_canonical_form(path in "/[-a-zA-Z0-9./%~{}2eEfF?&=]{0,40}") {
        if let Ok(once) = canonical(&path) {
            let twice = canonical(&once).map(Cow::into_owned);
            prop_assert_eq!(twice, Ok(once.into_owned()));
        }
    }

    #[test]
    fn no_dot_segment_is_left_and_no_character_that_a_url_cannot_have(path in "/\\PC{0,40}") {
        if let Ok(form) = canonical(&path) {
            prop_assert!(form.is_ascii() && form.starts_with('/'));
            let path = form.split('?').next().unwrap_or_default();
            prop_assert!(path.split('/').all(|s| s != "." && s != ".."), "{}", form);
            prop_assert!(form.parse::<http::uri::PathAndQuery>().is_ok(), "{}", form);
        }
    }

    #[test]
    fn any_bytes_are_taken_or_refused(method in "(GET|OPTIONS|CONNECT)", raw in "\\PC{0,60}") {
        let _ = Target::parse(&method, &raw);
    }
}
