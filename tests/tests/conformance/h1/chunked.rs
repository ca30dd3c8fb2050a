//! Chunked request bodies (RFC 9112 section 7.1).

use hearth_tests::conformance::case::{Case, case, ok, one_of, saw};

use super::{chunks, post_with};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = good();
    cases.extend(trailers());
    let long = "a".repeat(1 << 20);
    let long_extension = format!("3;{long}\r\nabc\r\n0\r\n\r\n");
    let many =
        "1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\na\r\n"
            .repeat(8_192);
    let many_extensions = format!("{many}0\r\n\r\n");
    let zeros = format!("{}3\r\nabc\r\n0\r\n\r\n", "0".repeat(64));
    let bad: [(&str, &str); 31] = [
        ("a_minus_sign", "-3\r\nabc\r\n0\r\n\r\n"),
        ("a_plus_sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a_0x_prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("an_underscore", "0_3\r\nabc\r\n0\r\n\r\n"),
        ("no_size", "\r\nabc\r\n0\r\n\r\n"),
        ("only_an_extension", ";a=b\r\nabc\r\n0\r\n\r\n"),
        ("a_letter_beyond_f", "g\r\nabc\r\n0\r\n\r\n"),
        ("a_space_before", " 3\r\nabc\r\n0\r\n\r\n"),
        ("a_space_after", "3 \r\nabc\r\n0\r\n\r\n"),
        ("a_tab_after", "3\t\r\nabc\r\n0\r\n\r\n"),
        ("two_sizes", "3 3\r\nabc\r\n0\r\n\r\n"),
        ("17_digits_that_overflow", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("more_than_64_bits", "FFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n"),
        ("64_leading_zeros", &zeros),
        ("a_bare_lf_after_the_size", "3\nabc\r\n0\r\n\r\n"),
        ("a_bare_cr_after_the_size", "3\rabc\r\n0\r\n\r\n"),
        ("two_crs_after_the_size", "3\r\r\nabc\r\n0\r\n\r\n"),
        ("a_bare_lf_after_the_data", "3\r\nabc\n0\r\n\r\n"),
        ("a_bare_cr_after_the_data", "3\r\nabc\r0\r\n\r\n"),
        ("nothing_after_the_data", "3\r\nabc0\r\n\r\n"),
        ("data_longer_than_its_size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("a_bare_lf_in_an_extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
        ("a_bare_cr_in_an_extension", "3;a\rb\r\nabc\r\n0\r\n\r\n"),
        ("a_nul_in_an_extension", "3;a\0b\r\nabc\r\n0\r\n\r\n"),
        ("a_bare_lf_at_the_end", "3\r\nabc\r\n0\r\n\n"),
        ("a_bare_lf_after_the_last_size", "3\r\nabc\r\n0\n\r\n"),
        ("a_trailer_without_colon", "3\r\nabc\r\n0\r\nx-sum\r\n\r\n"),
        ("a_trailer_with_a_space_before_the_colon", "3\r\nabc\r\n0\r\nx-sum : 1\r\n\r\n"),
        ("a_folded_trailer", "3\r\nabc\r\n0\r\nx-sum: 1\r\n 2\r\n\r\n"),
        ("a_megabyte_of_extension", &long_extension),
        ("half_a_megabyte_of_small_extensions", &many_extensions),
    ];
    cases.extend(bad.map(|(name, rest)| {
        case(&format!("refuses_{name}")).send(chunks("")).send(rest).broken_off()
    }));
    cases.extend(cut_off());
    cases
}

fn passed(name: &str, bytes: &str, content: &str) -> Case {
    case(name).send(bytes).want(ok("ok").to("POST")).saw(saw("POST", "/x").body(content))
}

fn good() -> Vec<Case> {
    let two = chunks("3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n");
    let large = "x".repeat(100_000);
    let many = "1\r\na\r\n".repeat(5_000);
    vec![
        passed("two_chunks", &two, "abcdefg"),
        passed("empty", &chunks("0\r\n\r\n"), ""),
        passed("upper_case_size", &chunks("A\r\n0123456789\r\n0\r\n\r\n"), "0123456789"),
        passed("lower_case_size", &chunks("a\r\n0123456789\r\n0\r\n\r\n"), "0123456789"),
        passed("leading_zeros", &chunks("003\r\nabc\r\n000\r\n\r\n"), "abc"),
        passed("an_extension", &chunks("3;a=b\r\nabc\r\n0;c\r\n\r\n"), "abc"),
        passed("a_quoted_extension", &chunks("3;a=\"b;\\\" c\"\r\nabc\r\n0\r\n\r\n"), "abc"),
        case("space_before_an_extension_is_read_or_refused")
            .send(chunks("3 ;a=b\r\nabc\r\n0\r\n\r\n"))
            .want(one_of(&[200, 400]).to("POST"))
            .either()
            .saw_that("abc, if it is whole", |requests| {
                requests.iter().all(|r| !r.whole || r.body == b"abc")
            }),
        passed("data_with_line_ends", &chunks("6\r\n\r\n0\r\n\r\r\n0\r\n\r\n"), "\r\n0\r\n\r"),
        passed("one_large_chunk", &chunks(&format!("186a0\r\n{large}\r\n0\r\n\r\n")), &large),
        passed(
            "five_thousand_small_chunks",
            &chunks(&format!(
                "{many}0\r\n\
             \r\n"
            )),
            &"a".repeat(5_000),
        ),
        case("byte_by_byte")
            .send_by(1, &two)
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("abcdefg")),
        case("in_fives")
            .send_by(5, &two)
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("abcdefg")),
        case("then_another_request")
            .send(two.clone() + &two)
            .want(ok("ok").to("POST"))
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("abcdefg"))
            .saw(saw("POST", "/x").body("abcdefg")),
        case("on_a_get")
            .send(
                "GET /x HTTP/1.1\r\nHost: svc\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\
                 abc\r\n0\r\n\r\n",
            )
            .want(ok("ok"))
            .saw(saw("GET", "/x").body("abc")),
    ]
}

fn trailers() -> Vec<Case> {
    let announced = |names: &str, trailers: &str| {
        let fields = format!("Transfer-Encoding: chunked\r\nTrailer: {names}");
        post_with(&fields, &format!("3\r\nabc\r\n0\r\n{trailers}\r\n\r\n"))
    };
    vec![
        case("an_announced_trailer_is_passed_on")
            .send(announced("x-sum", "X-Sum: 900150983cd2"))
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("abc").trailer("x-sum", "900150983cd2")),
        case("two_trailers_are_passed_on")
            .send(announced("x-a, x-b", "x-a: 1\r\nx-b: 2"))
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("abc").trailer("x-a", "1").trailer("x-b", "2")),
        case("a_trailer_nobody_announced_does_no_harm")
            .send(chunks("3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"))
            .want(ok("ok").to("POST"))
            .saw(saw("POST", "/x").body("abc").without("x-sum")),
        case("framing_in_a_trailer_is_not_passed_on")
            .send(announced("content-length, x-a", "Content-Length: 99\r\nx-a: 1"))
            .want(one_of(&[200, 400]).to("POST"))
            .either()
            .saw_that("no Content-Length of 99", |requests| {
                requests.iter().all(|r| {
                    let mut fields = r.head.fields.iter().chain(&r.trailers);
                    !fields.any(|(name, value)| name == "content-length" && value == b"99")
                })
            }),
        case("a_host_in_a_trailer_is_not_passed_on")
            .send(announced("host, transfer-encoding", "Host: evil\r\nTransfer-Encoding: gzip"))
            .want(one_of(&[200, 400]).to("POST"))
            .either()
            .saw_that("no host `evil`, no gzip", |requests| {
                requests.iter().all(|r| !r.raw.windows(4).any(|w| w == b"evil" || w == b"gzip"))
            }),
    ]
}

fn cut_off() -> Vec<Case> {
    let cut = |name: &str, rest: &str| {
        case(name)
            .send(chunks(""))
            .send(rest)
            .half_close()
            .closed_without_answer_or(400)
            .saw_nothing_whole()
    };
    vec![
        cut("cut_off_in_a_chunk_it_is_not_whole", "5\r\nabc"),
        cut("cut_off_after_a_chunk_it_is_not_whole", "3\r\nabc\r\n"),
        cut("cut_off_after_the_last_size_it_is_not_whole", "3\r\nabc\r\n0\r\n"),
        cut("cut_off_in_a_trailer_it_is_not_whole", "3\r\nabc\r\n0\r\nx-a: b\r\n"),
    ]
}
