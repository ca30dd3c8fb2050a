//! Upgrade (RFC 9110 section 7.8): after 101 the connection is bytes both ways.

use hearth_tests::conformance::application::{Step, ok as answer};
use hearth_tests::conformance::case::{Case, Want, case, ok, one_of, saw, status};

const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
const ASK: &str = "GET /x HTTP/1.1\r\nHost: svc\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";

fn echo() -> Vec<Step> {
    vec![Step::Body, Step::Send(SWITCH.into()), Step::Echo]
}

fn switched(body: &str) -> Want {
    status(101)
        .with("upgrade", "echo")
        .body(body)
        .that("Connection: upgrade", |a| a.head.lists("connection", "upgrade"))
}

pub(super) fn cases() -> Vec<Case> {
    let large = "0123456789abcdef".repeat(16 * 1024);
    vec![
        case("bytes_go_both_ways_after_101")
            .send(ASK)
            .await_answers(1)
            .send("hello")
            .await_tunnelled(5)
            .send("\r\n\0\u{ff}")
            .await_tunnelled(10)
            .half_close()
            .app_does(echo())
            .want(switched("hello\r\n\0\u{ff}"))
            .closed()
            .saw(
                saw("GET", "/x")
                    .with("upgrade", "echo")
                    .that("asked to upgrade", |r| r.head.lists("connection", "upgrade")),
            ),
        case("the_application_may_speak_first_after_101")
            .send(ASK)
            .await_tunnelled(7)
            .half_close()
            .app_does([Step::Body, Step::Send(format!("{SWITCH}welcome").into()), Step::Echo])
            .want(switched("welcome"))
            .closed(),
        case("bytes_sent_right_behind_the_request_are_not_lost")
            .send(ASK.to_owned() + "early")
            .await_tunnelled(5)
            .half_close()
            .app_does(echo())
            .want(switched("early"))
            .closed(),
        case("a_quarter_megabyte_goes_there_and_back")
            .send(ASK)
            .await_answers(1)
            .send(&large)
            .await_tunnelled(large.len())
            .half_close()
            .app_does(echo())
            .want(switched(&large))
            .closed(),
        case("a_half_closed_tunnel_still_carries_the_other_way")
            .send(ASK)
            .await_answers(1)
            .send("last words")
            .half_close()
            .app_does(echo())
            .want(switched("last words"))
            .closed(),
        case("what_looks_like_http_in_a_tunnel_is_bytes")
            .send(ASK)
            .await_answers(1)
            .send(super::get("/smuggled"))
            .await_tunnelled(super::get("/smuggled").len())
            .half_close()
            .app_does(echo())
            .want(switched(&super::get("/smuggled")))
            .closed()
            .saw(saw("GET", "/x")),
        case("the_application_ending_a_tunnel_ends_it_for_the_client")
            .send(ASK)
            .app_does([Step::Body, Step::Send(format!("{SWITCH}bye").into()), Step::Close])
            .want(switched("bye"))
            .closed(),
        case("a_refused_upgrade_is_an_answer_like_any_other")
            .send(ASK)
            .app(answer("no"))
            .want(ok("no")),
        case("a_websocket_handshake_passes_whole")
            .send(
                "GET /chat HTTP/1.1\r\nHost: svc\r\nConnection: keep-alive, Upgrade\r\n\
                     Upgrade: websocket\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Protocol: chat, superchat\r\n\r\n",
            )
            .app_does([
                Step::Body,
                Step::Send(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                         Connection: Upgrade\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                          Sec-WebSocket-Protocol: chat\r\n\r\n"
                        .into(),
                ),
                Step::Close,
            ])
            .want(
                status(101)
                    .with("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
                    .with("sec-websocket-protocol", "chat")
                    .with("upgrade", "websocket"),
            )
            .closed()
            .saw(
                saw("GET", "/chat")
                    .with("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
                    .with("sec-websocket-version", "13")
                    .with("upgrade", "websocket"),
            ),
        case("upgrade_without_connection_is_of_one_hop_and_goes_no_further")
            .send("GET /x HTTP/1.1\r\nHost: svc\r\nUpgrade: echo\r\n\r\n")
            .want(ok("ok"))
            .saw(saw("GET", "/x").without("upgrade")),
        case("http10_upgrades_to_nothing")
            .send("GET /x HTTP/1.0\r\nHost: svc\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            .want(ok("ok"))
            .closed()
            .saw(saw("GET", "/x").without("upgrade")),
        case("h2c_is_not_offered_to_the_application")
            .send(
                "GET /x HTTP/1.1\r\nHost: svc\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                     Upgrade: h2c\r\n\
                 HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
            )
            .want(ok("ok"))
            .saw(
                saw("GET", "/x")
                    .without("http2-settings")
                    .that("no h2c", |r| r.head.get("upgrade").is_none_or(|u| !u.contains("h2c"))),
            ),
        case("a_101_for_another_protocol_than_asked_is_502_or_passed_on")
            .send(ASK)
            .app_does([
                Step::Body,
                Step::Send(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                     Upgrade: other\r\n\r\n"
                        .into(),
                ),
                Step::Close,
            ])
            .want(one_of(&[101, 502]))
            .either(),
    ]
}
