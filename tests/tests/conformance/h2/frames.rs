//! Frames that break a rule of the connection (RFC 9113 sections 3.4, 4, 5.1, 6).

use hearth_tests::conformance::h2::{
    ACK, END_HEADERS, END_STREAM, PADDED, WHOLE, block, code, frame, headers, kind, request,
    settings, window,
};

use super::{Must, Row};

fn get(stream: u32) -> Vec<u8> {
    headers(stream, WHOLE, &request("GET", "/x", &[]))
}

fn open(stream: u32) -> Vec<u8> {
    headers(stream, END_HEADERS, &request("POST", "/x", &[]))
}

/// 16 KiB and one byte.
fn oversized(kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    frame(kind, flags, stream, &vec![0; 16_385])
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = connection();
    rows.extend(streams());
    rows.extend(blocks());
    rows
}

fn row(name: &'static str, bytes: Vec<u8>, must: Must) -> Row {
    Row { table: "frames", name, bytes, must }
}

fn connection() -> Vec<Row> {
    use code::{ENHANCE_YOUR_CALM, FLOW_CONTROL, FRAME_SIZE, PROTOCOL};
    let ended: [(&str, Vec<u8>, &'static [u32]); 19] = [
        ("settings_of_a_wrong_size", frame(kind::SETTINGS, 0, 0, &[0; 5]), &[FRAME_SIZE]),
        (
            "settings_acknowledged_with_content",
            frame(kind::SETTINGS, ACK, 0, &[0; 6]),
            &[FRAME_SIZE],
        ),
        ("settings_on_a_stream", frame(kind::SETTINGS, 0, 1, &[]), &[PROTOCOL]),
        ("settings_with_push_of_2", settings(&[(2, 2)]), &[PROTOCOL]),
        ("settings_with_too_large_a_window", settings(&[(4, 1 << 31)]), &[FLOW_CONTROL]),
        ("settings_with_too_small_a_frame", settings(&[(5, 16_383)]), &[PROTOCOL]),
        ("settings_with_too_large_a_frame", settings(&[(5, 1 << 24)]), &[PROTOCOL]),
        ("ping_of_a_wrong_size", frame(kind::PING, 0, 0, &[0; 7]), &[FRAME_SIZE]),
        ("ping_on_a_stream", frame(kind::PING, 0, 1, &[0; 8]), &[PROTOCOL]),
        ("goaway_on_a_stream", frame(kind::GOAWAY, 0, 1, &[0; 8]), &[PROTOCOL]),
        ("window_update_of_zero", window(0, 0), &[PROTOCOL, FLOW_CONTROL]),
        ("window_update_of_a_wrong_size", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]), &[FRAME_SIZE]),
        ("window_beyond_31_bits", window(0, 0x7fff_ffff), &[FLOW_CONTROL]),
        ("settings_that_are_oversized", oversized(kind::SETTINGS, 0, 0), &[FRAME_SIZE]),
        ("an_unknown_frame_that_is_oversized", oversized(0x77, 0, 0), &[FRAME_SIZE]),
        (
            "a_frame_of_16_mib",
            frame(kind::PING, 0, 0, &vec![0; (1 << 24) - 1]),
            &[FRAME_SIZE, PROTOCOL, ENHANCE_YOUR_CALM],
        ),
        (
            "push_promise_by_a_client",
            frame(kind::PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
            &[PROTOCOL],
        ),
        (
            "text_instead_of_frames",
            b"GET /x HTTP/1.1\r\nHost: svc\r\n\r\n".to_vec(),
            &[FRAME_SIZE, PROTOCOL],
        ),
        (
            "a_second_preface",
            hearth_tests::conformance::h2::PREFACE.to_vec(),
            &[FRAME_SIZE, PROTOCOL],
        ),
    ];
    let mut rows: Vec<Row> =
        ended.map(|(name, bytes, codes)| row(name, bytes, Must::End(codes))).into();
    rows.extend([
        row(
            "an_unknown_frame_is_ignored",
            [frame(0x77, 0xff, 0, b"x"), get(1)].concat(),
            Must::Answer(200),
        ),
        row(
            "an_unknown_setting_is_ignored",
            [settings(&[(0x7777, 7)]), get(1)].concat(),
            Must::Answer(200),
        ),
        row(
            "unknown_flags_are_ignored",
            headers(1, WHOLE | 0x40, &request("GET", "/x", &[])),
            Must::Answer(200),
        ),
        row(
            "a_reserved_bit_is_ignored",
            headers(1 | 1 << 31, WHOLE, &request("GET", "/x", &[])),
            Must::Answer(200),
        ),
        row(
            "priority_is_ignored",
            [frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 9]), get(1)].concat(),
            Must::Answer(200),
        ),
    ]);
    rows
}

fn streams() -> Vec<Row> {
    use code::{FLOW_CONTROL, FRAME_SIZE, PROTOCOL, STREAM_CLOSED};
    let data = |flags, stream, payload: &[u8]| frame(kind::DATA, flags, stream, payload);
    let ended: [(&str, Vec<u8>, &'static [u32]); 15] = [
        ("headers_on_stream_zero", get(0), &[PROTOCOL]),
        ("headers_on_an_even_stream", get(2), &[PROTOCOL]),
        ("headers_on_a_lower_stream", [open(5), get(3)].concat(), &[PROTOCOL, STREAM_CLOSED]),
        ("data_on_stream_zero", data(END_STREAM, 0, b"x"), &[PROTOCOL]),
        ("data_on_an_idle_stream", data(END_STREAM, 1, b"x"), &[PROTOCOL, STREAM_CLOSED]),
        ("rst_stream_on_stream_zero", frame(kind::RST_STREAM, 0, 0, &[0; 4]), &[PROTOCOL]),
        ("rst_stream_on_an_idle_stream", frame(kind::RST_STREAM, 0, 1, &[0; 4]), &[PROTOCOL]),
        (
            "rst_stream_of_a_wrong_size",
            [open(1), frame(kind::RST_STREAM, 0, 1, &[0; 3])].concat(),
            &[FRAME_SIZE],
        ),
        ("window_update_on_an_idle_stream", window(1, 1), &[PROTOCOL]),
        ("priority_on_stream_zero", frame(kind::PRIORITY, 0, 0, &[0; 5]), &[PROTOCOL]),
        (
            "padding_longer_than_its_data",
            [open(1), data(PADDED, 1, &[9, 0, 0])].concat(),
            &[PROTOCOL],
        ),
        (
            "padding_longer_than_its_headers",
            frame(kind::HEADERS, WHOLE | PADDED, 1, &[9, 0, 0]),
            &[PROTOCOL],
        ),
        (
            "padded_without_a_length",
            [open(1), data(PADDED, 1, &[])].concat(),
            &[PROTOCOL, FRAME_SIZE],
        ),
        ("headers_that_are_oversized", oversized(kind::HEADERS, WHOLE, 1), &[FRAME_SIZE]),
        (
            "more_data_than_the_connections_window",
            {
                let mut bytes = open(1);
                for _ in 0..64 {
                    // The windows announced are not known here: 64 MiB beyond any.
                    bytes.extend((0..64).flat_map(|_| data(0, 1, &[0; 16_384])));
                }
                bytes
            },
            &[FLOW_CONTROL],
        ),
    ];
    let mut rows: Vec<Row> =
        ended.map(|(name, bytes, codes)| row(name, bytes, Must::End(codes))).into();
    rows.extend([
        row(
            "window_update_of_zero_on_a_stream",
            [open(1), window(1, 0)].concat(),
            Must::Refuse(&[PROTOCOL, FLOW_CONTROL]),
        ),
        row(
            "window_of_a_stream_beyond_31_bits",
            [open(1), window(1, 0x7fff_ffff)].concat(),
            Must::Refuse(&[FLOW_CONTROL]),
        ),
        row(
            "data_that_is_oversized",
            [open(1), oversized(kind::DATA, END_STREAM, 1)].concat(),
            Must::Refuse(&[FRAME_SIZE]),
        ),
        row(
            "priority_of_a_wrong_size",
            [open(1), frame(kind::PRIORITY, 0, 1, &[0; 4])].concat(),
            Must::Refuse(&[FRAME_SIZE]),
        ),
    ]);
    rows
}

fn blocks() -> Vec<Row> {
    use code::{COMPRESSION, PROTOCOL};
    let begun = |stream| headers(stream, END_STREAM, &request("GET", "/x", &[]));
    let raw = |bytes: &[u8]| frame(kind::HEADERS, WHOLE, 1, bytes);
    let rest = block(&[("x-a", "b")]);
    let ended: [(&str, Vec<u8>, &'static [u32]); 11] = [
        ("continuation_of_nothing", frame(kind::CONTINUATION, END_HEADERS, 1, &rest), &[PROTOCOL]),
        (
            "continuation_of_what_is_over",
            [get(1), frame(kind::CONTINUATION, END_HEADERS, 1, &rest)].concat(),
            &[PROTOCOL],
        ),
        (
            "continuation_on_another_stream",
            [begun(1), frame(kind::CONTINUATION, END_HEADERS, 3, &rest)].concat(),
            &[PROTOCOL],
        ),
        (
            "data_within_a_header_block",
            [begun(1), frame(kind::DATA, 0, 1, b"x")].concat(),
            &[PROTOCOL],
        ),
        ("headers_within_a_header_block", [begun(1), get(3)].concat(), &[PROTOCOL]),
        (
            "ping_within_a_header_block",
            [begun(1), frame(kind::PING, 0, 0, &[0; 8])].concat(),
            &[PROTOCOL],
        ),
        (
            "an_unknown_frame_within_a_header_block",
            [begun(1), frame(0x77, 0, 1, b"x")].concat(),
            &[PROTOCOL],
        ),
        ("an_index_of_zero", raw(&[0x80]), &[COMPRESSION]),
        ("an_index_beyond_the_table", raw(&[0xfe]), &[COMPRESSION]),
        ("a_string_longer_than_the_block", raw(&[0x00, 0x7e, b'a']), &[COMPRESSION]),
        ("a_table_larger_than_announced", raw(&[0x3f, 0xe1, 0xff, 0xff, 0x07]), &[COMPRESSION]),
    ];
    let mut rows: Vec<Row> =
        ended.map(|(name, bytes, codes)| row(name, bytes, Must::End(codes))).into();
    let fields = block(&request("GET", "/x", &[]));
    let (first, second) = fields.split_at(20);
    rows.push(row(
        "a_block_in_three_frames_is_read",
        [
            frame(kind::HEADERS, END_STREAM, 1, first),
            frame(kind::CONTINUATION, 0, 1, &[]),
            frame(kind::CONTINUATION, END_HEADERS, 1, second),
        ]
        .concat(),
        Must::Answer(200),
    ));
    let mut padded = vec![4];
    padded.extend(&fields);
    padded.extend([0; 4]);
    rows.push(row(
        "a_padded_block_is_read",
        frame(kind::HEADERS, WHOLE | PADDED, 1, &padded),
        Must::Answer(200),
    ));
    rows
}
