//! The state directory on a real file system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use hearth_proto::ids::{EndpointId, NodeName, ServiceName, Version};
use hearth_proto::time::Wall;

use super::*;

/// A directory of its own for each test, removed with the value.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let n = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("hearth-agent-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn open(scratch: &Scratch) -> StateDir {
    StateDir::open(&scratch.0.join("state")).unwrap()
}

fn at(ms: u64) -> WallClock {
    WallClock::new(move || Wall(ms * 1_000))
}

fn advert(n: usize) -> SignedAdvert {
    SignedAdvert {
        node: NodeName::parse(&format!("web-{n}")).unwrap(),
        version: Version::default(),
        body: vec![7; 16 * 1024].into(),
        certificate: vec![8; 600].into(),
        signature: vec![9; 70].into(),
    }
}

#[test]
fn a_generation_grows_with_each_start_even_when_the_clock_runs_backwards() {
    let scratch = Scratch::new();
    let state = open(&scratch);
    let zero = Generation(0);
    assert_eq!(state.next_generation(&at(5_000), zero).unwrap(), Generation(5_000));
    assert_eq!(state.next_generation(&at(4_000), zero).unwrap(), Generation(5_001));
    assert_eq!(state.next_generation(&at(4_000), Generation(9_000)).unwrap(), Generation(9_001));
    assert_eq!(fs::read_to_string(state.path().join("generation")).unwrap(), "9001\n");
}

#[test]
fn a_damaged_generation_is_set_aside_and_the_clock_takes_over() {
    let scratch = Scratch::new();
    let state = open(&scratch);
    fs::write(state.path().join("generation"), "12x").unwrap();
    assert_eq!(state.next_generation(&at(77), Generation(0)).unwrap(), Generation(77));
    assert_eq!(fs::read_to_string(state.path().join("generation.damaged-1")).unwrap(), "12x");
}

#[test]
fn a_table_larger_than_one_wire_message_survives_the_disk() {
    let scratch = Scratch::new();
    let state = open(&scratch);
    assert!(state.load_table().is_empty());
    let table: Vec<_> = (0..301).map(advert).collect();
    state.save_table(&table).unwrap();
    let size = fs::metadata(state.path().join("table.bin")).unwrap().len();
    assert!(size > hearth_proto::wire::MAX_MESSAGE as u64, "{size} is no test of the frames");
    assert!(state.load_table() == table);
    state.save_table(&[]).unwrap();
    assert!(state.load_table().is_empty());
}

#[test]
fn what_activations_took_survives_the_disk() {
    let scratch = Scratch::new();
    let state = open(&scratch);
    assert!(state.load_activations().is_empty());
    let endpoint = EndpointId {
        service: ServiceName::parse("ledger").unwrap(),
        node: NodeName::parse("web-1").unwrap(),
        instance: 0,
    };
    let mut activations = Activations::default();
    activations.succeeded(std::time::Duration::from_millis(250));
    activations.gave_up();
    let known = BTreeMap::from([(endpoint, activations)]);
    state.save_activations(known.clone()).unwrap();
    assert_eq!(state.load_activations(), known);
}

#[test]
fn a_damaged_table_is_set_aside_and_counts_as_missing() {
    let scratch = Scratch::new();
    let state = open(&scratch);
    let path = state.path().join("table.bin");
    state.save_table(&[advert(1)]).unwrap();
    let good = fs::read(&path).unwrap();
    let flipped: Vec<u8> =
        good.iter().enumerate().map(|(i, b)| if i == 900 { b ^ 1 } else { *b }).collect();
    for (n, bad) in [&good[..good.len() - 1], &flipped, b"", b"hearth\0\x02"].iter().enumerate() {
        fs::write(&path, bad).unwrap();
        assert!(state.load_table().is_empty());
        assert!(!path.exists());
        let aside = state.path().join(format!("table.bin.damaged-{}", n + 1));
        assert_eq!(fs::read(aside).unwrap(), *bad);
    }
}

#[test]
fn a_fault_that_repeats_does_not_fill_the_disk() {
    let scratch = Scratch::new();
    let state = open(&scratch);
    for _ in 0..30 {
        fs::write(state.path().join("documents.bin"), "x").unwrap();
        assert!(state.load_documents().is_empty());
    }
    let kept = fs::read_dir(state.path()).unwrap().flatten();
    assert_eq!(kept.filter(|e| e.file_name().to_string_lossy().contains("damaged")).count(), 9);
}

#[test]
fn two_agents_on_one_directory_are_refused_by_name() {
    let scratch = Scratch::new();
    let first = open(&scratch);
    let error = StateDir::open(first.path()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "another agent (process {}) already runs on the state directory {}\n  hint: stop it, or \
             give this one a state_dir of its own",
            std::process::id(),
            first.path().display()
        )
    );
    drop(first);
    open(&scratch);
}

#[test]
fn a_directory_that_others_may_use_is_refused_with_the_command_that_mends_it() {
    let scratch = Scratch::new();
    let path = scratch.0.join("wide");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let p = path.display();
    assert_eq!(
        StateDir::open(&path).unwrap_err().to_string(),
        format!(
            "the state directory {p} may be used by others than its owner (mode 0755)\n  hint: chmod \
             0700 {p}"
        )
    );
}

#[test]
fn files_are_private_and_a_failed_write_leaves_the_old_content_and_no_litter() {
    let scratch = Scratch::new();
    let state = open(&scratch);
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
    state.save_documents(&[]).unwrap();
    assert_eq!(mode(&state.path().join("documents.bin")), 0o600);
    assert_eq!(mode(state.path()), 0o700);
    // A directory in the file's place makes the rename fail after the temporary file was written.
    fs::create_dir(state.path().join("table.bin")).unwrap();
    assert!(state.save_table(&[advert(1)]).is_err());
    let names: Vec<_> = fs::read_dir(state.path())
        .unwrap()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| n.contains("tmp"))
        .collect();
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn leftovers_of_a_crash_are_removed_at_the_next_start() {
    let scratch = Scratch::new();
    drop(open(&scratch));
    let leftover = scratch.0.join("state/.hearth-tmp-1-1");
    fs::write(&leftover, "half").unwrap();
    open(&scratch);
    assert!(!leftover.exists());
}

#[test]
fn a_full_disk_says_so_and_what_it_means() {
    let error = DiskError::new(
        "write",
        Path::new("/var/lib/hearth/table.bin"),
        io::Error::from_raw_os_error(libc::ENOSPC),
    );
    assert!(error.is_full());
    assert_eq!(
        error.to_string(),
        "cannot write /var/lib/hearth/table.bin: No space left on device (os error 28)\n  hint: free \
         some space; the agent goes on serving, but would restart with what was last written"
    );
}
