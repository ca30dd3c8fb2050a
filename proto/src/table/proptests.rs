//! The laws of the replicated table, over random histories of adverts, real, stale, forged and broken.

use super::*;
use crate::advert::{Condition, EndpointAdvert, Protocol, Role, Untrusted};
use crate::ids::{Generation, Identity};
use crate::time::Wall;
use proptest::prelude::*;

/// Signs by hashing with a name: good enough to tell right from wrong, and from another's.
struct Hash(NodeName);

fn mac(who: &Identity, message: &[u8]) -> Vec<u8> {
    xxh3_64(&[who.to_string().as_bytes(), b"|", message].concat()).to_le_bytes().to_vec()
}

impl Keyring for Hash {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        mac(&Identity::Node(self.0.clone()), message)
    }
    fn certificate(&self) -> Arc<[u8]> {
        self.0.as_str().as_bytes().into()
    }
    fn verify(
        &self,
        signer: &Identity,
        certificate: &[u8],
        message: &[u8],
        signature: &[u8],
        _lasting: bool,
    ) -> Result<(), Untrusted> {
        let found = std::str::from_utf8(certificate).ok().and_then(|n| NodeName::parse(n).ok());
        let found = found.ok_or_else(|| Untrusted::Certificate("unreadable".into()))?;
        let found = Identity::Node(found);
        if found != *signer {
            return Err(Untrusted::OtherIdentity { expected: signer.clone(), found });
        }
        if mac(signer, message) == signature { Ok(()) } else { Err(Untrusted::Signature) }
    }
}

fn name(i: u8) -> NodeName {
    NodeName::parse(&format!("n{i}")).unwrap()
}

fn keyring() -> Hash {
    Hash(name(0))
}

fn advert(node: u8, generation: u64, revision: u64) -> Advert {
    Advert {
        node: name(node),
        version: Version { generation: Generation(generation), revision },
        address: "10.0.0.1:7940".parse().unwrap(),
        zone: format!("z{revision}"),
        region: String::new(),
        endpoints: Vec::new(),
        policy_version: revision,
        left: false,
        extension: Vec::new(),
    }
}

fn signed(node: u8, generation: u64, revision: u64) -> SignedAdvert {
    SignedAdvert::sign(&advert(node, generation, revision), &Hash(name(node))).unwrap()
}

/// A record as it may arrive: whole, or spoilt in one of the ways an attacker or a bug may spoil it.
fn any_record() -> impl Strategy<Value = (SignedAdvert, bool)> {
    (0u8..8, 1u64..4, 1u64..6, prop::option::weighted(0.4, 0u8..7)).prop_map(|(n, g, r, spoilt)| {
        let mut s = signed(n, g, r);
        match spoilt {
            None => return (s, true),
            Some(0) => s.node = name(n + 8),
            Some(1) => s.version.revision += 10,
            Some(2) => s.version.generation.0 += 10,
            Some(3) => s.signature = s.signature.iter().map(|b| b ^ 1).collect(),
            Some(4) => s.body = s.body.iter().map(|b| b.wrapping_add(1)).collect(),
            Some(5) => s.certificate = name(n + 8).as_str().as_bytes().into(),
            // Signed by another member, in this one's name.
            Some(_) => s.signature = Hash(name(n + 8)).sign(&s.body).into(),
        }
        (s, false)
    })
}

fn merged(records: &[SignedAdvert]) -> Table {
    let mut table = Table::default();
    for r in records {
        let _ = table.merge(r.clone(), &keyring(), false, Time(0));
    }
    table
}

fn contents(table: &Table) -> BTreeMap<NodeName, SignedAdvert> {
    table.iter().map(|(n, e)| (n.clone(), e.signed.clone())).collect()
}

/// One anti-entropy exchange as the node runs it: `a` shows its root, `b` answers with what differs and its versions there, `a`
/// sends what it owes and asks for what it wants.
fn exchange(a: &mut Table, b: &mut Table) {
    if a.tree().root() == b.tree().root() {
        return;
    }
    let leaves = b.tree().differing(&a.tree().leaves_where(&b.tree().branches()));
    let versions = b.versions_in(&leaves);
    let (want, owed) = a.compare(&leaves, &versions);
    for record in owed {
        let _ = b.merge(record, &keyring(), false, Time(1));
    }
    for (node, _) in want {
        if let Some(e) = b.get(&node) {
            let record = e.signed.clone();
            let _ = a.merge(record, &keyring(), false, Time(1));
        }
    }
}

proptest! {
    #[test]
    fn merge_is_commutative_and_associative(
        records in prop::collection::vec(any_record(), 0..40), seed in any::<u64>(),
    ) {
        let records: Vec<SignedAdvert> = records.into_iter().map(|(r, _)| r).collect();
        let mut other: Vec<(u64, SignedAdvert)> = records
            .iter()
            .enumerate()
            .map(|(i, r)| (xxh3_64(format!("{seed}{i}").as_bytes()), r.clone()))
            .collect();
        other.sort_by_key(|(k, _)| *k);
        let other: Vec<SignedAdvert> = other.into_iter().map(|(_, r)| r).collect();
        let (a, b) = (merged(&records), merged(&other));
        prop_assert_eq!(contents(&a), contents(&b));
        prop_assert_eq!(a.tree().root(), b.tree().root());
        // Merging tables in any grouping is merging their records.
        let (left, right) = records.split_at(records.len() / 2);
        let halves: Vec<SignedAdvert> =
            contents(&merged(right)).into_values().chain(contents(&merged(left)).into_values()).collect();
        prop_assert_eq!(contents(&merged(&halves)), contents(&a));
    }

    #[test]
    fn merge_is_idempotent(records in prop::collection::vec(any_record(), 0..30)) {
        let records: Vec<SignedAdvert> = records.into_iter().map(|(r, _)| r).collect();
        let mut table = merged(&records);
        let before = (contents(&table), table.tree().root());
        for r in &records {
            let again = table.merge(r.clone(), &keyring(), false, Time(9));
            prop_assert_ne!(again.ok(), Some(Merged::Newer));
        }
        prop_assert_eq!((contents(&table), table.tree().root()), before);
    }

    #[test]
    fn versions_never_go_back_and_only_their_owners_signature_moves_them(
        records in prop::collection::vec(any_record(), 0..60),
    ) {
        let mut table = Table::default();
        for (record, valid) in records {
            let node = record.node.clone();
            let before = contents(&table);
            let held = table.version(&node);
            let result = table.merge(record.clone(), &keyring(), false, Time(0));
            let after = contents(&table);
            if result == Ok(Merged::Newer) {
                prop_assert!(valid);
                prop_assert!(held < table.version(&node));
            } else {
                prop_assert_eq!(&before, &after, "a record that was not taken changed something");
                if !valid {
                    prop_assert!(result.is_err() || held >= Some(record.version));
                }
            }
            for (n, r) in &before {
                prop_assert!(n == &node || after.get(n) == Some(r), "another's record changed");
            }
        }
    }

    #[test]
    fn digests_are_equal_exactly_when_tables_are(
        a in prop::collection::vec(any_record(), 0..12), b in prop::collection::vec(any_record(), 0..12),
    ) {
        let table = |v: Vec<(SignedAdvert, bool)>| {
            merged(&v.into_iter().map(|(r, _)| r).collect::<Vec<_>>())
        };
        let (a, b) = (table(a), table(b));
        prop_assert_eq!(contents(&a) == contents(&b), a.tree().root() == b.tree().root());
            }

    #[test]
    fn one_exchange_makes_two_tables_equal(
        a in prop::collection::vec(any_record(), 0..30), b in prop::collection::vec(any_record(), 0..30),
    ) {
        let table = |v: Vec<(SignedAdvert, bool)>| {
            merged(&v.into_iter().map(|(r, _)| r).collect::<Vec<_>>())
        };
        let (mut a, mut b) = (table(a), table(b));
        let all: Vec<SignedAdvert> =
            contents(&a).into_values().chain(contents(&b).into_values()).collect();
        exchange(&mut a, &mut b);
        prop_assert_eq!(contents(&a), contents(&b));
        prop_assert_eq!(contents(&a), contents(&merged(&all)), "nothing was lost or made up");
        prop_assert_eq!(a.tree().root(), b.tree().root());
    }

    #[test]
    fn a_service_is_offered_by_exactly_those_whose_record_says_so(
        steps in prop::collection::vec((0u8..5, 0u8..8, any::<bool>()), 0..30),
    ) {
        let service = |i: u8| ServiceName::parse(&format!("s{i}")).unwrap();
        let mut table = Table::default();
        for (revision, (node, offers, forget)) in (1..).zip(steps) {
            let endpoints = (0..3).filter(|i| offers & (1 << i) != 0).map(|i| EndpointAdvert {
                service: service(i),
                instance: 0,
                role: Role::Hot,
                condition: Condition::Serving,
                protocol: Protocol::Http,
                since: Wall(0),
                activated_for: None,
            });
            let says = Advert { endpoints: endpoints.collect(), ..advert(node, 1, revision) };
            let record = SignedAdvert::sign(&says, &Hash(name(node))).unwrap();
            let _ = table.merge(record, &keyring(), false, Time(0));
            if forget {
                table.forget(&name(node), Time(0));
            }
            for i in 0..3 {
                let asked: Vec<&NodeName> = table.offering(&service(i)).map(|(n, _)| n).collect();
                let says = |e: &Entry| e.advert.endpoints.iter().any(|e| e.service == service(i));
                let all: Vec<&NodeName> =
                    table.iter().filter(|(_, e)| says(e)).map(|(n, _)| n).collect();
                prop_assert_eq!(asked, all);
            }
        }
    }

    /// Whatever a peer sends as versions, the answer is bounded by the table.
    #[test]
    fn hostile_versions_cost_no_more_than_the_table(
        records in prop::collection::vec(any_record(), 0..12),
        leaves in prop::collection::vec(any::<u16>(), 0..500),
        names in prop::collection::vec((0u8..200, any::<u64>()), 0..50),
    ) {
        let table = merged(&records.into_iter().map(|(r, _)| r).collect::<Vec<_>>());
        prop_assert!(table.versions_in(&leaves).len() <= table.len());
        let theirs: Vec<(NodeName, Version)> = names
            .into_iter()
            .map(|(n, g)| (name(n), Version { generation: Generation(g), revision: 0 }))
            .collect();
        let (want, owed) = table.compare(&leaves, &theirs);
        prop_assert!(owed.len() <= table.len());
        prop_assert!(want.len() <= theirs.len());
    }
}

#[test]
fn a_forgotten_node_is_not_revived_by_its_old_record_but_is_by_a_new_one() {
    let mut table = merged(&[signed(1, 2, 3), signed(2, 1, 1)]);
    let with_both = table.tree().root();
    table.forget(&name(1), Time(0));
    assert_eq!(table.tree().root(), merged(&[signed(2, 1, 1)]).tree().root());
    let old = table.merge(signed(1, 2, 3), &keyring(), false, Time(1));
    assert_eq!(old, Ok(Merged::Same));
    assert_eq!(table.merge(signed(1, 1, 9), &keyring(), false, Time(1)), Ok(Merged::Older));
    assert_eq!(table.len(), 1);
    assert_eq!(table.merge(signed(1, 3, 1), &keyring(), false, Time(1)), Ok(Merged::Newer));
    assert_ne!(table.tree().root(), with_both);
}

#[test]
fn floors_are_kept_for_a_day_and_no_longer() {
    let mut table = merged(&[signed(1, 2, 3), signed(2, 1, 1)]);
    table.forget(&name(1), Time(0));
    table.forget(&name(2), Time(0) + REMEMBER);
    assert_eq!(table.version(&name(1)), None);
    assert!(table.version(&name(2)).is_some());
}

#[test]
fn a_certificate_or_signature_beyond_its_bound_is_refused_before_it_is_verified() {
    for fat in 0..2 {
        let mut s = signed(1, 1, 1);
        match fat {
            0 => s.certificate = vec![0; crate::advert::MAX_CERTIFICATE + 1].into(),
            _ => s.signature = vec![0; crate::advert::MAX_SIGNATURE + 1].into(),
        }
        let refused = Table::default().merge(s, &keyring(), false, Time(0)).unwrap_err();
        assert_eq!(refused.reason(), "too_large");
    }
}
