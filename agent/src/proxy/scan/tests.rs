//! What passes and what does not, whole and in pieces.

use proptest::prelude::*;

use super::*;

/// Everything that passes of `bytes`, given in pieces of `piece` bytes, and how it ended.
fn scan(bytes: &[u8], piece: usize) -> (Vec<u8>, Look) {
    let (mut scan, mut raw, mut out) = (Scan::new(), BytesMut::new(), BytesMut::new());
    for piece in bytes.chunks(piece) {
        raw.extend_from_slice(piece);
        match scan.look(&mut raw, &mut out) {
            Look::More | Look::Held => {}
            end => return (out.to_vec(), end),
        }
    }
    let end = scan.look(&mut raw, &mut out);
    (out.to_vec(), end)
}

fn passes(text: &str) {
    for piece in [1, 2, 3, 7, text.len()] {
        let (out, end) = scan(text.as_bytes(), piece);
        assert_eq!(end, Look::More, "{text:?}");
        assert_eq!(String::from_utf8_lossy(&out), text, "in pieces of {piece}");
    }
}

fn refused(text: &str) -> u16 {
    let statuses: Vec<u16> = [1, 5, text.len()]
        .map(|piece| match scan(text.as_bytes(), piece).1 {
            Look::Head(refusal) => refusal.status.as_u16(),
            Look::Body(refusal) => 1000 + refusal.status.as_u16(),
            _ => 0,
        })
        .to_vec();
    assert!(statuses.iter().all(|s| *s == statuses[0]), "{text:?}: {statuses:?}");
    statuses[0]
}

const HOST: &str = "Host: x\r\n";

#[test]
fn messages_one_after_the_other_pass_unchanged() {
    passes(&format!("GET / HTTP/1.1\r\n{HOST}\r\nGET /b HTTP/1.1\r\n{HOST}\r\n"));
    passes(&format!(
        "POST / HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\n{HOST}\r\n"
    ));
    passes(&format!(
        "POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n\
         0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\n{HOST}\r\n"
    ));
    passes(&format!(
        "POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.0\r\n\r\n"
    ));
}

#[test]
fn empty_lines_before_a_request_are_dropped() {
    let text = format!("\r\n\r\nGET / HTTP/1.1\r\n{HOST}\r\n");
    let (out, end) = scan(text.as_bytes(), 1);
    assert_eq!((&out[..], end), (&text.as_bytes()[4..], Look::More));
}

#[test]
fn empty_lines_without_end_are_refused() {
    assert_eq!(refused(&"\r\n".repeat(MAX_BLANK + 1)), 400);
}

#[test]
fn a_question_to_a_whole_server_keeps_its_meaning() {
    let text = "OPTIONS http://x:80 HTTP/1.1\r\nA: b\r\nHOST: y\r\n\r\n";
    let (out, end) = scan(text.as_bytes(), 1);
    assert_eq!(end, Look::More);
    let expected = "OPTIONS * HTTP/1.1\r\nHost: x:80\r\nA: b\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    passes("OPTIONS http://x:80/ HTTP/1.1\r\nHost: y\r\n\r\n");
}

#[test]
fn http2_passes_as_it_is_and_only_at_the_beginning() {
    passes("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0 \n\n");
    assert_eq!(
        refused(&format!("GET / HTTP/1.1\r\n{HOST}\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        505
    );
}

#[test]
fn heads_that_servers_read_differently_are_refused() {
    for (head, status) in [
        ("GET / HTTP/1.1\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\n\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        ("GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505),
        ("GET /\r\n\r\n", 400),
        ("GET /#a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("G\x01T / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ] {
        assert_eq!(refused(head), status, "{head:?}");
    }
}

#[test]
fn a_head_is_bounded_in_bytes_and_fields() {
    let long = "a".repeat(MAX_HEAD);
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{HOST}A: {long}\r\n\r\n")), 431);
    assert_eq!(refused(&format!("GET /{long} HTTP/1.1\r\n{HOST}\r\n")), 414);
    let many = |n: usize| "A: b\r\n".repeat(n);
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{HOST}{}\r\n", many(MAX_FIELDS))), 431);
    passes(&format!("GET / HTTP/1.1\r\n{HOST}{}\r\n", many(MAX_FIELDS - 1)));
}

#[test]
fn chunks_are_read_strictly() {
    let post = format!("POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n");
    for body in [
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "\r\nabc",
        "-1\r\n",
        "0x3\r\nabc\r\n",
        "3 \r\nabc\r\n",
        " 3\r\nabc\r\n",
        "3;a\rb\r\nabc\r\n",
        "fffffffffffffffff\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA b\r\n\r\n",
        "0\r\n\n",
    ] {
        assert_eq!(refused(&format!("{post}{body}")), 1400, "{body:?}");
    }
    assert_eq!(refused(&format!("{post}3;{}\r\n", "a".repeat(MAX_CHUNK_LINE))), 1400);
    assert_eq!(refused(&format!("{post}0\r\nA: {}\r\n\r\n", "a".repeat(MAX_TRAILERS))), 1400);
}

#[test]
fn what_follows_an_upgrade_waits_for_its_answer() {
    let head = format!("GET / HTTP/1.1\r\n{HOST}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    for accepted in [true, false] {
        let (mut scan, mut raw, mut out) = (Scan::new(), BytesMut::new(), BytesMut::new());
        raw.extend_from_slice(head.as_bytes());
        raw.extend_from_slice(b"\x81\n\n");
        assert_eq!(scan.look(&mut raw, &mut out), Look::Held);
        assert_eq!(out, head);
        scan.decide(accepted);
        let end = scan.look(&mut raw, &mut out);
        if accepted {
            assert_eq!((end, raw.len()), (Look::More, 0));
        } else {
            assert!(matches!(end, Look::Head(_)));
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_pieces_do_not_matter(
        body in prop::collection::vec(prop_oneof![
            Just(b"\r\n".to_vec()), Just(b"0\r\n".to_vec()), Just(b"5\r\nabcde".to_vec()),
            Just(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
            Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
            Just(b"POST / HTTP/1.1\r\nHost: x\r\n".to_vec()),
            Just(b"Content-Length: 3\r\n\r\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..6),
        ], 0..12),
        piece in 1_usize..9,
    ) {
        let bytes = body.concat();
        let (whole, in_pieces) = (scan(&bytes, bytes.len().max(1)), scan(&bytes, piece));
        prop_assert_eq!(whole, in_pieces);
    }
}

#[test]
fn an_upgrade_refused_before_the_body_ended_does_not_hold_what_comes_behind_it() {
    let (mut scan, mut raw, mut out) = (Scan::new(), BytesMut::new(), BytesMut::new());
    let head = format!(
        "POST / HTTP/1.1\r\n{HOST}Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 4\r\n\r\nbo"
    );
    raw.extend_from_slice(head.as_bytes());
    assert_eq!(scan.look(&mut raw, &mut out), Look::More);
    scan.decide(false);
    let rest = format!("dyGET / HTTP/1.1\r\n{HOST}\r\n");
    raw.extend_from_slice(rest.as_bytes());
    assert_eq!(scan.look(&mut raw, &mut out), Look::More);
    assert_eq!(String::from_utf8_lossy(&out), head + &rest);
}
