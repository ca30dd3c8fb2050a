//! What an application may answer, and what becomes of an answer that is none (RFC 9112 sections 4, 6.3, 8).

use std::time::Duration;

use hearth_tests::conformance::application::{Step, ok as answer};
use hearth_tests::conformance::case::{Case, Want, case, ok, one_of, saw, status};

use super::get;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = good();
    cases.extend(without_content());
    cases.extend(broken());
    cases.extend(cut_short());
    cases.extend(connections());
    cases.extend(stale());
    cases
}

/// A GET that is answered with these bytes each time it is asked.
fn answered(name: &str, bytes: &str) -> Case {
    case(name).send(get("/x")).app_at("/x", [Step::Body, Step::Send(bytes.into())])
}

/// The same, and the application ends the connection after it.
fn answered_and_closed(name: &str, bytes: &str) -> Case {
    case(name).send(get("/x")).app_at("/x", [Step::Body, Step::Send(bytes.into()), Step::Close])
}

/// 200 in chunks: these bytes behind the head.
fn chunked(rest: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{rest}")
}

/// So many field lines.
fn numbered(count: usize) -> String {
    (0..count).map(|i| format!("X-{i}: {i}")).collect::<Vec<_>>().join("\r\n")
}

/// 200 `ok` with these field lines before its length.
fn with(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: 2\r\n\r\nok")
}

fn good() -> Vec<Case> {
    let long = "x".repeat(300_000);
    let many = "1\r\na\r\n".repeat(5_000);
    vec![
        answered(
            "a_reason_may_be_missing",
            "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n\
             ok",
        )
        .want(ok("ok")),
        answered(
            "its_space_may_be_missing_too",
            "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n\
             ok",
        )
        .want(ok("ok")),
        answered(
            "a_reason_of_many_words",
            "HTTP/1.1 200 All Is Well\r\n\
             Content-Length: 2\r\n\r\nok",
        )
        .want(ok("ok")),
        answered(
            "an_unknown_status",
            "HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\n\
             ok",
        )
        .want(status(299).body("ok")),
        answered(
            "a_status_of_no_class",
            "HTTP/1.1 799 Odd\r\nContent-Length: 2\r\n\r\n\
             ok",
        )
        .want(one_of(&[799, 502])),
        answered("of_length_zero", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").want(ok("")),
        answered(
            "of_http10_with_length",
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n\
             ok",
        )
        .want(ok("ok")),
        answered("of_300_kb", &answer(&long)).want(ok(&long)),
        answered("in_chunks", &chunked("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")).want(ok("abcde")),
        answered("in_no_chunks", &chunked("0\r\n\r\n")).want(ok("")),
        answered("in_chunks_with_extensions", &chunked("3;a=\"b\"\r\nabc\r\n0;c\r\n\r\n"))
            .want(ok("abc")),
        answered("in_five_thousand_chunks", &chunked(&format!("{many}0\r\n\r\n")))
            .want(ok(&"a".repeat(5_000))),
        answered(
            "in_chunks_named_in_capitals",
            "HTTP/1.1 200 OK\r\n\
             Transfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        )
        .want(ok("abc")),
        case("with_trailers_for_who_asked_for_them")
            .send("GET /x HTTP/1.1\r\nHost: svc\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
            .app(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                 3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
            )
            .want(ok("abc").that("trailer x-sum: 1", |a| {
                a.trailers.iter().any(|(n, v)| n == "x-sum" && v == b"1")
            })),
        answered("with_trailers_for_who_did_not", &chunked("3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"))
            .want(ok("abc").without("x-sum")),
        answered_and_closed(
            "until_the_connection_ends",
            "HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n\
             abc",
        )
        .want(ok("abc"))
        .either(),
        answered_and_closed(
            "until_the_connection_ends_without_a_byte",
            "HTTP/1.1 200 OK\r\n\
             X-A: b\r\n\r\n",
        )
        .want(ok(""))
        .either(),
        answered_and_closed(
            "of_http10_until_the_connection_ends",
            "HTTP/1.0 200 OK\r\n\r\n\
             abc",
        )
        .want(ok("abc"))
        .either(),
        case("in_pieces")
            .send(get("/x"))
            .app_does([
                Step::Body,
                Step::Send("HTTP/1.".into()),
                Step::Pause(Duration::from_millis(20)),
                Step::Send("1 200 OK\r\nContent-Len".into()),
                Step::Pause(Duration::from_millis(20)),
                Step::Send("gth: 4\r\n\r".into()),
                Step::Pause(Duration::from_millis(20)),
                Step::Send("\nab".into()),
                Step::Pause(Duration::from_millis(20)),
                Step::Send("cd".into()),
            ])
            .want(ok("abcd")),
        answered("with_a_field_of_32_kib", &with(&format!("X-A: {}", "a".repeat(32 * 1024))))
            .want(ok("ok").with("x-a", &"a".repeat(32 * 1024))),
        answered("with_eighty_fields", &with(&numbered(80))).want(ok("ok").with("x-79", "79")),
        case("before_the_request_is_all_there")
            .send(
                "POST /x HTTP/1.1\r\nHost: svc\r\nContent-Length: 400000\r\n\
                 \r\n"
                    .to_owned()
                    + &"x".repeat(200_000),
            )
            .app_does([
                Step::Send(
                    "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\
                     Content-Length: 3\r\n\r\nbig"
                        .into(),
                ),
                Step::UntilGone,
            ])
            .want(status(413).to("POST").body("big"))
            .either()
            .saw_nothing_whole(),
    ]
}

fn without_content() -> Vec<Case> {
    let then_another = |name: &str, bytes: &str, want: Want| {
        case(name)
            .send(get("/x"))
            .await_answers(1)
            .send(get("/y"))
            .app_at("/x", [Step::Body, Step::Send(bytes.into())])
            .app_at("/y", [Step::Body, Step::Send(answer("another").into())])
            .want(want)
            .want(ok("another"))
    };
    vec![
        then_another("204", "HTTP/1.1 204 No Content\r\n\r\n", status(204).body("")),
        then_another(
            "204_has_no_length",
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            status(204).without("content-length").without("transfer-encoding"),
        ),
        then_another(
            "204_with_a_length_of_5_has_no_content",
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            status(204).without("content-length"),
        ),
        then_another(
            "204_in_chunks_has_no_content",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
            status(204).without("transfer-encoding"),
        ),
        then_another(
            "204_with_content_smuggles_nothing",
            "HTTP/1.1 204 No Content\r\nContent-Length: 46\r\n\r\nHTTP/1.1 200 OK\r\n\
                 Content-Length: 8\r\n\r\nsmuggled",
            status(204),
        ),
        then_another(
            "304",
            "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n",
            status(304).with("etag", "\"a\""),
        ),
        then_another(
            "304_with_a_length_has_no_content",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\n\r\n",
            status(304).that("no other length", |a| {
                a.head.get("content-length").is_none_or(|l| l == "1234")
            }),
        ),
        then_another(
            "304_in_chunks_has_no_content",
            "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
            status(304),
        ),
        then_another(
            "205_has_no_content",
            "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
            status(205).body(""),
        ),
    ]
}

fn broken() -> Vec<Case> {
    let endless = format!("HTTP/1.1 200 OK\r\nX-A: {}", "a".repeat(8 << 20));
    let huge =
        format!("HTTP/1.1 200 OK\r\nX-A: {}\r\nContent-Length: 2\r\n\r\nok", "a".repeat(1 << 20));
    let many = format!(
        "HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok",
        (0..10_000).map(|i| format!("X-{i}: {i}\r\n")).collect::<String>()
    );
    let bad = [
        ("what_is_no_http", "hello\r\n\r\n"),
        ("ssh", "SSH-2.0-OpenSSH_9.2\r\n"),
        ("a_status_line_without_code", "HTTP/1.1\r\nContent-Length: 2\r\n\r\nok"),
        ("a_code_of_four_digits", "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("a_code_of_two_digits", "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("a_code_of_letters", "HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok"),
        ("a_code_below_100", "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("another_version", "HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("another_protocol", "ICY 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        (
            "two_lengths_that_differ",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        ),
        ("a_list_of_lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nokk"),
        ("a_negative_length", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"),
        ("a_length_with_a_plus", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
        ("a_length_that_is_no_number", "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok"),
        (
            "a_length_beyond_64_bits",
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nok",
        ),
        (
            "length_and_chunked",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\
                 ok\r\n0\r\n\r\n",
        ),
        ("gzip_as_transfer_encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok"),
        (
            "chunked_then_gzip",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        ("a_nul_in_a_value", "HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 2\r\n\r\nok"),
        ("a_bare_cr_in_a_value", "HTTP/1.1 200 OK\r\nX-A: b\rc\r\nContent-Length: 2\r\n\r\nok"),
        ("a_name_that_is_none", "HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 2\r\n\r\nok"),
        ("a_line_without_colon", "HTTP/1.1 200 OK\r\nX-A\r\nContent-Length: 2\r\n\r\nok"),
        ("a_field_of_a_megabyte", huge.as_str()),
        ("ten_thousand_fields", many.as_str()),
        ("a_head_without_end", endless.as_str()),
        ("a_head_cut_short", "HTTP/1.1 200 OK\r\nContent-Len"),
        ("nothing", ""),
    ];
    let mut cases: Vec<Case> = bad
        .map(|(name, bytes)| {
            answered_and_closed(&format!("502_for_{name}"), bytes)
                .want(status(502).mentions("proxy-status", "error="))
        })
        .into();
    let or_mended = |name: &str, bytes: &str, field: &'static str| {
        answered(name, bytes).want(one_of(&[200, 502]).that("mended or refused", move |a| {
            a.status == 502 || a.head.get(field).is_some_and(|v| !v.contains(['\r', '\n']))
        }))
    };
    cases.extend([
        or_mended(
            "a_folded_value_is_mended_or_refused",
            "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
            "x-a",
        ),
        or_mended(
            "a_space_before_the_colon_is_mended_or_refused",
            "HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 2\r\n\r\nok",
            "x-a",
        ),
        or_mended(
            "bare_lf_is_mended_or_refused",
            "HTTP/1.1 200 OK\nX-A: b\nContent-Length: 2\n\nok",
            "x-a",
        ),
        or_mended(
            "two_equal_lengths_are_mended_or_refused",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            "content-length",
        ),
        case("a_post_whose_application_closes_is_502_and_sent_once")
            .send("POST /x HTTP/1.1\r\nHost: svc\r\nContent-Length: 3\r\n\r\nabc")
            .app_at("/x", [Step::Body, Step::Close])
            .want(status(502).to("POST").mentions("proxy-status", "error="))
            .saw(saw("POST", "/x").body("abc")),
        case("a_post_whose_application_resets_is_502_and_sent_once")
            .send("POST /x HTTP/1.1\r\nHost: svc\r\nContent-Length: 3\r\n\r\nabc")
            .app_at("/x", [Step::Body, Step::Reset])
            .want(status(502).to("POST").mentions("proxy-status", "error="))
            .saw(saw("POST", "/x").body("abc")),
    ]);
    cases
}

/// The application breaks off; a client must not take what came for all of it.
fn cut_short() -> Vec<Case> {
    let cut = |name: &str, bytes: &str| {
        answered_and_closed(&format!("seen_to_be_cut_short_{name}"), bytes)
            .want(status(200).cut_short())
            .either()
    };
    let reset = |name: &str, bytes: &str| {
        case(&format!("seen_to_be_cut_short_{name}"))
            .send(get("/x"))
            .app_at(
                "/x",
                [
                    Step::Body,
                    Step::Send(bytes.into()),
                    // Else the reset may overtake the bytes.
                    Step::Pause(Duration::from_millis(150)),
                    Step::Reset,
                ],
            )
            .want(status(200).cut_short())
            .either()
    };
    let large = format!("HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n{}", "x".repeat(300_000));
    vec![
        cut("with_a_length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        cut("with_a_length_and_no_content", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"),
        cut("with_a_large_length", &large),
        cut("in_a_chunk", &chunked("A\r\nabc")),
        cut("after_a_chunk", &chunked("3\r\nabc\r\n")),
        cut("in_the_last_chunk", &chunked("3\r\nabc\r\n0\r\n")),
        cut("by_a_broken_chunk_size", &chunked("3\r\nabc\r\n-1\r\nx")),
        cut("by_a_missing_line_end", &chunked("3\r\nabcd\r\n0\r\n\r\n")),
        cut("by_a_size_beyond_64_bits", &chunked("3\r\nabc\r\nFFFFFFFFFFFFFFFFF\r\nx")),
        reset("by_a_reset_with_a_length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        reset("by_a_reset_in_chunks", &chunked("3\r\nabc\r\n")),
        reset("by_a_reset_without_length", "HTTP/1.1 200 OK\r\nX-A: b\r\n\r\nabc"),
    ]
}

/// What one answer leaves on a connection to the application must never be part of the next.
fn connections() -> Vec<Case> {
    let poisoned = |name: &str, bytes: &str, want: Want| {
        case(name)
            .send(get("/x"))
            .await_answers(1)
            .send(get("/y"))
            .await_answers(2)
            .send(get("/z"))
            .app_at("/x", [Step::Body, Step::Send(bytes.into())])
            .app_at("/y", [Step::Body, Step::Send(answer("why").into())])
            .app_at("/z", [Step::Body, Step::Send(answer("zed").into())])
            .want(want)
            .want(ok("why"))
            .want(ok("zed"))
    };
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    vec![
        poisoned(
            "content_beyond_its_length_reaches_nobody",
            &format!("{}more", answer("ok")),
            ok("ok"),
        ),
        poisoned(
            "an_answer_nobody_asked_for_reaches_nobody",
            &format!("{}{poison}", answer("ok")),
            ok("ok"),
        ),
        poisoned(
            "an_answer_behind_a_204_reaches_nobody",
            &format!("HTTP/1.1 204 No Content\r\n\r\n{poison}"),
            status(204),
        ),
        poisoned(
            "an_answer_behind_the_last_chunk_reaches_nobody",
            &chunked(&format!("2\r\nok\r\n0\r\n\r\n{poison}")),
            ok("ok"),
        ),
    ]
}

/// The application closes its idle connections; a request that must not be repeated is never lost on one.
fn stale() -> Vec<Case> {
    let post = "POST /post HTTP/1.1\r\nHost: svc\r\nContent-Length: 3\r\n\r\nabc";
    // Closed in the same moment it may have been written on: then 502 tells that nobody knows.
    let then_post = |name: &str, pause: u64, allowed: &'static [u16]| {
        let mut case =
            case(name).app_at("/get", [Step::Body, Step::Send(answer("got").into()), Step::Close]);
        for n in 0..10 {
            case = case.send(get("/get")).await_answers(2 * n + 1).pause(pause).send(post);
            case = case.await_answers(2 * n + 2);
            case = case.want(ok("got")).want(one_of(allowed).to("POST"));
        }
        case.saw_that("no post twice, none missing that was answered", move |requests| {
            let posts = requests.iter().filter(|r| r.method() == "POST" && r.whole).count();
            posts == 10 || (posts < 10 && allowed.contains(&502))
        })
    };
    vec![
        then_post("a_post_is_not_lost_on_a_connection_closed_50_ms_ago", 50, &[200]),
        then_post("a_post_is_told_of_on_a_connection_closed_just_now", 0, &[200, 502]),
        case("a_post_is_not_lost_on_a_connection_of_posts_closed_50_ms_ago")
            .send(post)
            .await_answers(1)
            .pause(50)
            .send(post)
            .app_does([Step::Body, Step::Send(answer("one").into()), Step::Close])
            .app(answer("two"))
            .want(ok("one").to("POST"))
            .want(ok("two").to("POST"))
            .saw(saw("POST", "/post"))
            .saw(saw("POST", "/post")),
        case("connections_to_the_application_are_reused")
            .send(get("/1"))
            .await_answers(1)
            .send(get("/2"))
            .await_answers(2)
            .send(get("/3"))
            .want(ok("ok"))
            .want(ok("ok"))
            .want(ok("ok"))
            .saw_that("all on at most two connections", |requests| {
                let mut ids: Vec<u64> = requests.iter().map(|r| r.connection).collect();
                ids.sort_unstable();
                ids.dedup();
                requests.len() == 3 && ids.len() <= 2
            }),
        case("what_a_client_said_about_its_connection_does_not_close_the_applications")
            .send(get("/1"))
            .await_answers(1)
            .send("GET /2 HTTP/1.1\r\nHost: svc\r\nConnection: close\r\n\r\n")
            .want(ok("ok"))
            .want(ok("ok"))
            .closed()
            .saw_that("not told to close", |requests| {
                requests.iter().all(|r| !r.head.lists("connection", "close"))
            }),
    ]
}
