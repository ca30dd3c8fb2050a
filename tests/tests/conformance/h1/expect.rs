//! Expect: 100-continue (RFC 9110 section 10.1.1).

use hearth_tests::conformance::application::{Step, ok as answer};
use hearth_tests::conformance::case::{Case, case, ok, saw, status};

use super::post_with;

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

fn expecting(length: usize) -> String {
    post_with(&format!("Content-Length: {length}\r\nExpect: 100-continue"), "")
}

/// Invites the content, reads it, answers.
fn inviting() -> Vec<Step> {
    vec![Step::Send(CONTINUE.into()), Step::Body, Step::Send(answer("ok").into())]
}

pub(super) fn cases() -> Vec<Case> {
    let large = "x".repeat(300_000);
    vec![
        case("a_client_that_waits_is_invited")
            .send(expecting(3))
            .await_interim(100)
            .send("abc")
            .app_does(inviting())
            .want(ok("ok").to("POST").after(100))
            .saw(saw("POST", "/x").body("abc")),
        case("a_client_that_waits_with_a_large_body_is_invited")
            .send(expecting(large.len()))
            .await_interim(100)
            .send(&large)
            .app_does(inviting())
            .want(ok("ok").to("POST").after(100))
            .saw(saw("POST", "/x").body(&large)),
        case("a_client_that_waits_with_chunks_is_invited")
            .send(post_with("Transfer-Encoding: chunked\r\nExpect: 100-continue", ""))
            .await_interim(100)
            .send("3\r\nabc\r\n0\r\n\r\n")
            .app_does(inviting())
            .want(ok("ok").to("POST").after(100))
            .saw(saw("POST", "/x").body("abc")),
        case("a_client_that_does_not_wait_is_served")
            .send(expecting(3) + "abc")
            .app_does(inviting())
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("abc")),
        case("an_application_that_sends_no_100_is_served_by_a_client_that_does_not_wait")
            .send(expecting(3) + "abc")
            .app(answer("ok"))
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("abc")),
        case("in_another_case")
            .send(post_with("Content-Length: 3\r\nExpect: 100-Continue", ""))
            .await_interim(100)
            .send("abc")
            .app_does(inviting())
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("abc")),
        refusing("an_application_that_refuses_spares_the_client_the_body", expecting(3)),
        refusing("an_application_that_refuses_spares_the_client_a_large_body", expecting(300_000)),
        refusing(
            "an_application_that_refuses_spares_the_client_the_chunks",
            post_with("Transfer-Encoding: chunked\r\nExpect: 100-continue", ""),
        ),
        case("the_application_learns_of_it")
            .send(expecting(3))
            .await_interim(100)
            .send("abc")
            .app_does(inviting())
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").with("expect", "100-continue")),
        case("http10_is_not_invited")
            .send(
                "POST /x HTTP/1.0\r\nHost: svc\r\nContent-Length: 3\r\n\
                 Expect: 100-continue\r\n\r\nabc",
            )
            .app_does(inviting())
            .want(ok("ok").to("POST").that("no 1xx", |a| a.interim.is_empty()))
            .closed()
            .saw(saw("POST", "/x").body("abc")),
        case("another_expectation_fails")
            .send(post_with("Content-Length: 0\r\nExpect: 200-ok", ""))
            .want(status(417).to("POST"))
            .either()
            .saw_nothing(),
    ]
}

/// The application answers the head alone; the client waits for that and sends no content.
fn refusing(name: &str, head: String) -> Case {
    case(name)
        .send(head)
        .app_does([
            Step::Send(
                "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\
                 Content-Length: 3\r\n\r\nbig"
                    .into(),
            ),
            Step::Close,
        ])
        .want(status(413).to("POST").body("big").that("no 100 before it", |a| a.interim.is_empty()))
        .either()
        .saw_nothing_whole()
}
