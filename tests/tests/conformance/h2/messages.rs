//! What a request is made of (RFC 9113 section 8), and how it and its answer are turned from one version
//! into the other.

use hearth_tests::conformance::application::{Script, ok};
use hearth_tests::conformance::case::Lane;
use hearth_tests::conformance::h2::{
    END_HEADERS, END_STREAM, Frame, Session, WHOLE, code, frame, headers, kind, request,
};

use super::{Must, Row, Told};

type Fields = Vec<(&'static str, &'static str)>;

const PROTOCOL: &[u32] = &[code::PROTOCOL, code::NO_ERROR];

pub(super) fn rows() -> Vec<Row> {
    let row = |name, bytes, must| Row { table: "messages", name, bytes, must };
    let with = |more: &[(&'static str, &'static str)]| request("GET", "/x", more);
    let without = |gone: &str| -> Fields {
        request("GET", "/x", &[]).into_iter().filter(|(name, _)| *name != gone).collect()
    };
    let malformed: [(&str, Fields); 27] = [
        ("no_method", without(":method")),
        ("no_scheme", without(":scheme")),
        ("no_path", without(":path")),
        ("two_methods", with(&[(":method", "GET")])),
        ("two_paths", with(&[(":path", "/y")])),
        ("two_authorities", with(&[(":authority", "other")])),
        (
            "a_pseudo_field_after_a_field",
            vec![(":method", "GET"), (":scheme", "http"), ("x-a", "b"), (":path", "/x")],
        ),
        ("an_unknown_pseudo_field", with(&[(":foo", "bar")])),
        ("a_pseudo_field_of_answers", with(&[(":status", "200")])),
        ("an_empty_path", request("GET", "", &[])),
        ("a_path_without_slash", request("GET", "x", &[])),
        ("a_path_with_a_space", request("GET", "/x y", &[])),
        ("a_path_with_a_line_end", request("GET", "/x HTTP/1.1\r\nX-Smuggled: 1", &[])),
        ("a_method_with_a_space", request("GET /smuggled HTTP/1.1", "/x", &[])),
        (
            "an_authority_with_a_line_end",
            vec![
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "svc\r\nx: y"),
                (":path", "/x"),
            ],
        ),
        ("a_name_in_upper_case", with(&[("X-A", "b")])),
        ("a_name_with_a_space", with(&[("x a", "b")])),
        ("a_name_with_a_colon", with(&[("x:a", "b")])),
        ("an_empty_name", with(&[("", "b")])),
        ("a_value_with_a_line_end", with(&[("x-a", "b\r\nx-smuggled: 1")])),
        ("a_value_with_a_nul", with(&[("x-a", "b\0c")])),
        ("connection", with(&[("connection", "close")])),
        ("transfer_encoding", with(&[("transfer-encoding", "chunked")])),
        ("keep_alive", with(&[("keep-alive", "timeout=5")])),
        ("proxy_connection", with(&[("proxy-connection", "close")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te_of_gzip", with(&[("te", "gzip")])),
    ];
    let mut rows: Vec<Row> = malformed
        .map(|(name, fields)| row(name, headers(1, WHOLE, &fields), Must::Refuse(PROTOCOL)))
        .into();
    let post = |length: &'static str| {
        headers(1, END_HEADERS, &request("POST", "/x", &[("content-length", length)]))
    };
    let data = |flags, content: &[u8]| frame(kind::DATA, flags, 1, content);
    rows.extend([
        row("te_of_trailers", headers(1, WHOLE, &with(&[("te", "trailers")])), Must::Answer(200)),
        row(
            "more_content_than_announced",
            [post("3"), data(END_STREAM, b"abcde")].concat(),
            Must::Refuse(PROTOCOL),
        ),
        row(
            "less_content_than_announced",
            [post("5"), data(END_STREAM, b"abc")].concat(),
            Must::Refuse(PROTOCOL),
        ),
        row(
            "content_announced_and_none",
            headers(1, WHOLE, &request("POST", "/x", &[("content-length", "5")])),
            Must::Refuse(PROTOCOL),
        ),
        row(
            "a_length_that_is_none",
            [post("+3"), data(END_STREAM, b"abc")].concat(),
            Must::Refuse(PROTOCOL),
        ),
        row(
            "two_lengths_that_differ",
            [
                headers(
                    1,
                    END_HEADERS,
                    &request("POST", "/x", &[("content-length", "3"), ("content-length", "4")]),
                ),
                data(END_STREAM, b"abc"),
            ]
            .concat(),
            Must::Refuse(PROTOCOL),
        ),
        row(
            "trailers_with_a_pseudo_field",
            [post("3"), data(0, b"abc"), headers(1, WHOLE, &[(":path", "/y")])].concat(),
            Must::Refuse(PROTOCOL),
        ),
        row(
            "trailers_that_do_not_end_it",
            [post("3"), data(0, b"abc"), headers(1, END_HEADERS, &[("x-a", "b")])].concat(),
            Must::Refuse(PROTOCOL),
        ),
        row(
            "connect_with_a_path",
            headers(1, WHOLE, &request("CONNECT", "/x", &[])),
            Must::Refuse(PROTOCOL),
        ),
    ]);
    rows
}

pub(super) fn told() -> Vec<(&'static str, Told)> {
    vec![
        ("a_get_is_answered", a_get_is_answered),
        ("a_post_arrives_with_its_length", a_post_arrives_with_its_length),
        ("a_post_of_unknown_length_arrives_in_chunks", a_post_of_unknown_length_arrives_in_chunks),
        ("trailers_arrive", trailers_arrive),
        ("trailers_come_back", trailers_come_back),
        ("cookies_arrive_as_one", cookies_arrive_as_one),
        ("a_host_without_authority_will_do", a_host_without_authority_will_do),
        ("a_host_that_differs_is_refused_or_replaced", a_host_that_differs_is_refused_or_replaced),
        ("a_head_is_answered_without_data", a_head_is_answered_without_data),
        ("a_204_is_answered_without_data", a_204_is_answered_without_data),
        ("hints_are_passed_on", hints_are_passed_on),
        ("an_answer_cut_short_is_reset", an_answer_cut_short_is_reset),
        ("an_application_that_closes_is_502", an_application_that_closes_is_502),
        ("an_answers_connection_fields_go_no_further", an_answers_connection_fields_go_no_further),
        ("options_asterisk", options_asterisk),
    ]
}

fn demand(holds: bool, what: &str, lane: &Lane) -> Result<(), String> {
    match holds {
        true => Ok(()),
        false => Err(format!("not so: {what}; the application got {:#?}", lane.app.take().0)),
    }
}

fn a_get_is_answered(lane: &Lane) -> Result<(), String> {
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, WHOLE, &request("GET", "/x?y", &[("x-a", "b")])));
    let answer = session.answer(1)?;
    demand(answer == (200, b"ok".to_vec()), &format!("200 ok: {answer:?}"), lane)?;
    let (requests, _) = lane.app.take();
    let fits = requests.len() == 1
        && requests.iter().all(|r| {
            r.target() == "/x?y"
                && r.head.get("host").as_deref() == Some("svc")
                && r.head.get("x-a").as_deref() == Some("b")
                && r.head
                    .get("via")
                    .is_some_and(|v| v.contains("2.0 caller") || v.contains("2 caller"))
        });
    demand(fits, "GET /x?y with host, x-a and via", lane)
}

fn a_post_arrives_with_its_length(lane: &Lane) -> Result<(), String> {
    let mut session = Session::open(lane.entry, &[])?;
    let fields = request("POST", "/x", &[("content-length", "6")]);
    let _ = session.send(&headers(1, END_HEADERS, &fields));
    let _ = session.send(&frame(kind::DATA, 0, 1, b"abc"));
    let _ = session.send(&frame(kind::DATA, END_STREAM, 1, b"def"));
    session.answer(1)?;
    let (requests, _) = lane.app.take();
    let fits = requests.iter().all(|r| {
        r.whole && r.body == b"abcdef" && r.head.get("content-length").as_deref() == Some("6")
    });
    demand(requests.len() == 1 && fits, "abcdef with content-length 6", lane)
}

fn a_post_of_unknown_length_arrives_in_chunks(lane: &Lane) -> Result<(), String> {
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, END_HEADERS, &request("POST", "/x", &[])));
    for _ in 0..10 {
        let _ = session.send(&frame(kind::DATA, 0, 1, b"0123456789"));
    }
    let _ = session.send(&frame(kind::DATA, END_STREAM, 1, b""));
    session.answer(1)?;
    let (requests, _) = lane.app.take();
    let fits = requests.iter().all(|r| r.whole && r.body == b"0123456789".repeat(10));
    demand(requests.len() == 1 && fits, "a hundred bytes", lane)
}

fn trailers_arrive(lane: &Lane) -> Result<(), String> {
    let mut session = Session::open(lane.entry, &[])?;
    let fields = request("POST", "/x", &[("trailer", "x-sum")]);
    let _ = session.send(&headers(1, END_HEADERS, &fields));
    let _ = session.send(&frame(kind::DATA, 0, 1, b"abc"));
    let _ = session.send(&headers(1, WHOLE, &[("x-sum", "7")]));
    session.answer(1)?;
    let (requests, _) = lane.app.take();
    let sum = |r: &hearth_tests::conformance::application::Request| {
        r.trailers == [("x-sum".to_owned(), b"7".to_vec())]
    };
    demand(requests.len() == 1 && requests.iter().all(sum), "trailer x-sum: 7", lane)
}

fn trailers_come_back(lane: &Lane) -> Result<(), String> {
    lane.app.load(vec![Script::answer(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n3\r\nabc\r\n\
             0\r\nX-Sum: 7\r\n\r\n",
    )]);
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, WHOLE, &request("GET", "/x", &[("te", "trailers")])));
    session.wait("DATA, then HEADERS that end the stream", |frames, _| {
        let own: Vec<&Frame> =
            frames.iter().filter(|f| f.stream == 1 && f.kind <= kind::HEADERS).collect();
        let last = own.last()?;
        (own.len() >= 3 && last.kind == kind::HEADERS && last.flags & END_STREAM != 0).then_some(())
    })
}

fn cookies_arrive_as_one(lane: &Lane) -> Result<(), String> {
    let mut session = Session::open(lane.entry, &[])?;
    let fields = request("GET", "/x", &[("cookie", "a=b"), ("cookie", "c=d")]);
    let _ = session.send(&headers(1, WHOLE, &fields));
    session.answer(1)?;
    let (requests, _) = lane.app.take();
    let fits = requests.iter().all(|r| r.head.all("cookie") == ["a=b; c=d"]);
    demand(
        requests.len() == 1 && fits,
        "one field `cookie: a=b; c=d` (RFC 9113 section 8.2.3)",
        lane,
    )
}

fn a_host_without_authority_will_do(lane: &Lane) -> Result<(), String> {
    let mut session = Session::open(lane.entry, &[])?;
    let fields =
        [(":method", "GET"), (":scheme", "http"), (":path", "/x"), ("host", "other.example")];
    let _ = session.send(&headers(1, WHOLE, &fields));
    session.answer(1)?;
    let (requests, _) = lane.app.take();
    let fits = requests.iter().all(|r| r.head.all("host") == ["other.example"]);
    demand(requests.len() == 1 && fits, "host: other.example", lane)
}

fn a_host_that_differs_is_refused_or_replaced(lane: &Lane) -> Result<(), String> {
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, WHOLE, &request("GET", "/x", &[("host", "evil")])));
    session.wait("answer or refusal", |frames, end| {
        let over =
            |f: &Frame| f.stream == 1 && f.flags & END_STREAM != 0 || f.kind == kind::RST_STREAM;
        (frames.iter().any(over) || end.is_some()).then_some(())
    })?;
    let (requests, _) = lane.app.take();
    demand(requests.iter().all(|r| r.head.all("host") == ["svc"]), "no host: evil", lane)
}

fn a_head_is_answered_without_data(lane: &Lane) -> Result<(), String> {
    lane.app.load(vec![Script::answer("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")]);
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, WHOLE, &request("HEAD", "/x", &[])));
    let answer = session.answer(1)?;
    demand(answer == (200, Vec::new()), &format!("200 and nothing: {answer:?}"), lane)
}

fn a_204_is_answered_without_data(lane: &Lane) -> Result<(), String> {
    lane.app.load(vec![Script::answer("HTTP/1.1 204 No Content\r\n\r\n")]);
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, WHOLE, &request("GET", "/x", &[])));
    let answer = session.answer(1)?;
    demand(answer == (204, Vec::new()), &format!("204 and nothing: {answer:?}"), lane)
}

fn hints_are_passed_on(lane: &Lane) -> Result<(), String> {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".to_owned();
    lane.app.load(vec![Script::answer(hints + &ok("ok"))]);
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, WHOLE, &request("GET", "/x", &[])));
    session.answer(1)?;
    session.wait("103 before 200", |frames, _| {
        let statuses: Vec<u16> = frames.iter().filter_map(Frame::status).collect();
        (statuses == [103, 200]).then_some(())
    })
}

fn an_answer_cut_short_is_reset(lane: &Lane) -> Result<(), String> {
    use hearth_tests::conformance::application::Step;
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc";
    let script = Script::steps([Step::Body, Step::Send(cut.into()), Step::Close]).at("/x");
    lane.app.load(vec![script]);
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, WHOLE, &request("GET", "/x", &[])));
    session.wait("a reset, or 502", |frames, end| {
        let own = || frames.iter().filter(|f| f.stream == 1);
        let reset = own().any(|f| f.kind == kind::RST_STREAM);
        let refused = own().filter_map(Frame::status).any(|s| s == 502);
        (reset || refused || end.is_some()).then_some(())
    })?;
    let seen = session.story();
    demand(!seen.contains("DATA[1] 0 bytes"), &format!("no clean end: {seen}"), lane)
}

fn an_application_that_closes_is_502(lane: &Lane) -> Result<(), String> {
    use hearth_tests::conformance::application::Step;
    lane.app.load(vec![Script::steps([Step::Body, Step::Close]).at("/x")]);
    let mut session = Session::open(lane.entry, &[])?;
    let fields = request("POST", "/x", &[("content-length", "0")]);
    let _ = session.send(&headers(1, WHOLE, &fields));
    let (status, _) = session.answer(1)?;
    demand(status == 502, &format!("502: {status}"), lane)
}

fn an_answers_connection_fields_go_no_further(lane: &Lane) -> Result<(), String> {
    lane.app.load(vec![Script::answer(
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, x-hop\r\nX-Hop: smuggled\r\n\
             Keep-Alive: timeout=5\r\n\
         Content-Length: 2\r\n\r\nok",
    )]);
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, WHOLE, &request("GET", "/x", &[])));
    let answer = session.answer(1)?;
    demand(answer == (200, b"ok".to_vec()), &format!("200 ok: {answer:?}"), lane)
}

fn options_asterisk(lane: &Lane) -> Result<(), String> {
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, WHOLE, &request("OPTIONS", "*", &[])));
    session.answer(1)?;
    let (requests, _) = lane.app.take();
    demand(requests.iter().all(|r| r.target() == "*") && requests.len() == 1, "OPTIONS *", lane)
}
