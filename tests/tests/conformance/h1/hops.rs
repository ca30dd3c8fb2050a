//! What an intermediary takes out and puts in (RFC 9110 sections 7.6 and 6.6, RFC 7239, RFC 9209, W3C
//! Trace Context).

use hearth_tests::conformance::application::{Request, Step, ok as answer};
use hearth_tests::conformance::case::{Case, case, ok, saw, status};

use super::{get, get_with};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = taken_out();
    cases.extend(put_in());
    cases.extend(traced());
    cases.extend(answered());
    cases.extend(own_answers());
    cases
}

fn taken_out() -> Vec<Case> {
    let without = |name: &str, fields: &str, gone: &'static str| {
        case(name).send(get_with(fields)).want(ok("ok")).saw(saw("GET", "/x").without(gone))
    };
    vec![
        without(
            "fields_named_by_connection_go_no_further",
            "Connection: x-hop\r\n\
             X-Hop: 1",
            "x-hop",
        ),
        without("also_in_another_case", "Connection: X-HOP\r\nx-hop: 1", "x-hop"),
        without("also_before_connection", "X-Hop: 1\r\nConnection: x-hop", "x-hop"),
        without("also_in_a_list", "Connection: keep-alive, x-a ,x-hop\r\nX-Hop: 1", "x-hop"),
        without(
            "also_in_a_second_connection",
            "Connection: x-a\r\nConnection: x-hop\r\n\
             X-Hop: 1",
            "x-hop",
        ),
        without("keep_alive_goes_no_further", "Keep-Alive: timeout=5", "keep-alive"),
        without(
            "proxy_connection_goes_no_further",
            "Proxy-Connection: keep-alive",
            "proxy-connection",
        ),
        case("te_goes_no_further_but_for_trailers")
            .send(get_with("TE: gzip, trailers;q=0.5\r\nConnection: TE"))
            .want(ok("ok"))
            .saw(saw("GET", "/x").that("no TE but trailers", |r| {
                r.head.get("te").is_none_or(|te| te == "trailers")
            })),
        case("connection_cannot_take_out_host")
            .send(get_with("Connection: host"))
            .want(ok("ok"))
            .saw(saw("GET", "/x").with("host", "svc")),
        case("connection_cannot_take_out_the_length")
            .send(
                "POST /x HTTP/1.1\r\nHost: svc\r\nConnection: content-length\r\n\
                 Content-Length: 3\r\n\r\nabc",
            )
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("abc")),
        case("connection_cannot_take_out_whom_it_is_forwarded_for")
            .send(get_with(
                "Connection: x-forwarded-for, via, forwarded, x-request-id, traceparent",
            ))
            .want(ok("ok"))
            .saw(
                saw("GET", "/x")
                    .mentions("x-forwarded-for", "127.0.0.1")
                    .mentions("via", "caller")
                    .that("an id", |r| r.head.get("x-request-id").is_some()),
            ),
        case("connection_that_is_no_list_does_no_harm")
            .send(get_with("Connection: ,,;=, x\r\nX: 1"))
            .want(ok("ok"))
            .saw(saw("GET", "/x")),
        case("other_fields_stay")
            .send(get_with("Connection: x-hop\r\nX-Stays: 1\r\nAccept: */*\r\nUser-Agent: t"))
            .want(ok("ok"))
            .saw(
                saw("GET", "/x").with("x-stays", "1").with("accept", "*/*").with("user-agent", "t"),
            ),
    ]
}

fn put_in() -> Vec<Case> {
    let vias = |n: usize| vec!["1.1 somebody"; n].join(", ");
    vec![
        case("via_names_the_agents")
            .send(get("/x"))
            .want(ok("ok").mentions("via", "1.1 caller"))
            .saw(saw("GET", "/x").mentions("via", "1.1 caller")),
        case("via_is_added_to").send(get_with("Via: 1.0 edge")).want(ok("ok")).saw(
            saw("GET", "/x").that("edge first, then ours", |r| {
                r.head.get("via").is_some_and(|v| v.starts_with("1.0 edge, 1.1 caller"))
            }),
        ),
        case("via_says_how_the_client_spoke")
            .send("GET /x HTTP/1.0\r\nHost: svc\r\n\r\n")
            .want(ok("ok"))
            .closed()
            .saw(saw("GET", "/x").mentions("via", "1.0 caller")),
        case("a_circle_is_508")
            .send(get_with(&format!("Via: {}", vias(64))))
            .want(status(508).mentions("proxy-status", "proxy_loop_detected"))
            .either()
            .saw_nothing(),
        case("a_circle_in_many_fields_is_508")
            .send(get_with(&vec!["Via: 1.1 somebody"; 64].join("\r\n")))
            .want(status(508).mentions("proxy-status", "proxy_loop_detected"))
            .either()
            .saw_nothing(),
        case("a_few_hops_are_no_circle")
            .send(get_with(&format!("Via: {}", vias(5))))
            .want(ok("ok"))
            .saw(saw("GET", "/x")),
        case("forwarded_for_names_the_client").send(get("/x")).want(ok("ok")).saw(
            saw("GET", "/x").with("x-forwarded-for", "127.0.0.1").with("x-forwarded-proto", "http"),
        ),
        case("forwarded_for_is_added_to")
            .send(get_with("X-Forwarded-For: 192.0.2.1"))
            .want(ok("ok"))
            .saw(saw("GET", "/x").with("x-forwarded-for", "192.0.2.1, 127.0.0.1")),
        case("forwarded_for_in_two_fields_is_added_to")
            .send(get_with("X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2"))
            .want(ok("ok"))
            .saw(saw("GET", "/x").with("x-forwarded-for", "192.0.2.1, 192.0.2.2, 127.0.0.1")),
        case("forwarded_is_added_to")
            .send(get_with("Forwarded: for=192.0.2.1"))
            .want(ok("ok"))
            .saw(saw("GET", "/x").that("192.0.2.1, then the client", |r| {
                r.head.get("forwarded").is_some_and(|v| {
                    v.starts_with("for=192.0.2.1, ") && v.contains("for=127.0.0.1")
                })
            })),
    ]
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, ids not all zero.
fn valid(traceparent: &str) -> bool {
    let parts: Vec<&str> = traceparent.split('-').collect();
    let hex = |text: &str, length| {
        text.len() == length
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |text: &str| text.bytes().all(|b| b == b'0');
    matches!(&parts[..], [version, trace, span, flags]
        if *version == "00" && hex(trace, 32) && hex(span, 16) && hex(flags, 2)
            && !zero(trace) && !zero(span))
}

fn traced() -> Vec<Case> {
    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let made = |name: &str, fields: &str| {
        case(name).send(get_with(fields)).want(ok("ok")).saw(
            saw("GET", "/x").that("a valid traceparent", |r: &Request| {
                r.head.get("traceparent").is_some_and(|t| valid(&t))
            }),
        )
    };
    vec![
        made("traceparent_is_made", "X-A: b"),
        made("traceparent_that_is_none_is_made_anew", "traceparent: garbage"),
        made(
            "traceparent_of_zeros_is_made_anew",
            "traceparent: 00-00000000000000000000000000000000-0000000000000000-01",
        ),
        made(
            "traceparent_in_upper_case_is_made_anew",
            "traceparent: 00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
        ),
        made(
            "two_traceparents_become_one",
            &format!("traceparent: {GIVEN}\r\ntraceparent: {GIVEN}"),
        ),
        case("traceparent_keeps_its_trace")
            .send(get_with(&format!("traceparent: {GIVEN}\r\ntracestate: a=b")))
            .want(ok("ok"))
            .saw(
                saw("GET", "/x")
                    .mentions("traceparent", "00-0af7651916cd43dd8448eb211c80319c-")
                    .with("tracestate", "a=b"),
            ),
        case("request_id_is_kept")
            .send(get_with("X-Request-ID: mine-1"))
            .want(ok("ok"))
            .saw(saw("GET", "/x").with("x-request-id", "mine-1")),
        case("request_ids_are_made_and_differ")
            .send(get("/1") + &get("/2"))
            .want(ok("ok"))
            .want(ok("ok"))
            .saw_that("two ids that differ", |requests| {
                let ids: Vec<_> =
                    requests.iter().filter_map(|r| r.head.get("x-request-id")).collect();
                ids.len() == 2 && ids[0] != ids[1] && ids.iter().all(|id| id.len() >= 16)
            }),
    ]
}

fn answered() -> Vec<Case> {
    let fields = |name: &str, fields: &str, want: hearth_tests::conformance::case::Want| {
        case(name)
            .send(get("/x"))
            .app(format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: 2\r\n\r\nok"))
            .want(want)
    };
    vec![
        fields(
            "an_answers_hop_by_hop_fields_go_no_further",
            "Connection: x-hop\r\nX-Hop: 1",
            ok("ok").without("x-hop"),
        ),
        fields(
            "an_answers_keep_alive_goes_no_further",
            "Keep-Alive: timeout=5",
            ok("ok").without("keep-alive"),
        ),
        fields(
            "an_answers_proxy_connection_goes_no_further",
            "Proxy-Connection: close",
            ok("ok").without("proxy-connection"),
        ),
        fields(
            "an_answers_via_is_added_to",
            "Via: 1.1 inner",
            ok("ok").that("inner first", |a| {
                a.head.get("via").is_some_and(|v| v.starts_with("1.1 inner, "))
            }),
        ),
        fields(
            "an_answers_cookies_stay_apart_and_in_order",
            "Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2",
            ok("ok").that("two cookies", |a| a.head.all("set-cookie") == ["a=1; Path=/", "b=2"]),
        ),
        fields(
            "an_answers_date_and_server_are_kept",
            "Date: Tue, 15 Nov 1994 08:12:31 GMT\r\nServer: app/1",
            ok("ok").with("date", "Tue, 15 Nov 1994 08:12:31 GMT").with("server", "app/1"),
        ),
        fields("an_answer_without_date_gets_one", "X-A: b", ok("ok").mentions("date", "GMT")),
    ]
}

fn own_answers() -> Vec<Case> {
    let with_status = |name: &str, bytes: String, code: u16, error: &str| {
        case(name)
            .send(bytes)
            .want(status(code).mentions("proxy-status", "caller").mentions("proxy-status", error))
            .closed()
            .saw_nothing()
    };
    vec![
        with_status(
            "proxy_status_on_400_for_a_broken_head",
            get_with("X A: b"),
            400,
            "http_request_error",
        ),
        with_status(
            "proxy_status_on_400_for_a_broken_request_line",
            "GET /x#y HTTP/1.1\r\nHost: svc\r\n\r\n".into(),
            400,
            "http_request_error",
        ),
        with_status(
            "proxy_status_on_400_for_two_framings",
            "POST /x HTTP/1.1\r\nHost: svc\r\nContent-Length: 3\r\n\
                 Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .into(),
            400,
            "http_request_error",
        ),
        with_status(
            "proxy_status_on_400_for_no_host",
            "GET /x HTTP/1.1\r\nX-A: b\r\n\r\n".into(),
            400,
            "http_request_error",
        ),
        with_status(
            "proxy_status_on_431",
            get_with(&format!("X-A: {}", "a".repeat(256 * 1024))),
            431,
            "error=",
        ),
        case("proxy_status_on_502_names_the_next_hop")
            .send(get("/x"))
            .app_does([Step::Body, Step::Close])
            .app_does([Step::Body, Step::Close])
            .app_does([Step::Body, Step::Close])
            .app_does([Step::Body, Step::Close])
            .app_does([Step::Body, Step::Close])
            .want(
                status(502)
                    .mentions("proxy-status", "error=")
                    .mentions("proxy-status", "next-hop="),
            ),
        case("proxy_status_on_504")
            .send("POST /x HTTP/1.1\r\nHost: svc\r\nContent-Length: 1\r\n\r\nx")
            .app_does([Step::Body, Step::UntilGone])
            .want(status(504).to("POST").mentions("proxy-status", "http_response_timeout")),
        case("no_proxy_status_on_an_applications_own_502")
            .send(get("/x"))
            .app("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nmine")
            .want(status(502).body("mine").that("no error of ours", |a| {
                a.head.get("proxy-status").is_none_or(|p| !p.contains("error="))
            })),
        case("an_applications_500_is_passed_on")
            .send("POST /x HTTP/1.1\r\nHost: svc\r\nContent-Length: 1\r\n\r\nx")
            .app("HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nmine")
            .want(status(500).to("POST").body("mine"))
            .saw(saw("POST", "/x").body("x")),
        case("answers_of_ours_are_told_from_answers_of_others")
            .send(get("/x"))
            .app(answer("ok"))
            .want(ok("ok")),
    ]
}
