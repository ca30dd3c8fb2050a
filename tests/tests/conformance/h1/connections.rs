//! How long a connection lasts and in which order it is answered (RFC 9112 section 9).

use std::time::Duration;

use hearth_tests::conformance::application::{Step, ok as answer};
use hearth_tests::conformance::case::{Case, case, ok, saw, status};

use super::{get, post_with};

const THREE: &str = "GET /a HTTP/1.1\r\nHost: svc\r\n\r\n\
                     POST /b HTTP/1.1\r\nHost: svc\r\nContent-Length: 5\r\n\r\nhello\
                     GET /c HTTP/1.1\r\nHost: svc\r\n\r\n";

const LOOKS_LIKE: &str = "GET /smuggled HTTP/1.1\r\nHost: svc\r\n\r\n";

fn three(name: &str) -> Case {
    case(name)
        .app_at("/a", [Step::Body, Step::Send(answer("answer a").into())])
        .app_at("/b", [Step::Body, Step::Send(answer("answer b").into())])
        .app_at("/c", [Step::Body, Step::Send(answer("answer c").into())])
        .want(ok("answer a"))
        .want(ok("answer b").to("POST"))
        .want(ok("answer c"))
        .saw_that("a, b with its content, c, once each", |requests| {
            let count = |target: &str, body: &[u8]| {
                requests.iter().filter(|r| r.target() == target && r.body == body).count()
            };
            requests.len() == 3 && count("/a", b"") == 1 && count("/b", b"hello") == 1
        })
}

/// The three requests cut in two at each place in turn.
fn cut_everywhere() -> Vec<Case> {
    let places = (1..THREE.len()).step_by(11);
    let cut = |at: usize| {
        three(&format!("pipelined_cut_at_{at:03}")).send(&THREE[..at]).send(&THREE[at..])
    };
    places.map(cut).collect()
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = lasting();
    cases.extend(closing());
    cases.extend(old());
    cases.extend(cut_everywhere());
    cases
}

fn lasting() -> Vec<Case> {
    vec![
        case("one_request")
            .send(get("/one"))
            .app(answer("one"))
            .want(ok("one"))
            .saw(saw("GET", "/one")),
        case("kept_alive_for_three")
            .send(get("/1"))
            .await_answers(1)
            .send(get("/2"))
            .await_answers(2)
            .send(get("/3"))
            .app(answer("first"))
            .app(answer("second"))
            .app(answer("third"))
            .want(ok("first"))
            .want(ok("second"))
            .want(ok("third"))
            .saw(saw("GET", "/1"))
            .saw(saw("GET", "/2"))
            .saw(saw("GET", "/3")),
        three("pipelined_in_one_write").send(THREE),
        three("pipelined_byte_by_byte").send_by(1, THREE),
        three("pipelined_in_sevens").send_by(7, THREE),
        case("pipelined_answers_keep_the_order_of_requests")
            .send(get("/slow") + &get("/fast"))
            .app_at(
                "/slow",
                [
                    Step::Body,
                    Step::Pause(Duration::from_millis(200)),
                    Step::Send(answer("slow").into()),
                ],
            )
            .app_at("/fast", [Step::Body, Step::Send(answer("fast").into())])
            .want(ok("slow"))
            .want(ok("fast")),
        case("a_body_that_looks_like_a_request_is_a_body")
            .send(post_with(&format!("Content-Length: {}", LOOKS_LIKE.len()), LOOKS_LIKE))
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body(LOOKS_LIKE)),
        case("one_empty_line_before_a_request_is_skipped")
            .send("\r\n".to_owned() + &get("/x"))
            .want(ok("ok"))
            .saw(saw("GET", "/x")),
        case("an_empty_line_between_requests_is_skipped")
            .send(get("/1") + "\r\n" + &get("/2"))
            .want(ok("ok"))
            .want(ok("ok"))
            .saw_that("two requests", |r| r.len() == 2),
        case("the_application_closing_its_connection_leaves_the_clients_open")
            .send(get("/x"))
            .app("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
            .want(ok("ok").that("not told to close", |a| !a.head.lists("connection", "close"))),
    ]
}

fn closing() -> Vec<Case> {
    let close = |fields: &str| format!("GET /x HTTP/1.1\r\nHost: svc\r\n{fields}\r\n\r\n");
    vec![
        case("close_is_answered_and_closed")
            .send(close("Connection: close"))
            .want(ok("ok").that("told to close", |a| a.head.lists("connection", "close")))
            .closed()
            .saw(saw("GET", "/x").that("close is not passed on as such", |r| {
                r.head.get("connection").is_none_or(|c| !c.contains("x-"))
            })),
        case("close_in_another_case_and_among_others")
            .send(close("Connection: x-a, Close"))
            .want(ok("ok"))
            .closed(),
        case("nothing_is_served_after_close")
            .send(close("Connection: close") + &get("/second"))
            .want(ok("ok"))
            .closed()
            .saw(saw("GET", "/x")),
        case("close_among_several_connection_fields")
            .send(close("Connection: keep-alive\r\nConnection: close"))
            .want(ok("ok"))
            .closed(),
        case("what_follows_a_body_of_known_length_is_no_part_of_it")
            .send(post_with("Content-Length: 3", "abcGARBAGE\r\n\r\n"))
            .want(ok("ok").to("POST"))
            .want(status(400))
            .closed()
            .saw(saw("POST", "/x").body("abc")),
        case("a_body_that_breaks_off_is_not_passed_on_as_whole")
            .send(post_with("Content-Length: 10", "abc"))
            .half_close()
            .closed_without_answer_or(400)
            .saw_nothing_whole(),
        case("a_long_body_that_breaks_off_is_not_passed_on_as_whole")
            .send(post_with("Content-Length: 200000", &"abc".repeat(30_000)))
            .half_close()
            // What of it is under way reaches the application in this case, not in the next.
            .pause(300)
            .closed_without_answer_or(400)
            .saw_nothing_whole(),
        case("a_head_that_breaks_off_reaches_nobody")
            .send("GET /x HTTP/1.1\r\nHost: svc\r\n")
            .half_close()
            .closed_without_answer_or(400)
            .saw_nothing(),
    ]
}

fn old() -> Vec<Case> {
    vec![
        case("http10_is_answered_and_closed")
            .send("GET /x HTTP/1.0\r\n\r\n")
            .app(answer("old"))
            .want(ok("old"))
            .closed()
            .saw(saw("GET", "/x").that("as HTTP/1.1", |r| r.head.line.ends_with("HTTP/1.1"))),
        case("http10_is_never_answered_in_chunks")
            .send("GET /x HTTP/1.0\r\nHost: svc\r\n\r\n")
            .app("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            .want(ok("abc").without("transfer-encoding"))
            .closed(),
        case("http10_kept_alive_is_told_so_or_closed")
            .send("GET /x HTTP/1.0\r\nHost: svc\r\nConnection: keep-alive\r\n\r\n")
            .want(ok("ok"))
            .either(),
        case("http10_kept_alive_and_answered_in_chunks_is_closed")
            .send("GET /x HTTP/1.0\r\nHost: svc\r\nConnection: keep-alive\r\n\r\n")
            .app("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            .want(ok("abc").without("transfer-encoding"))
            .either(),
        case("http10_with_a_body")
            .send("POST /x HTTP/1.0\r\nHost: svc\r\nContent-Length: 3\r\n\r\nabc")
            .want(ok("ok").to("POST"))
            .closed()
            .saw(saw("POST", "/x").body("abc")),
        case("http10_with_transfer_encoding_is_refused")
            .send(
                "POST /x HTTP/1.0\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\
                 abc\r\n0\r\n\r\n",
            )
            .refused(&[400]),
        case("http10_pipelined_after_no_keep_alive_is_not_served")
            .send("GET /1 HTTP/1.0\r\n\r\nGET /2 HTTP/1.0\r\n\r\n")
            .want(ok("ok"))
            .closed()
            .saw(saw("GET", "/1")),
        case("http10_gets_no_interim_answer")
            .send("GET /x HTTP/1.0\r\nHost: svc\r\n\r\n")
            .app(format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{}", answer("ok")))
            .want(ok("ok").that("no 1xx", |a| a.interim.is_empty()))
            .closed(),
        case("a_head_request_is_answered_without_content")
            .send("HEAD /x HTTP/1.1\r\nHost: svc\r\n\r\n")
            .app("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")
            .want(status(200).to("HEAD").with("content-length", "1234").body(""))
            .saw(saw("HEAD", "/x")),
        case("a_head_request_answered_as_chunked")
            .send("HEAD /x HTTP/1.1\r\nHost: svc\r\n\r\n")
            .app("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .want(status(200).to("HEAD").body("")),
        case("a_head_request_answered_without_length")
            .send("HEAD /x HTTP/1.1\r\nHost: svc\r\n\r\n")
            .app("HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n")
            .want(status(200).to("HEAD").with("x-a", "b").body("")),
        case("a_head_request_between_two_gets")
            .send(get("/1") + "HEAD /2 HTTP/1.1\r\nHost: svc\r\n\r\n" + &get("/3"))
            .app_at("/1", [Step::Body, Step::Send(answer("one").into())])
            .app_at(
                "/2",
                [
                    Step::Body,
                    Step::Send(
                        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\
                 \r\n"
                            .into(),
                    ),
                ],
            )
            .app_at("/3", [Step::Body, Step::Send(answer("three").into())])
            .want(ok("one"))
            .want(status(200).to("HEAD").with("content-length", "9"))
            .want(ok("three")),
    ]
}
