//! Framing: what is laid out is read back; what is not is refused and never a panic.

use proptest::prelude::*;

use super::super::frame::{self, Frames, Header, MAX_PAYLOAD, MAX_RECORD, Torn};
use super::super::mux::{End, Happened, Mux};
use super::super::outbox::Outbox;
use super::super::record::{HEAD, Records, TAIL};

/// The frames that an outbox holds, with the size of the record that each is in.
fn laid_out(outbox: &mut Outbox) -> Vec<(Header, Vec<u8>, usize)> {
    let mut records = Vec::new();
    outbox.take(&mut records);
    let mut found = Vec::new();
    let mut rest = &records[..];
    while let Some(length) = Records::length(rest).unwrap() {
        let plain = &rest[HEAD..length - TAIL];
        assert_eq!(rest[length - TAIL], 23, "the content type stands behind the plaintext");
        for frame in Frames::new(plain) {
            let (header, at) = frame.unwrap();
            found.push((header, plain[at..at + header.length].to_vec(), plain.len()));
        }
        rest = &rest[length..];
    }
    assert!(rest.is_empty());
    found
}

#[test]
fn small_frames_share_a_record_and_none_spans_two() {
    let mut outbox = Outbox::default();
    for stream in 0..100 {
        outbox.frame(stream, frame::DATA, &[1; 300]);
    }
    let frames = laid_out(&mut outbox);
    assert_eq!(frames.len(), 100);
    assert!(
        frames.iter().all(|(_, payload, record)| payload.len() == 300 && *record <= MAX_RECORD)
    );
    assert!(frames[0].2 > 16_000, "many fit into one");
}

#[test]
fn a_large_payload_is_cut_to_what_a_record_takes_and_slivers_are_avoided() {
    let mut outbox = Outbox::default();
    outbox.frame(1, frame::DATA, &[0; MAX_PAYLOAD - 500]);
    // 500 bytes less a header are left: too few for a large payload, enough for a small one.
    assert_eq!(outbox.next_piece(100_000), MAX_PAYLOAD);
    assert_eq!(outbox.next_piece(400), 400);
    outbox.frame(1, frame::DATA, &[0; 400]);
    assert_eq!(laid_out(&mut outbox).len(), 2);
}

#[test]
fn a_record_that_does_not_end_with_a_frame_is_torn() {
    let header = Header { stream: 1, length: 5, kind: frame::DATA }.bytes();
    assert_eq!(Frames::new(&header).next(), Some(Err(Torn)));
    assert_eq!(Frames::new(&header[..7]).next(), Some(Err(Torn)));
    let mut torn = Frames::new(&header);
    torn.next();
    assert_eq!(torn.next(), None, "once is enough");
}

proptest! {
    #[test]
    fn what_is_laid_out_is_read_back(
        frames in prop::collection::vec((any::<u32>(), 0u8..14, 0usize..MAX_PAYLOAD), 0..40)
    ) {
        let mut outbox = Outbox::default();
        for (i, (stream, kind, length)) in frames.iter().enumerate() {
            outbox.frame(*stream, *kind, &vec![i as u8; *length]);
        }
        let read = laid_out(&mut outbox);
        prop_assert_eq!(read.len(), frames.len());
        for (i, ((stream, kind, length), (header, payload, _))) in frames.iter().zip(&read).enumerate() {
            let wanted = Header { stream: *stream, length: *length, kind: *kind };
            prop_assert_eq!(wanted, *header);
            prop_assert!(payload.iter().all(|b| *b == i as u8));
        }
    }

    #[test]
    fn any_plaintext_is_frames_or_torn_and_any_frames_are_taken_or_a_violation(
        plain in prop::collection::vec(any::<u8>(), 0..2000),
        dialled in any::<bool>(),
    ) {
        let end = if dialled { End::Dialled } else { End::Accepted };
        let mut mux = Mux::new(end, std::sync::Arc::default());
        if dialled {
            for _ in 0..4 {
                mux.open().unwrap();
            }
        }
        let mut happened = Happened::default();
        for frame in Frames::new(&plain) {
            let Ok((header, at)) = frame else { break };
            let payload = &plain[at..at + header.length];
            if mux.receive(header, payload, None, &mut happened).is_err() {
                break;
            }
        }
    }

    #[test]
    fn plausible_frames_in_any_order_are_taken_or_a_violation(
        frames in prop::collection::vec(
            (0u32..6, 0u8..16, prop::collection::vec(any::<u8>(), 0..12)), 0..200,
        ),
        dialled in any::<bool>(),
    ) {
        let end = if dialled { End::Dialled } else { End::Accepted };
        let mut mux = Mux::new(end, std::sync::Arc::default());
        let ids: Vec<u32> = if dialled { (0..4).map(|_| mux.open().unwrap()).collect() } else { vec![1, 2] };
        let mut happened = Happened::default();
        for (i, (stream, kind, payload)) in frames.into_iter().enumerate() {
            let header = Header { stream, length: payload.len(), kind };
            if mux.receive(header, &payload, None, &mut happened).is_err() {
                break;
            }
            let id = ids[i % ids.len()];
            match i % 5 {
                0 => drop(super::read(&mut mux, id)),
                1 => drop(super::write(&mut mux, id, b"abc")),
                2 => mux.finish(id),
                3 => mux.stop(id),
                _ => mux.abandon(id),
            }
        }
    }
}
