//! Interim answers (RFC 9110 section 15.2).

use hearth_tests::conformance::application::{Step, ok as answer};
use hearth_tests::conformance::case::{Case, case, ok, one_of, status};

use super::get;

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";

pub(super) fn cases() -> Vec<Case> {
    let with_link = |want: hearth_tests::conformance::case::Want| {
        want.that("a 103 with its Link", |a| {
            let link = |(s, head): &(u16, hearth_tests::conformance::wire::Head)| {
                *s == 103 && head.get("link").as_deref() == Some("</a.css>; rel=preload")
            };
            a.interim.iter().any(link)
        })
    };
    vec![
        case("early_hints_are_passed_on")
            .send(get("/x"))
            .app(HINTS.to_owned() + &answer("ok"))
            .want(with_link(ok("ok"))),
        case("early_hints_are_passed_on_at_once")
            .send(get("/x"))
            .await_interim(103)
            .app_does([
                Step::Body,
                Step::Send(HINTS.into()),
                Step::Pause(std::time::Duration::from_millis(300)),
                Step::Send(answer("ok").into()),
            ])
            .want(with_link(ok("ok"))),
        case("two_early_hints_are_passed_on")
            .send(get("/x"))
            .app(format!("{HINTS}{HINTS}{}", answer("ok")))
            .want(ok("ok").that("two 103", |a| a.interim.len() == 2)),
        case("processing_is_passed_on")
            .send(get("/x"))
            .app(format!("HTTP/1.1 102 Processing\r\n\r\n{}", answer("ok")))
            .want(ok("ok").after(102)),
        case("an_interim_answer_nobody_knows_does_no_harm")
            .send(get("/x"))
            .app(format!("HTTP/1.1 199 Odd\r\n\r\n{}", answer("ok")))
            .want(ok("ok")),
        case("a_100_nobody_asked_for_does_no_harm")
            .send(get("/x"))
            .app(format!("HTTP/1.1 100 Continue\r\n\r\n{}", answer("ok")))
            .want(ok("ok")),
        case("an_interim_answer_before_a_204")
            .send(get("/x"))
            .app(format!("{HINTS}HTTP/1.1 204 No Content\r\n\r\n"))
            .want(status(204).after(103)),
        case("a_hundred_thousand_of_them_end_in_an_answer_or_502")
            .send(get("/x"))
            .app_does([
                Step::Body,
                Step::Repeat(HINTS.into(), 100_000),
                Step::Send(answer("ok").into()),
            ])
            .want(one_of(&[200, 502])),
        case("an_interim_answer_and_then_nothing_is_502")
            .send(get("/x"))
            .app_at("/x", [Step::Body, Step::Send(HINTS.into()), Step::Close])
            .want(status(502).mentions("proxy-status", "error=")),
        // A POST: a GET may be asked again elsewhere.
        case("switching_protocols_nobody_asked_for_is_502")
            .send("POST /x HTTP/1.1\r\nHost: svc\r\nContent-Length: 0\r\n\r\n")
            .app_does([
                Step::Body,
                Step::Send(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
                        .into(),
                ),
                Step::UntilGone,
            ])
            .want(status(502).mentions("proxy-status", "error=")),
    ]
}
