use std::path::PathBuf;
use std::sync::Arc;

use hearth_proto::ids::NodeName;

use super::*;
use crate::token;

/// A directory of this test's own, gone when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hearth-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn store(&self) -> Embedded {
        Embedded::open(&self.0.join("store.redb")).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn certificate(serial: &str, name: &str, at: u64) -> CertificateRecord {
    CertificateRecord {
        serial: serial.into(),
        node: node(name),
        issued: Wall(at),
        expires: Wall(at + 86_400_000_000),
        cause: "join".into(),
        from: "192.0.2.1".into(),
    }
}

fn join_token(store: &Embedded, name: &str, expires: u64) -> SecretHash {
    let (_, hash) = token::new_join_token(&[1; 32]).unwrap();
    let record = TokenRecord {
        node: node(name),
        created: Wall(0),
        by: "admin".into(),
        expires: Wall(expires),
        used: None,
    };
    store.add_token(&hash, &record).unwrap();
    hash
}

fn document(version: u64) -> SignedDocument {
    SignedDocument {
        signer: node("control-1"),
        kind: DocumentKind::Policy,
        version,
        body: vec![1, 2, 3].into(),
        certificate: vec![].into(),
        signature: vec![].into(),
    }
}

fn entry(version: u64) -> PolicyVersion {
    let text = format!("# version {version}\n");
    PolicyVersion { version, issued: Wall(version), by: "admin".into(), text }
}

#[test]
fn a_token_is_spent_once_and_a_refusal_leaves_no_trace() {
    let scratch = Scratch::new("spend");
    let store = scratch.store();
    let hash = join_token(&store, "web-1", 100);
    let reason = |r: Result<(), SpendError>| match r {
        Err(SpendError::Refused(refused)) => refused.reason(),
        other => panic!("{other:?}"),
    };

    assert_eq!(
        reason(store.spend(&hash, &certificate("01", "web-2", 1), None)),
        "token_other_name"
    );
    assert_eq!(reason(store.spend(&hash, &certificate("02", "web-1", 100), None)), "token_expired");
    assert!(store.certificates().unwrap().is_empty(), "a refused join left a certificate");
    assert_eq!(store.token(&hash).unwrap().unwrap().used, None, "a refusal spent the token");

    store.spend(&hash, &certificate("03", "web-1", 2), None).unwrap();
    assert_eq!(reason(store.spend(&hash, &certificate("04", "web-1", 3), None)), "token_replayed");
    let serials: Vec<_> = store.certificates().unwrap().into_iter().map(|c| c.serial).collect();
    assert_eq!(serials, ["03"]);

    let (_, unknown) = token::new_join_token(&[1; 32]).unwrap();
    assert_eq!(
        reason(store.spend(&unknown, &certificate("05", "web-1", 3), None)),
        "token_unknown"
    );
}

#[test]
fn of_many_that_spend_one_token_at_once_one_succeeds() {
    let scratch = Scratch::new("race");
    let store = Arc::new(scratch.store());
    let hash = join_token(&store, "web-1", 100);
    let won: usize = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..8)
            .map(|i| {
                let store = store.clone();
                scope.spawn(move || {
                    store.spend(&hash, &certificate(&format!("{i}"), "web-1", 1), None).is_ok()
                })
            })
            .collect();
        tries.into_iter().filter(|_| true).map(|t| usize::from(t.join().unwrap())).sum()
    });
    assert_eq!(won, 1);
    assert_eq!(store.certificates().unwrap().len(), 1);
}

#[test]
fn the_history_survives_a_restart_newest_first_and_versions_only_grow() {
    let scratch = Scratch::new("history");
    {
        let store = scratch.store();
        for version in [1, 2, 5] {
            store.put_document(&document(version), Some(&entry(version))).unwrap();
        }
        for stale in [5, 4] {
            let refused = store.put_document(&document(stale), Some(&entry(stale)));
            assert!(matches!(refused, Err(StoreError::NotNewer { present: 5, .. })), "{refused:?}");
        }
    }
    let store = scratch.store();
    let versions: Vec<u64> = store.policies().unwrap().iter().map(|p| p.version).collect();
    assert_eq!(versions, [5, 2, 1]);
    assert_eq!(store.policy(None).unwrap().unwrap().text, "# version 5\n");
    assert_eq!(store.policy(Some(2)).unwrap().unwrap().text, "# version 2\n");
    assert!(store.policy(Some(3)).unwrap().is_none());
    assert_eq!(store.documents().unwrap(), [document(5)]);
    assert_eq!(store.witnessed().unwrap(), 5);
}

#[test]
fn agents_are_known_as_last_seen_and_the_highest_version_seen_is_never_forgotten() {
    let scratch = Scratch::new("agents");
    let store = scratch.store();
    let agent = |version, seen| AgentRecord {
        node: node("web-1"),
        address: "192.0.2.1:7940".into(),
        policy_version: version,
        seen: Wall(seen),
    };
    store.saw(&[agent(9, 1)]).unwrap();
    store.saw(&[agent(7, 2)]).unwrap();
    assert_eq!(store.agents().unwrap(), [agent(7, 2)]);
    assert_eq!(store.witnessed().unwrap(), 9);
}

#[test]
fn pruning_forgets_what_is_long_past_and_nothing_else() {
    let scratch = Scratch::new("prune");
    let store = scratch.store();
    let day = 86_400_000_000;
    let (old, young) = (join_token(&store, "web-1", day), join_token(&store, "web-2", 20 * day));
    store.renewed(&certificate("01", "web-1", 0), None).unwrap();
    store.renewed(&certificate("02", "web-1", 30 * day), None).unwrap();
    store.prune(Wall(32 * day)).unwrap();
    assert!(store.token(&old).unwrap().is_none());
    assert!(store.token(&young).unwrap().is_some());
    let serials: Vec<_> = store.certificates().unwrap().into_iter().map(|c| c.serial).collect();
    assert_eq!(serials, ["02"]);
}

#[test]
fn a_store_that_is_open_elsewhere_says_so_and_nobody_else_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new("locked");
    let _held = scratch.store();
    let path = scratch.0.join("store.redb");
    assert!(matches!(Embedded::open(&path), Err(StoreError::Locked(p)) if p == path));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_file_that_is_no_store_is_refused_without_a_panic() {
    let scratch = Scratch::new("garbage");
    let path = scratch.0.join("store.redb");
    std::fs::write(&path, vec![0x5a; 8192]).unwrap();
    assert!(matches!(Embedded::open(&path), Err(StoreError::Open { .. })));
}
