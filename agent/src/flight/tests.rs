//! The ring on a real file system.

use std::collections::BTreeSet;

use hearth_proto::advert::Keyless;
use hearth_proto::flight::Replay;
use hearth_proto::ids::{Generation, NodeName, ServiceName};
use hearth_proto::member::SwimConfig;
use hearth_proto::node::{Node, NodeConfig};
use hearth_proto::time::{Clock, Time};

use super::*;
use crate::disk::tests::Scratch;

fn recorder() -> Recorder {
    let config = NodeConfig {
        name: NodeName::parse("c1").unwrap(),
        generation: Generation(1),
        address: ([127, 0, 0, 1], 7940).into(),
        zone: String::new(),
        region: String::new(),
        swim: SwimConfig::default(),
        seed: 1,
        clock: Clock::default(),
        endpoints: Vec::new(),
        interest: BTreeSet::new(),
    };
    Recorder::new(Node::new(config, Box::new(Keyless), Time(0)))
}

fn writer(scratch: &Scratch, size: u64) -> Writer {
    Writer { directory: scratch.0.join(DIRECTORY), size, rotate: Arc::default(), file: None }
}

/// Steps of `node`, with a checkpoint wherever the writer asked for one.
fn fly(node: &mut Recorder, writer: &mut Writer, steps: std::ops::Range<u64>) {
    let service = ServiceName::parse("ledger").unwrap();
    for n in steps {
        node.handle_need(Time(n), &service);
        let batch: Vec<Entry> = std::iter::from_fn(|| node.poll_entry()).collect();
        writer.keep(&batch).unwrap();
        if writer.rotate.swap(false, Ordering::Relaxed) {
            node.ask_checkpoint();
        }
    }
}

#[test]
fn the_ring_keeps_its_bound_and_every_file_of_it_replays_by_itself() {
    let scratch = Scratch::new();
    let mut writer = writer(&scratch, 64 * 1024);
    fly(&mut recorder(), &mut writer, 0..20_000);
    let files = files(&writer.directory).unwrap();
    let total: u64 = files.iter().map(|f| fs::metadata(f).unwrap().len()).sum();
    assert!(files.len() > 3, "{files:?}");
    assert!(total <= 64 * 1024 + 1024, "{total} bytes");
    for file in &files {
        let recording = flight::read(&fs::read(file).unwrap()).unwrap();
        assert_eq!(recording.damage, None);
        let mut replay = Replay::new();
        for entry in recording.entries {
            replay.feed(entry).unwrap();
        }
        assert_eq!(replay.difference(), None);
        assert!(replay.steps() > 0);
    }
}

#[test]
fn a_restart_goes_on_behind_the_files_that_are_there() {
    let scratch = Scratch::new();
    for start in 1..=3 {
        fly(&mut recorder(), &mut writer(&scratch, 1 << 20), 0..10);
        assert_eq!(files(&scratch.0.join(DIRECTORY)).unwrap().len(), start);
    }
}

#[test]
fn a_disk_that_fails_ends_the_file_and_the_next_checkpoint_begins_another() {
    let scratch = Scratch::new();
    let mut node = recorder();
    let mut writer = writer(&scratch, 1 << 20);
    // A file stands where the directory should be.
    fs::write(&writer.directory, "").unwrap();
    node.handle_timeout(Time(1));
    let batch: Vec<Entry> = std::iter::from_fn(|| node.poll_entry()).collect();
    assert!(writer.keep(&batch).is_err());
    fs::remove_file(&writer.directory).unwrap();
    node.ask_checkpoint();
    fly(&mut node, &mut writer, 2..5);
    assert_eq!(files(&writer.directory).unwrap().len(), 1);
}

#[test]
fn a_full_queue_is_told_to_the_recording_and_stops_nobody() {
    let (to, from) = sync_channel(1);
    let mut flight = Flight::off();
    (flight.to, flight.resume) = (Some(to), Duration::ZERO);
    let mut node = recorder();
    let service = ServiceName::parse("ledger").unwrap();
    for n in 0..1_000 {
        node.handle_need(Time(n), &service);
        flight.take(&mut node);
    }
    assert!(flight.dropped().load(Ordering::Relaxed) > 800);
    drop(from.try_recv().unwrap());
    for n in 1_000..1_200 {
        node.handle_need(Time(n), &service);
        flight.take(&mut node);
    }
    let batch = from.try_recv().unwrap();
    let gap = batch.iter().position(|e| matches!(e, Entry::Gap { .. })).expect("a gap");
    assert!(matches!(batch[gap + 1], Entry::Checkpoint(_)));
}
