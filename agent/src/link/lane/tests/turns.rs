//! Who fills the outbox when many want to.

use super::super::frame::{Frames, HEADER};
use super::super::turns::LIMIT;
use super::*;

/// What each stream got into what was just sent.
fn shares(mux: &mut Mux, streams: usize) -> Vec<usize> {
    let mut records = Vec::new();
    mux.take_outbox(&mut records);
    let mut shares = vec![0; streams];
    let mut rest = &records[..];
    while let Some(length) = Records::length(rest).unwrap() {
        for frame in Frames::new(&rest[HEAD..length - TAIL]) {
            let (header, _) = frame.unwrap();
            shares[header.stream as usize - 1] += header.length;
        }
        rest = &rest[length..];
    }
    shares
}

#[test]
fn one_stream_fills_the_outbox_and_waits() {
    let mut mux = Mux::new(End::Dialled, Arc::default());
    let id = mux.open().unwrap();
    let sent = write_some(&mut mux, id, &vec![0; 1 << 20]);
    assert!((LIMIT..LIMIT + 20_000).contains(&(sent + HEADER)) || sent <= LIMIT, "{sent}");
    assert!(mux.outbox.len() <= LIMIT + 4096, "{}", mux.outbox.len());
}

#[test]
fn streams_that_compete_get_equal_shares() {
    const STREAMS: usize = 40;
    let mut mux = Mux::new(End::Dialled, Arc::default());
    let ids: Vec<u32> = (0..STREAMS).map(|_| mux.open().unwrap()).collect();
    let body = vec![0; 1 << 20];
    let mut got = vec![0; STREAMS];
    for _ in 0..60 {
        // Woken in any order: here always the first ones first.
        for &id in &ids {
            write_some(&mut mux, id, &body);
        }
        for (sum, share) in got.iter_mut().zip(shares(&mut mux, STREAMS)) {
            *sum += share;
        }
        mux.grant(&mut Vec::new());
    }
    let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
    assert!(*least > 100_000, "{got:?}");
    assert!(most - least <= LIMIT, "{got:?}");
}

#[test]
fn a_small_write_does_not_wait_behind_large_ones() {
    let mut mux = Mux::new(End::Dialled, Arc::default());
    let (large, waiting, small) = (mux.open().unwrap(), mux.open().unwrap(), mux.open().unwrap());
    let body = vec![0; 1 << 20];
    write_some(&mut mux, large, &body);
    assert_eq!(write_some(&mut mux, waiting, &body), 0);
    assert_eq!(write(&mut mux, small, &[0; 1000]), Poll::Ready(Ok(())));
}

#[test]
fn many_small_writes_have_a_bound_too() {
    let mut mux = Mux::new(End::Dialled, Arc::default());
    for _ in 0..1024 {
        let id = mux.open().unwrap();
        let _ = write(&mut mux, id, &[0; 4096]);
    }
    assert!(mux.outbox.len() < 3 * LIMIT, "{}", mux.outbox.len());
}

#[test]
fn writers_that_no_longer_want_their_turn_hold_nobody_up() {
    let mut mux = Mux::new(End::Dialled, Arc::default());
    let body = vec![0; 1 << 20];
    let first = mux.open().unwrap();
    write_some(&mut mux, first, &body);
    let ghosts: Vec<u32> = (0..50).map(|_| mux.open().unwrap()).collect();
    for &id in &ghosts {
        write_some(&mut mux, id, &body);
    }
    let wanting = mux.open().unwrap();
    write_some(&mut mux, wanting, &body);
    // Half of those before it are gone, the others just never poll again.
    ghosts[..25].iter().for_each(|id| mux.abandon(*id));
    let mut turns = 0;
    while write_some(&mut mux, wanting, &body) == 0 {
        mux.take_outbox(&mut Vec::new());
        mux.grant(&mut Vec::new());
        turns += 1;
        assert!(turns < 20, "it never gets its turn");
    }
}
