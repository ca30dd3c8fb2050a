//! Host (RFC 9112 section 3.2), and the listener that all services share.

use hearth_tests::conformance::case::{Case, case, ok, saw, status};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = bad();
    cases.extend(good());
    cases.extend(shared());
    cases
}

fn bad() -> Vec<Case> {
    let refused = |name: &str, fields: &str| {
        case(name).send(format!("GET /x HTTP/1.1\r\n{fields}X-A: b\r\n\r\n")).refused(&[400])
    };
    vec![
        refused("refuses_none", ""),
        refused("refuses_two_that_differ", "Host: svc\r\nHost: other\r\n"),
        refused("refuses_two_that_are_equal", "Host: svc\r\nHost: svc\r\n"),
        refused("refuses_a_space_within", "Host: svc other\r\n"),
        refused("refuses_a_path_within", "Host: svc/x\r\n"),
        refused("refuses_a_query_within", "Host: svc?x\r\n"),
        refused("refuses_user_information", "Host: user@svc\r\n"),
        refused("refuses_a_list", "Host: svc, other\r\n"),
        refused("refuses_a_port_that_is_none", "Host: svc:http\r\n"),
        refused("refuses_a_port_too_large", "Host: svc:99999999\r\n"),
        refused("refuses_an_open_bracket", "Host: [::1\r\n"),
        refused("refuses_a_control_character", "Host: s\x01vc\r\n"),
    ]
}

fn good() -> Vec<Case> {
    let passed = |name: &str, host: &str| {
        case(name)
            .send(format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .want(ok("ok"))
            .saw(saw("GET", "/x").with("host", host))
    };
    vec![
        passed("a_name_is_passed_on", "svc.example"),
        passed("a_name_with_port_is_passed_on", "svc.example:8080"),
        passed("an_address_is_passed_on", "192.0.2.7:80"),
        passed("an_address_in_brackets_is_passed_on", "[2001:db8::1]:80"),
        passed("an_underscore_is_passed_on", "my_svc"),
        case("last_of_all_fields")
            .send("GET /x HTTP/1.1\r\nX-A: b\r\nhOsT:svc\r\n\r\n")
            .want(ok("ok"))
            .saw(saw("GET", "/x").with("host", "svc")),
    ]
}

fn shared() -> Vec<Case> {
    let to = |name: &str, target: &str, host: &str| {
        case(name).on_shared().send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    };
    vec![
        to("shared_finds_a_service_by_its_host", "/x", "{service}.mesh")
            .want(ok("ok"))
            .saw(saw("GET", "/x")),
        to("shared_finds_a_service_in_any_case_and_with_port", "/x", "{service}.MESH:7942")
            .want(ok("ok"))
            .saw(saw("GET", "/x")),
        to("shared_finds_a_service_by_absolute_form", "http://{service}.mesh/x", "{service}.mesh")
            .want(ok("ok"))
            .saw(saw("GET", "/x")),
        to("shared_goes_by_the_target_before_the_host", "http://nobody.mesh/x", "{service}.mesh")
            .want(hearth_tests::conformance::case::one_of(&[400, 404, 503]))
            .either()
            .saw_nothing(),
        to("shared_tells_that_a_host_is_no_service", "/x", "a.b.example")
            .want(status(404).mentions("proxy-status", "destination_not_found"))
            .saw_nothing(),
        to("shared_tells_that_nobody_offers_a_service", "/x", "nobody.mesh")
            .want(status(503).mentions("proxy-status", "destination_unavailable"))
            .saw_nothing(),
        case("shared_refuses_no_host").on_shared().send("GET /x HTTP/1.1\r\n\r\n").refused(&[400]),
        case("shared_serves_another_service_on_the_same_connection")
            .on_shared()
            .send(
                "GET /1 HTTP/1.1\r\nHost: nobody.mesh\r\n\r\nGET /2 HTTP/1.1\r\n\
                 Host: {service}.mesh\r\n\r\n",
            )
            .want(status(503))
            .want(ok("ok"))
            .saw(saw("GET", "/2")),
    ]
}
