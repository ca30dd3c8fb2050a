use std::path::PathBuf;

use hearth_proto::advert::Keyring;
use hearth_proto::api::PolicyRequest;
use hearth_proto::ids::TrustDomain;
use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::authority::{NODE_LIFE, new_root};
use crate::store::Embedded;

const NOW: Wall = Wall(1_795_426_568_000_000);
const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// A control plane with a store of its own, gone when the test ends.
struct Bench {
    plane: Plane,
    dir: PathBuf,
}

impl Bench {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("hearth-plane-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let store = Arc::new(Embedded::open(&dir.join("store.redb")).unwrap());
        let domain = TrustDomain::parse("mesh.example").unwrap();
        let (key, root) = new_root(&domain, NOW).unwrap();
        let authority = Authority::open(&key, &root, NODE_LIFE).unwrap();
        let name = NodeName::parse("control-1").unwrap();
        let made = authority.issue_control(&name, &[], NOW).unwrap();
        let own = Own::read(&made.key_pem, &made.certificate.pem, &authority).unwrap();
        let plane = Plane::new(authority, own, store, Arc::default()).unwrap();
        Self { plane, dir }
    }

    fn token(&self, node: &str, ttl: u64) -> String {
        let ttl = Duration::from_secs(ttl);
        self.plane.create_token(&name(node), ttl, "admin", NOW).unwrap().token
    }

    fn join(&self, token: &str, node: &str, now: Wall) -> Result<Enrolment, EnrolRefused> {
        self.plane.join(&request(token, node), FROM, now)
    }

    /// The counter of joins with this result.
    fn counted(&self, result: &str) -> u64 {
        let label = format!("hearth_control_joins_total{{result=\"{result}\"}} ");
        let text = self.plane.metrics().render();
        let line = text.lines().find_map(|line| line.strip_prefix(&label));
        line.map_or(0, |n| n.parse().unwrap())
    }

    fn apply(&self, text: &str, dry_run: bool) -> hearth_proto::api::PolicyAnswer {
        let request = PolicyRequest { text: text.into(), file: "mesh.toml".into(), dry_run };
        self.plane.apply(&request, "admin", NOW).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn csr() -> String {
    let key = KeyPair::generate().unwrap();
    CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
}

fn request(token: &str, node: &str) -> JoinRequest {
    JoinRequest {
        token: token.into(),
        name: name(node),
        csr_pem: csr(),
        mesh_address: "10.77.0.11:7940".into(),
    }
}

fn reason<T: std::fmt::Debug>(outcome: Result<T, EnrolRefused>) -> &'static str {
    outcome.expect_err("it was let in").reason()
}

fn later(seconds: u64) -> Wall {
    moment::after(NOW, Duration::from_secs(seconds))
}

#[test]
fn a_join_brings_certificate_bundle_and_documents_and_makes_the_agent_known() {
    let bench = Bench::new("join");
    let enrolment = bench.join(&bench.token("web-1", 60), "web-1", NOW).unwrap();
    assert!(enrolment.certificate_pem.starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(enrolment.bundle_pem, bench.plane.authority().bundle_pem());
    assert_eq!(enrolment.documents.len(), 1, "the trust bundle, and no policy yet");
    let agents = bench.plane.store().agents().unwrap();
    assert_eq!(agents[0].address, "10.77.0.11:7940");
    assert_eq!(bench.counted("ok"), 1);
}

#[test]
fn each_refused_token_has_its_own_reason_is_counted_and_changes_nothing() {
    let bench = Bench::new("refusals");
    let used = bench.token("web-1", 60);
    bench.join(&used, "web-1", NOW).unwrap();
    let certificates = bench.plane.store().certificates().unwrap();

    let fresh = bench.token("web-2", 60);
    let other_mesh = token::new_join_token(&[0; 32]).unwrap().0;
    let unknown = token::new_join_token(&bench.plane.authority().root_hash()).unwrap().0;
    for (token, node, at, expected) in [
        (used.as_str(), "web-1", NOW, "token_replayed"),
        (&fresh, "web-2", later(60), "token_expired"),
        (&fresh, "web-3", NOW, "token_other_name"),
        ("hearth1.garbage", "web-1", NOW, "token_malformed"),
        (&other_mesh, "web-1", NOW, "token_other_mesh"),
        (&unknown, "web-1", NOW, "token_unknown"),
    ] {
        assert_eq!(reason(bench.join(token, node, at)), expected);
        assert_eq!(bench.counted(expected), 1, "{expected} was not counted once");
    }
    assert_eq!(bench.plane.store().certificates().unwrap(), certificates);
    assert_eq!(bench.plane.store().agents().unwrap().len(), 1);
    bench.join(&fresh, "web-2", NOW).expect("refusals spent a token they did not use");
}

#[test]
fn a_token_is_not_spent_by_a_request_that_fails_for_another_reason() {
    let bench = Bench::new("kept");
    let token = bench.token("web-1", 60);
    let mut bad = request(&token, "web-1");
    bad.csr_pem = "hello".into();
    assert_eq!(reason(bench.plane.join(&bad, FROM, NOW)), "csr");
    let mut lost = request(&token, "web-1");
    lost.mesh_address = "nowhere".into();
    assert_eq!(reason(bench.plane.join(&lost, FROM, NOW)), "mesh_address");
    bench.join(&token, "web-1", NOW).expect("the token was spent");
}

#[test]
fn a_guesser_is_not_listened_to_any_more_not_even_with_a_good_token() {
    let bench = Bench::new("limit");
    let good = bench.token("web-1", 600);
    for _ in 0..10 {
        assert_eq!(reason(bench.join("hearth1.guess", "web-1", NOW)), "token_malformed");
    }
    assert_eq!(reason(bench.join(&good, "web-1", NOW)), "rate_limited");
    let elsewhere: IpAddr = "192.0.2.99".parse().unwrap();
    assert!(bench.plane.operator(None, elsewhere, NOW).is_err());
    bench.join(&good, "web-1", later(10)).expect("points never come back");
}

#[test]
fn a_renewal_is_for_a_node_that_shows_its_certificate_and_keeps_its_name() {
    let bench = Bench::new("renew");
    let ask = || RenewRequest { csr_pem: csr(), mesh_address: "10.77.0.11:7940".into() };
    assert_eq!(reason(bench.plane.renew(&ask(), None, FROM, NOW)), "no_certificate");
    let control = Identity::Control(name("control-1"));
    assert_eq!(reason(bench.plane.renew(&ask(), Some(&control), FROM, NOW)), "not_a_node");
    let node = Identity::Node(name("web-1"));
    bench.plane.renew(&ask(), Some(&node), FROM, NOW).unwrap();
    let issued = bench.plane.store().certificates().unwrap();
    assert_eq!(issued.len(), 1);
    assert_eq!((issued[0].node.as_str(), issued[0].cause.as_str()), ("web-1", "renew"));
}

#[test]
fn a_nodes_renewal_does_not_hang_on_what_its_neighbours_behind_the_same_address_do() {
    let bench = Bench::new("neighbours");
    let ask = || RenewRequest { csr_pem: csr(), mesh_address: "10.77.0.11:7940".into() };
    for _ in 0..20 {
        assert!(bench.join("hearth1.guess", "web-9", NOW).is_err());
    }
    let node = Identity::Node(name("web-1"));
    bench.plane.renew(&ask(), Some(&node), FROM, NOW).expect("a neighbour used up its points");
    // A member that is wrong again and again pays for itself.
    let wrong = || RenewRequest { csr_pem: "x".into(), ..ask() };
    for _ in 0..10 {
        assert_eq!(reason(bench.plane.renew(&wrong(), Some(&node), FROM, NOW)), "csr");
    }
    assert_eq!(reason(bench.plane.renew(&ask(), Some(&node), FROM, NOW)), "rate_limited");
}

#[test]
fn what_looks_like_a_mistake_beside_what_runs_is_warned_of() {
    let bench = Bench::new("doubts");
    bench.join(&bench.token("web-1", 60), "web-1", NOW).unwrap();
    bench.apply("[services.ledger]\nallow = [\"web-1\"]\n", false);
    let answer = bench.apply("[services.ledgr]\nallow = [\"web-1\", \"web-2\"]\n", true);
    assert_eq!(
        answer.warnings,
        [
            "services.ledgr: allow names web-2, which never joined",
            "services.ledger: no longer named, so it has the defaults again",
        ]
    );
}

#[test]
fn an_operator_is_known_by_the_token_alone() {
    let bench = Bench::new("operator");
    let (text, hash) = token::new_operator_token().unwrap();
    let record =
        crate::store::OperatorRecord { name: "admin".into(), hash: hash.hex(), created: NOW };
    bench.plane.store().add_operator(&record).unwrap();
    assert_eq!(bench.plane.operator(Some(&text), FROM, NOW).unwrap(), "admin");
    for wrong in [None, Some(""), Some("hearthop1.x"), Some(hash.hex().as_str())] {
        assert!(bench.plane.operator(wrong, FROM, NOW).is_err(), "{wrong:?} was an operator");
    }
}

#[test]
fn a_policy_gets_the_next_version_and_the_same_policy_none() {
    let bench = Bench::new("apply");
    let mut changed = bench.plane.changed();
    changed.mark_unchanged();
    let dry = bench.apply("[services.ledger]\nmin_hot = 2\n", true);
    assert_eq!((dry.version, dry.changes.len()), (1, 2));
    assert!(bench.plane.store().policies().unwrap().is_empty(), "a dry run was stored");
    assert!(!changed.has_changed().unwrap(), "a dry run was pushed");

    let applied = bench.apply("[services.ledger]\nmin_hot = 2\n", false);
    assert_eq!(applied.version, 1);
    assert!(changed.has_changed().unwrap(), "nobody was told to push");
    let same = bench.apply("[services.ledger]\nmin_hot = \"2\" # as before\n", false);
    assert_eq!((same.version, same.changes.len()), (1, 0));
    let second = bench.apply("[services.ledger]\nmin_hot = 3\n", false);
    assert_eq!(second.version, 2);
    assert_eq!(second.changes, ["services.ledger.min_hot: 2 -> 3"]);
    let versions: Vec<u64> =
        bench.plane.store().policies().unwrap().iter().map(|p| p.version).collect();
    assert_eq!(versions, [2, 1]);
}

#[test]
fn documents_are_signed_so_that_everyone_with_the_bundle_believes_them() {
    let bench = Bench::new("signed");
    bench.apply("[services.ledger]\nmin_hot = 2\n", false);
    let keyring = bench.plane.holder().keyring();
    let documents = bench.plane.store().documents().unwrap();
    assert_eq!(documents.len(), 2);
    for document in &documents {
        let opened = document.open(&keyring).unwrap();
        if let Content::Policy(policy) = opened.content {
            assert_eq!(opened.source, "[services.ledger]\nmin_hot = 2\n");
            assert_eq!(policy.services.len(), 1);
        }
    }
    let mut forged = documents[0].clone();
    forged.body = documents[1].body.clone();
    assert!(forged.open(&keyring).is_err(), "a body under another's signature was believed");
    let signer = Identity::Control(name("control-2"));
    let signature = keyring.sign(b"x");
    let other = keyring.verify(&signer, &keyring.certificate(), b"x", &signature, false);
    assert!(other.is_err(), "a certificate was believed under another name");
}

#[test]
fn after_a_restore_the_next_version_is_newer_than_any_that_was_seen() {
    let bench = Bench::new("restore");
    bench.apply("[services.ledger]\nmin_hot = 2\n", false);
    let seen = |version| AgentRecord {
        node: name("web-1"),
        address: "10.77.0.11:7940".into(),
        policy_version: version,
        seen: NOW,
    };
    bench.plane.pushed(&[seen(u64::MAX)], NOW).unwrap();
    bench.plane.pushed(&[seen(7)], NOW).unwrap();
    let again = bench.apply("[services.ledger]\nmin_hot = 2\n", false);
    assert_eq!(again.version, 8);
    assert!(again.changes[0].contains("version 7"), "{:?}", again.changes);
}

#[test]
fn a_token_lives_between_a_second_and_a_week() {
    let bench = Bench::new("ttl");
    for ttl in [0, 8 * 86_400] {
        let ttl = Duration::from_secs(ttl);
        let refused = bench.plane.create_token(&name("web-1"), ttl, "admin", NOW);
        assert!(matches!(refused, Err(CreateTokenError::Ttl(_))), "{ttl:?} was taken");
    }
}
