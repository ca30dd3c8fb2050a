//! Floods: what costs a client little must not cost an agent much. Each ends with the connection closed or
//! all of it served, the agent serving others, and its memory within [`ROOM`] of what it was.

use hearth_tests::conformance::case::Lane;
use hearth_tests::conformance::h2::{
    END_HEADERS, END_STREAM, PREFACE, Session, WHOLE, block, code, frame, headers, kind, request,
    settings, window,
};

use super::Told;
use crate::world::{forget_peaks, peaks, resident};

/// Memory that one connection's misuse may cost: its buffers, 256 streams' worth of heads (64 KiB each), and
/// what an allocator keeps.
const ROOM: u64 = 48 << 20;

pub(super) fn told() -> Vec<(&'static str, Told)> {
    vec![
        ("a_hundred_thousand_settings", a_hundred_thousand_settings),
        ("a_hundred_thousand_pings", a_hundred_thousand_pings),
        ("ten_thousand_streams_reset_at_once", ten_thousand_streams_reset_at_once),
        ("a_hundred_thousand_empty_continuations", a_hundred_thousand_empty_continuations),
        ("a_header_block_of_8_mib", a_header_block_of_8_mib),
        ("a_table_entry_named_ten_thousand_times", a_table_entry_named_ten_thousand_times),
        ("a_hundred_thousand_empty_data", a_hundred_thousand_empty_data),
        ("a_hundred_thousand_priorities", a_hundred_thousand_priorities),
        ("window_updates_of_one", window_updates_of_one),
        ("a_thousand_connections_that_say_only_the_preface", a_thousand_prefaces),
    ]
}

/// Writes it all, whether or not it is taken, and looks at the memory.
fn flood(lane: &Lane, what: &str, begin: &[u8], piece: &[u8], times: usize) -> Result<(), String> {
    let before = memory()?;
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(begin);
    let many = piece.repeat(times.min(1_000));
    for _ in 0..times.div_ceil(1_000) {
        if session.send(&many).is_err() {
            break; // Refused: as it should be.
        }
    }
    lane.serves()?;
    bounded(what, before)
}

/// What the agents hold now; the most they hold is counted from here on.
fn memory() -> Result<[u64; 2], String> {
    forget_peaks()?;
    resident()
}

fn bounded(what: &str, before: [u64; 2]) -> Result<(), String> {
    let after = peaks()?;
    for (name, before, after) in [("caller", before[0], after[0]), ("owner", before[1], after[1])] {
        let grown = after.saturating_sub(before);
        println!("{what}: the {name}'s memory {} → at most {} KiB", before >> 10, after >> 10);
        if grown > ROOM {
            return Err(format!("{what}: the {name} grew by {} MiB", grown >> 20));
        }
    }
    Ok(())
}

fn a_hundred_thousand_settings(lane: &Lane) -> Result<(), String> {
    flood(lane, "settings", &[], &settings(&[(3, 100)]), 100_000)
}

fn a_hundred_thousand_pings(lane: &Lane) -> Result<(), String> {
    flood(lane, "pings", &[], &frame(kind::PING, 0, 0, &[0; 8]), 100_000)
}

fn a_hundred_thousand_priorities(lane: &Lane) -> Result<(), String> {
    flood(lane, "priorities", &[], &frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 9]), 100_000)
}

fn a_hundred_thousand_empty_data(lane: &Lane) -> Result<(), String> {
    let open = headers(1, END_HEADERS, &request("POST", "/x", &[]));
    flood(lane, "empty DATA", &open, &frame(kind::DATA, 0, 1, &[]), 100_000)
}

fn window_updates_of_one(lane: &Lane) -> Result<(), String> {
    flood(lane, "window updates", &[], &window(0, 1), 100_000)
}

fn a_hundred_thousand_empty_continuations(lane: &Lane) -> Result<(), String> {
    let open = headers(1, END_STREAM, &request("GET", "/x", &[]));
    let before = memory()?;
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&open);
    let many = frame(kind::CONTINUATION, 0, 1, &[]).repeat(1_000);
    for _ in 0..100 {
        if session.send(&many).is_err() {
            break;
        }
    }
    super::ended(&session, &[code::PROTOCOL, code::ENHANCE_YOUR_CALM, code::COMPRESSION])?;
    lane.serves()?;
    bounded("empty CONTINUATION", before)
}

fn a_header_block_of_8_mib(lane: &Lane) -> Result<(), String> {
    let before = memory()?;
    let mut session = Session::open(lane.entry, &[])?;
    let _ = session.send(&headers(1, END_STREAM, &request("GET", "/x", &[])));
    let value = "a".repeat(16_000);
    let piece = frame(kind::CONTINUATION, 0, 1, &block(&[("x-a", &value)]));
    for _ in 0..512 {
        if session.send(&piece).is_err() {
            break;
        }
    }
    let _ = session.send(&frame(kind::CONTINUATION, END_HEADERS, 1, &[]));
    super::refused(
        &session,
        1,
        &[
            code::PROTOCOL,
            code::ENHANCE_YOUR_CALM,
            code::COMPRESSION,
            code::FRAME_SIZE,
            code::REFUSED_STREAM,
            code::CANCEL,
        ],
    )?;
    nothing_arrived(lane)?;
    lane.serves()?;
    bounded("8 MiB of header block", before)
}

/// An entry of 4,000 bytes in the table of the receiver, then named by one byte each.
fn a_table_entry_named_ten_thousand_times(lane: &Lane) -> Result<(), String> {
    let before = memory()?;
    let mut session = Session::open(lane.entry, &[])?;
    let value = "a".repeat(4_000);
    let mut fields = block(&request("GET", "/x", &[]));
    let mut entry = block(&[("x-a", &value)]);
    entry[0] = 0x40; // With incremental indexing.
    fields.extend(entry);
    fields.extend([0xbe; 10_000]); // Index 62, the newest entry.
    let _ = session.send(&frame(kind::HEADERS, WHOLE, 1, &fields));
    super::refused(
        &session,
        1,
        &[
            code::PROTOCOL,
            code::ENHANCE_YOUR_CALM,
            code::COMPRESSION,
            code::REFUSED_STREAM,
            code::CANCEL,
        ],
    )?;
    nothing_arrived(lane)?;
    lane.serves()?;
    bounded("a header bomb", before)
}

fn nothing_arrived(lane: &Lane) -> Result<(), String> {
    match lane.app.take().0.len() {
        0 => Ok(()),
        n => Err(format!("the application got {n} requests")),
    }
}

fn ten_thousand_streams_reset_at_once(lane: &Lane) -> Result<(), String> {
    let before = memory()?;
    let mut session = Session::open(lane.entry, &[])?;
    let reset = code::CANCEL.to_be_bytes();
    for n in 0..10_000 {
        let stream = 2 * n + 1;
        let both = [
            headers(stream, WHOLE, &request("GET", "/x", &[])),
            frame(kind::RST_STREAM, 0, stream, &reset),
        ];
        if session.send(&both.concat()).is_err() {
            break;
        }
    }
    lane.serves()?;
    let arrived = lane.app.take().0.len();
    println!("ten thousand streams reset at once: {arrived} reached the application");
    bounded("streams reset at once", before)
}

fn a_thousand_prefaces(lane: &Lane) -> Result<(), String> {
    let before = memory()?;
    let mut sessions = Vec::new();
    for _ in 0..1_000 {
        let mut session = Session::silent(lane.entry)?;
        let _ = session.send(PREFACE);
        sessions.push(session);
    }
    lane.serves()?;
    bounded("a thousand prefaces", before)
}
