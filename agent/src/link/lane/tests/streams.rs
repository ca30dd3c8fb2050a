//! Streams: windows, ends in every order, bounds on what a peer can make us keep.

use std::task::Poll;

use super::super::frame::{self, Header, MAX_PAYLOAD};
use super::super::inflow::INITIAL_WINDOW;
use super::super::mux::{Happened, MAX_STREAMS, NotOpened, Violation};
use super::*;

const RESET: Poll<Result<Option<Bytes>, StreamError>> = Poll::Ready(Err(StreamError::Reset));

#[test]
fn a_stream_that_nobody_reads_takes_its_window_and_no_more() {
    let mut ends = Ends::new();
    let id = ends.stream();
    let body = vec![0; 4 * INITIAL_WINDOW];
    let mut sent = 1;
    for _ in 0..64 {
        sent += write_some(&mut ends.dialler, id, &body);
        ends.forth();
        ends.back();
    }
    assert_eq!(sent, INITIAL_WINDOW);
    // Half of it read: as much may follow.
    let mut got = 0;
    while got < INITIAL_WINDOW / 2 {
        let Poll::Ready(Ok(Some(chunk))) = read(&mut ends.acceptor, id) else { panic!("no chunk") };
        got += chunk.len();
    }
    ends.back();
    assert!(write_some(&mut ends.dialler, id, &body) > 0);
}

#[test]
fn the_window_of_a_reader_that_keeps_up_grows_to_its_limit_and_not_beyond() {
    let mut ends = Ends::new();
    let id = ends.stream();
    let body = vec![0; 1 << 20];
    for _ in 0..1000 {
        write_some(&mut ends.dialler, id, &body);
        ends.forth();
        drain(&mut ends.acceptor, id);
        ends.back();
    }
    // Now the reader stops: what still goes is the window.
    let mut window = 0;
    for _ in 0..200 {
        window += write_some(&mut ends.dialler, id, &body);
        ends.forth();
    }
    let limit = 4 * 1024 * 1024;
    assert!(window > limit / 2 && window <= limit, "{window}");
}

#[test]
fn windows_grow_out_of_one_budget_and_give_back_what_they_took() {
    let mut ends = Ends::new();
    let grow = |ends: &mut Ends| {
        let id = ends.stream();
        let body = vec![0; 1 << 20];
        let mut window = 0;
        for _ in 0..500 {
            write_some(&mut ends.dialler, id, &body);
            ends.forth();
            drain(&mut ends.acceptor, id);
            ends.back();
        }
        for _ in 0..100 {
            window += write_some(&mut ends.dialler, id, &body);
            ends.forth();
        }
        (id, window)
    };
    let mut ids = Vec::new();
    let grown: usize = (0..40)
        .map(|_| {
            let (id, window) = grow(&mut ends);
            ids.push(id);
            window
        })
        .sum();
    assert!(grown <= 40 * INITIAL_WINDOW + 64 * 1024 * 1024, "{grown} bytes are kept");
    assert!(grow(&mut ends).1 <= 2 * INITIAL_WINDOW, "nothing is left for one more");
    for id in ids {
        ends.acceptor.stop(id);
    }
    assert!(grow(&mut ends).1 > 2 * 1024 * 1024, "what was given back is used again");
}

#[test]
fn more_than_the_window_is_a_violation() {
    let mut ends = Ends::new();
    let id = ends.stream();
    let mut happened = Happened::default();
    let payload = vec![0; MAX_PAYLOAD];
    let header = Header { stream: id, length: payload.len(), kind: frame::DATA };
    let refused = (0..INITIAL_WINDOW / MAX_PAYLOAD + 1)
        .find_map(|_| ends.acceptor.receive(header, &payload, None, &mut happened).err());
    assert!(matches!(refused, Some(Violation(why)) if why.contains("window")), "{refused:?}");
}

#[test]
fn tiny_frames_cost_little_more_than_they_hold() {
    let mut ends = Ends::new();
    let id = ends.stream();
    let mut happened = Happened::default();
    let header = Header { stream: id, length: 1, kind: frame::DATA };
    for _ in 0..100_000 {
        ends.acceptor.receive(header, b"x", None, &mut happened).unwrap();
    }
    let mut chunks = 0;
    let mut bytes = 0;
    while let Poll::Ready(Ok(Some(chunk))) = read(&mut ends.acceptor, id) {
        chunks += 1;
        bytes += chunk.len();
    }
    assert_eq!(bytes, 100_000);
    assert!(chunks < 2000, "{chunks} chunks");
}

#[test]
fn an_end_that_is_said_comes_behind_all_bytes_and_only_then_the_stream_is_forgotten() {
    let mut ends = Ends::new();
    let id = ends.stream();
    write_some(&mut ends.dialler, id, b"last");
    ends.dialler.finish(id);
    ends.forth();
    assert_eq!(read(&mut ends.acceptor, id), Poll::Ready(Ok(Some(b"last".as_slice().into()))));
    assert_eq!(read(&mut ends.acceptor, id), Poll::Ready(Ok(None)));
    write_some(&mut ends.acceptor, id, b"answer");
    ends.acceptor.finish(id);
    assert_eq!(ends.acceptor.streams(), 0);
    ends.back();
    assert_eq!(drain(&mut ends.dialler, id), 6);
    assert_eq!(ends.dialler.streams(), 0);
}

#[test]
fn bytes_and_end_in_one_frame() {
    let mut ends = Ends::new();
    let id = ends.dialler.open().unwrap();
    let mut all = b"all of it".as_slice();
    assert!(ends.dialler.write(id, &mut all, true, Waker::noop()).is_ready());
    let mut records = Vec::new();
    ends.dialler.take_outbox(&mut records);
    let length = Records::length(&records).unwrap().unwrap();
    assert_eq!(length, records.len(), "one record");
    let frames: Vec<_> = Frames::new(&records[HEAD..length - TAIL]).map(Result::unwrap).collect();
    assert_eq!(frames[0].0.kind, frame::DATA | frame::OPEN | frame::FIN);
    assert_eq!(frames.len(), 1);
}

#[test]
fn a_sender_given_up_resets_and_what_was_not_read_is_lost() {
    let mut ends = Ends::new();
    let id = ends.stream();
    write_some(&mut ends.dialler, id, b"half of");
    ends.dialler.abandon(id);
    ends.forth();
    assert_eq!(read(&mut ends.acceptor, id), RESET);
    assert_eq!(read(&mut ends.acceptor, id), RESET, "and never turns into an end");
}

#[test]
fn a_receiver_given_up_stops_the_sender() {
    let mut ends = Ends::new();
    let id = ends.stream();
    assert_eq!(ends.dialler.stopped(id, Waker::noop()), Poll::Pending);
    ends.acceptor.stop(id);
    ends.back();
    assert_eq!(ends.dialler.stopped(id, Waker::noop()), Poll::Ready(true));
    assert_eq!(write(&mut ends.dialler, id, b"x"), Poll::Ready(Err(StreamError::Reset)));
}

#[test]
fn a_stream_that_finished_is_not_stopped_and_a_lost_one_neither() {
    let mut ends = Ends::new();
    let (a, b) = (ends.stream(), ends.stream());
    ends.dialler.finish(a);
    assert_eq!(ends.dialler.stopped(a, Waker::noop()), Poll::Ready(false));
    ends.dialler.fail("gone", &mut Vec::new());
    assert_eq!(ends.dialler.stopped(b, Waker::noop()), Poll::Ready(false));
    let lost = StreamError::Lost { why: "gone".into(), unseen: false };
    assert_eq!(read(&mut ends.dialler, b), Poll::Ready(Err(lost)));
}

#[test]
fn what_came_in_before_a_connection_broke_is_still_read() {
    let mut ends = Ends::new();
    let (whole, part) = (ends.stream(), ends.stream());
    for id in [whole, part] {
        write_some(&mut ends.acceptor, id, b"bytes");
    }
    ends.acceptor.finish(whole);
    ends.back();
    ends.dialler.fail("gone", &mut Vec::new());
    assert_eq!(drain(&mut ends.dialler, whole), 5);
    assert_eq!(drain(&mut ends.dialler, part), 5);
    assert!(matches!(read(&mut ends.dialler, part), Poll::Ready(Err(StreamError::Lost { .. }))));
}

#[test]
fn a_stream_dropped_before_its_first_byte_was_never_there() {
    let mut ends = Ends::new();
    let id = ends.dialler.open().unwrap();
    ends.dialler.abandon(id);
    assert_eq!(read(&mut ends.dialler, id), RESET, "nobody will answer");
    ends.dialler.stop(id);
    assert_eq!((ends.forth(), ends.dialler.streams()), (Vec::new(), 0));
}

#[test]
fn a_stream_whose_answer_nobody_wants_says_so_as_it_opens() {
    let mut ends = Ends::new();
    let id = ends.dialler.open().unwrap();
    ends.dialler.stop(id);
    write_some(&mut ends.dialler, id, b"do it");
    assert_eq!(ends.forth(), [Arrival::Opened(id)]);
    assert_eq!(ends.acceptor.stopped(id, Waker::noop()), Poll::Ready(true));
}

#[test]
fn late_frames_of_a_forgotten_stream_are_skipped() {
    let mut ends = Ends::new();
    let id = ends.stream();
    ends.acceptor.stop(id);
    ends.acceptor.abandon(id);
    assert_eq!(ends.acceptor.streams(), 0);
    // The dialler does not know yet.
    write_some(&mut ends.dialler, id, &[0; 100_000]);
    ends.dialler.finish(id);
    assert_eq!(ends.forth(), []);
    assert_eq!(ends.acceptor.streams(), 0, "late bytes open nothing");
    ends.back();
    assert_eq!(read(&mut ends.dialler, id), RESET);
}

/// Each half of a stream ends in one of its ways, in every order, with the frames in between carried over
/// or not: at the end nobody remembers the stream and nobody broke the protocol.
#[test]
fn ends_in_every_order_leave_nothing_behind() {
    type Step = fn(&mut Ends, u32);
    let dialler: [Step; 4] = [
        |e, id| e.dialler.finish(id),
        |e, id| e.dialler.abandon(id),
        |e, id| _ = write_some(&mut e.dialler, id, b"more"),
        |e, id| e.dialler.stop(id),
    ];
    let acceptor: [Step; 4] = [
        |e, id| e.acceptor.finish(id),
        |e, id| e.acceptor.abandon(id),
        |e, id| _ = write_some(&mut e.acceptor, id, b"more"),
        |e, id| e.acceptor.stop(id),
    ];
    let carries: [Step; 2] = [|e, _| drop(e.forth()), |e, _| drop(e.back())];
    let steps: Vec<Step> = [&dialler[..], &acceptor[..], &carries[..]].concat();
    let n = steps.len();
    for code in 0..n.pow(5) {
        let mut ends = Ends::new();
        let id = ends.stream();
        let mut rest = code;
        for _ in 0..5 {
            steps[rest % n](&mut ends, id);
            rest /= n;
        }
        for mux in [&mut ends.dialler, &mut ends.acceptor] {
            mux.abandon(id);
            mux.stop(id);
        }
        ends.forth();
        ends.back();
        ends.forth();
        assert_eq!((ends.dialler.streams(), ends.acceptor.streams()), (0, 0), "order {code}");
    }
}

#[test]
fn streams_beyond_the_limit_are_busy_here_and_refused_there() {
    let mut ends = Ends::new();
    for _ in 0..MAX_STREAMS {
        ends.dialler.open().unwrap();
    }
    assert_eq!(ends.dialler.open(), Err(NotOpened::Busy));
    // A peer that does not keep to it is refused stream by stream.
    let mut happened = Happened::default();
    for stream in 0..3000 {
        let header = Header { stream, length: 1, kind: frame::DATA | frame::OPEN };
        ends.acceptor.receive(header, b"x", None, &mut happened).unwrap();
    }
    assert_eq!(happened.arrivals.len(), MAX_STREAMS);
    assert_eq!(ends.acceptor.streams(), MAX_STREAMS);
}

#[test]
fn a_stream_that_the_peer_had_no_room_for_was_provably_not_seen() {
    let mut ends = Ends::new();
    for _ in 0..MAX_STREAMS {
        let id = ends.stream();
        ends.dialler.abandon(id);
        ends.dialler.stop(id);
    }
    ends.forth();
    // Its applications have not let go of them yet.
    assert_eq!((ends.dialler.streams(), ends.acceptor.streams()), (0, MAX_STREAMS));
    let id = ends.dialler.open().unwrap();
    assert_eq!(write(&mut ends.dialler, id, b"POST"), Poll::Ready(Ok(())));
    assert!(ends.forth().is_empty());
    ends.back();
    assert_eq!(read(&mut ends.dialler, id), Poll::Ready(Err(StreamError::Busy)));
    assert_eq!(write(&mut ends.dialler, id, b"more"), Poll::Ready(Err(StreamError::Busy)));
}

#[test]
fn a_peer_that_asks_and_never_reads_is_cut_off() {
    let mut ends = Ends::new();
    let mut happened = Happened::default();
    let mut refused = None;
    for stream in 0..1_000_000 {
        let header = Header { stream, length: 1, kind: frame::DATA | frame::OPEN };
        if let Err(violation) = ends.acceptor.receive(header, b"x", None, &mut happened) {
            refused = Some((stream, violation));
            break;
        }
    }
    let (stream, violation) = refused.expect("a bound");
    assert!(violation.0.contains("does not read"), "{violation}");
    assert!(stream < 300_000, "after {stream}");
}

#[test]
fn only_the_newest_of_many_pings_is_answered() {
    let mut ends = Ends::new();
    for number in 0..1000u64 {
        ends.dialler.say(frame::PING, &number.to_be_bytes());
    }
    ends.forth();
    assert_eq!(ends.back(), [Arrival::Pong(999)]);
}

#[test]
fn a_long_message_arrives_whole_and_one_that_never_ends_is_a_violation() {
    let mut ends = Ends::new();
    let message = vec![7; 100_000];
    assert!(ends.dialler.say_message(&message));
    assert_eq!(ends.forth(), [Arrival::Message(message.into())]);
    let mut happened = Happened::default();
    let header = Header { stream: 0, length: MAX_PAYLOAD, kind: frame::MESSAGE_MORE };
    let part = vec![0; MAX_PAYLOAD];
    let parts = hearth_proto::wire::MAX_MESSAGE / MAX_PAYLOAD + 2;
    assert!(
        (0..parts).any(|_| ends.acceptor.receive(header, &part, None, &mut happened).is_err()),
        "no bound"
    );
}

#[test]
fn kinds_of_a_later_version_are_skipped() {
    let mut ends = Ends::new();
    ends.dialler.say(200, b"whatever");
    assert_eq!(ends.forth(), []);
}

#[test]
fn a_retired_lane_opens_nothing_more_and_serves_what_there_is() {
    let mut ends = Ends::new();
    let id = ends.stream();
    ends.dialler.retire();
    assert_eq!(ends.dialler.open(), Err(NotOpened::Over));
    assert_eq!(write(&mut ends.dialler, id, b"x"), Poll::Ready(Ok(())));
}
