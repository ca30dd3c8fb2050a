//! A recording from the recorder itself, read from files, directories and bundles, and laid out.

use std::collections::BTreeSet;

use flate2::Compression;
use flate2::write::GzEncoder;
use hearth_proto::advert::traits::CheckKind;
use hearth_proto::advert::{Keyless, Protocol, Role};
use hearth_proto::flight::Recorder;
use hearth_proto::ids::{EndpointId, Generation, ServiceName};
use hearth_proto::lifecycle::Activation;
use hearth_proto::member::SwimConfig;
use hearth_proto::node::{EndpointConfig, LinkInput, Node, NodeConfig};
use hearth_proto::time::Time;
use hearth_proto::wire::Hello;

use super::*;
use crate::cli::table::Style;

const BEGIN: u64 = 1_795_426_568_000_000;

fn entries() -> Vec<Entry> {
    let name = |n: &str| NodeName::parse(n).unwrap();
    let endpoint = EndpointConfig {
        id: EndpointId {
            service: ServiceName::parse("ledger").unwrap(),
            node: name("c1"),
            instance: 0,
        },
        role: Role::Hot,
        protocol: Protocol::Http,
        activation: Activation { deadline: Duration::from_secs(10), attempts: 1, warm_up: false },
        weight: 100,
        check: CheckKind::Http,
        hook: false,
    };
    let config = NodeConfig {
        name: name("c1"),
        generation: Generation(1),
        address: ([127, 0, 0, 1], 7940).into(),
        zone: String::new(),
        region: String::new(),
        swim: SwimConfig::default(),
        seed: 1,
        clock: Clock { origin: Wall(BEGIN) },
        endpoints: vec![endpoint.clone()],
        interest: BTreeSet::from([ServiceName::parse("ledger").unwrap()]),
    };
    let mut node = Recorder::new(Node::new(config, Box::new(Keyless), Time(0)));
    let hello = Hello {
        generation: Generation(1),
        address: ([127, 0, 0, 2], 7940).into(),
        protocol: (1, 1),
    };
    for second in 1..=10 {
        let now = Time(second * 1_000_000);
        node.handle_link(now, &name("h1"), LinkInput::Up(hello.clone()));
        node.handle_need(now, &ServiceName::parse("ledger").unwrap());
        node.handle_health(now, &endpoint.id, second % 2 == 1);
    }
    std::iter::from_fn(|| node.poll_entry()).collect()
}

fn file(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = flight::header();
    for batch in entries.chunks(5) {
        bytes.extend(flight::frame(batch).unwrap());
    }
    bytes
}

/// A directory that goes with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("hearth-replay-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn page() -> Page {
    Page { style: Style { width: 100, colour: false }, now: Wall(BEGIN) }
}

#[test]
fn a_file_a_directory_and_a_bundle_replay_alike() {
    let scratch = Scratch::new("alike");
    let bytes = file(&entries());
    let one = scratch.0.join("0000000001.flight");
    std::fs::write(&one, &bytes).unwrap();
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, "hearth-c1/flight/0000000001.flight", &bytes[..]).unwrap();
    let packed = scratch.0.join("bundle.tar.gz");
    std::fs::write(&packed, tar.into_inner().unwrap().finish().unwrap()).unwrap();
    for path in [&one, &scratch.0, &packed] {
        let outcome = run(path, None).unwrap();
        assert!(outcome.identical, "{:?}", outcome.difference);
        assert_eq!(outcome.steps, 30, "{}", path.display());
        let text = text(&outcome, page());
        assert!(text.contains("identical: the replay decided what was recorded"), "{text}");
        assert!(text.contains("2026-11-23 09:36:09.000000Z  "), "{text}");
    }
}

#[test]
fn at_a_moment_the_replay_stops_and_shows_how_things_stood() {
    let outcome = replay(entries(), Vec::new(), Some(Moment::AfterBegin(Duration::from_secs(4))));
    let outcome = outcome.unwrap();
    let picture = outcome.at.as_ref().unwrap();
    assert_eq!(picture.at, Wall(BEGIN + 5_000_000), "four seconds after the first step");
    assert_eq!(outcome.steps, 15);
    let text = text(&outcome, page());
    for part in ["at 2026-11-23 09:36:13", "NODE", "SERVICE", "ledger"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn the_first_difference_is_shown_with_both_sides() {
    let mut entries = entries();
    let Some(Entry::Step(step)) =
        entries.iter_mut().find(|e| matches!(e, Entry::Step(s) if !s.decided.is_empty()))
    else {
        panic!("nothing was decided");
    };
    step.decided = vec!["route ledger: elsewhere".to_owned()];
    let outcome = replay(entries, Vec::new(), None).unwrap();
    assert!(!outcome.identical);
    let text = text(&outcome, page());
    assert!(text.contains("DIFFERS at "), "{text}");
    assert!(text.contains("recorded:\n    route ledger: elsewhere"), "{text}");
}

#[test]
fn a_damaged_tail_is_told_and_what_is_whole_replays() {
    let scratch = Scratch::new("tail");
    let bytes = file(&entries());
    std::fs::write(scratch.0.join("1.flight"), &bytes[..bytes.len() - 3]).unwrap();
    let outcome = run(&scratch.0, None).unwrap();
    assert!(outcome.identical && outcome.steps > 20);
    assert!(outcome.damaged[0].contains("it ends within a frame"), "{:?}", outcome.damaged);
}

#[test]
fn what_is_no_recording_is_refused_with_what_to_do() {
    let scratch = Scratch::new("none");
    let empty = run(&scratch.0, None).unwrap_err();
    assert!(empty.hint.contains("[flight]"), "{empty}");
    let other = scratch.0.join("x.flight");
    std::fs::write(&other, "text").unwrap();
    assert!(run(&other, None).unwrap_err().what.contains("no recording"));
    let missing = run(&scratch.0.join("missing"), None).unwrap_err();
    assert_eq!(missing.exit, Exit::NoInput);
}

#[test]
fn a_moment_is_read_in_each_of_its_forms() {
    assert_eq!(Moment::parse("+1.5s"), Ok(Moment::AfterBegin(Duration::from_millis(1500))));
    assert_eq!(Moment::parse("-30s"), Ok(Moment::BeforeEnd(Duration::from_secs(30))));
    assert_eq!(Moment::parse("2026-11-23 09:36:08Z"), Ok(Moment::At(Wall(1_795_426_568_000_000))));
    assert!(Moment::parse("yesterday").is_err());
}
