//! Every message survives its bytes; no bytes survive being no message.

use super::*;
use crate::ids::ServiceName;
use crate::member::MemberParts;
use crate::time::Span;
use proptest::prelude::*;
use std::time::Duration;

fn name(i: u32) -> NodeName {
    NodeName::parse(&format!("n{i}")).unwrap()
}

fn any_name() -> impl Strategy<Value = NodeName> {
    (0u32..10_000).prop_map(name)
}

fn any_version() -> impl Strategy<Value = Version> {
    any::<(u64, u64)>().prop_map(|(g, revision)| Version { generation: Generation(g), revision })
}

fn any_bytes() -> impl Strategy<Value = std::sync::Arc<[u8]>> {
    prop::collection::vec(any::<u8>(), 0..64).prop_map(Into::into)
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    any::<SocketAddr>().prop_map(|a| match a {
        // Flow label and scope are local to a host and not carried.
        SocketAddr::V6(v6) => SocketAddr::from((*v6.ip(), v6.port())),
        v4 => v4,
    })
}

fn any_endpoint() -> impl Strategy<Value = EndpointId> {
    (0u8..9, any_name(), any::<u16>()).prop_map(|(s, node, instance)| EndpointId {
        service: ServiceName::parse(&format!("s{s}")).unwrap(),
        node,
        instance,
    })
}

fn any_advert() -> impl Strategy<Value = SignedAdvert> {
    (any_name(), any_version(), any_bytes(), any_bytes(), any_bytes()).prop_map(
        |(node, version, body, certificate, signature)| SignedAdvert {
            node,
            version,
            body,
            certificate,
            signature,
        },
    )
}

fn any_kind() -> impl Strategy<Value = DocumentKind> {
    prop_oneof![
        Just(DocumentKind::Policy),
        Just(DocumentKind::Trust),
        Just(DocumentKind::Revocations)
    ]
}

fn any_document() -> impl Strategy<Value = SignedDocument> {
    (any_name(), any_kind(), any::<u64>(), any_bytes(), any_bytes()).prop_map(
        |(signer, kind, version, body, signature)| SignedDocument {
            signer,
            kind,
            version,
            certificate: body.clone(),
            body,
            signature,
        },
    )
}

fn any_member() -> impl Strategy<Value = MemberRecord> {
    (any_name(), any::<(u64, u32, u16)>(), any_address(), 0u8..4).prop_map(
        |(name, (g, rejoin, incarnation), address, state)| MemberRecord {
            id: MemberParts { name, generation: Generation(g), rejoin, address, extension: 0 }
                .into(),
            incarnation,
            state,
        },
    )
}

fn any_replica() -> impl Strategy<Value = Replica> {
    prop_oneof![Just(Replica::Table), Just(Replica::Members)]
}

fn any_said() -> impl Strategy<Value = Said> {
    (any_name(), any_bytes(), any_bytes(), 0u64..1_000_000_000).prop_map(
        |(author, body, signature, left)| Said {
            author,
            certificate: body.clone(),
            body,
            signature,
            left: Span(Duration::from_micros(left)),
        },
    )
}

/// The kinds that are known.
const KINDS: [u8; 22] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 20, 21, 22, 30, 31, 32, 33, 34, 35];

fn any_lease() -> impl Strategy<Value = Body> {
    use crate::exclusive::message::*;
    let round = any::<(u64, u64)>()
        .prop_map(|(g, count)| Round { generation: Generation(g), count })
        .boxed();
    let span = any::<u64>().prop_map(|us| Span(Duration::from_micros(us))).boxed();
    let vote = prop_oneof![
        Just(Vote::Blank),
        Just(Vote::Free),
        (any_name(), span.clone()).prop_map(|(to, left)| Vote::Promised { to, left }),
    ];
    let why = prop_oneof![
        Just(Refusal::Blank),
        any::<u64>().prop_map(|number| Refusal::Electorate { number }),
        (any_name(), any::<u64>(), span.clone()).prop_map(|(by, term, left)| Refusal::Held {
            by,
            term,
            left
        }),
        any::<u64>().prop_map(|seen| Refusal::Term { seen }),
        Just(Refusal::NotOwner),
        Just(Refusal::TooLong),
    ];
    prop_oneof![
        round.clone().prop_map(|round| Body::Ask(Ask { round })),
        (round.clone(), any::<(u64, u64, u64)>(), vote).prop_map(
            |(round, (number, settled, term), vote)| {
                Body::Tell(Tell { round, number, settled, term, vote })
            }
        ),
        (round.clone(), any::<(u64, u64, u64, u64)>(), span).prop_map(
            |(round, (number, print, settled, term), lease)| {
                Body::Claim(Claim { round, number, print, settled, term, lease })
            }
        ),
        (round.clone(), any::<(u64, u64)>())
            .prop_map(|(round, (term, settled))| Body::Grant(Grant { round, term, settled })),
        (round, why).prop_map(|(round, why)| Body::Refuse(Refuse { round, why })),
        (any::<u64>(), prop::option::of(any_name()))
            .prop_map(|(term, next)| Body::Release(Release { term, next })),
    ]
}

fn any_message() -> BoxedStrategy<Message> {
    let list = |of: BoxedStrategy<SignedAdvert>| prop::collection::vec(of, 0..5);
    let incident =
        (any_endpoint(), any_version()).prop_map(|(lost, version)| IncidentKey { lost, version });
    prop_oneof![
        (any::<u64>(), any_address(), any::<(u8, u8)>()).prop_map(|(g, address, protocol)| {
            Message::Hello(Hello { generation: Generation(g), address, protocol })
        }),
        list(any_advert().boxed()).prop_map(Message::Adverts),
        (any::<(u64, u64)>(), prop::collection::vec((any_kind(), any::<u64>()), 0..4)).prop_map(
            |((table, members), documents)| Message::Digest(Digest { table, members, documents })
        ),
        (any_replica(), prop::collection::vec(any::<u64>(), 0..40))
            .prop_map(|(of, branches)| Message::Branches(Branches { of, branches })),
        (
            any_replica(),
            prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u64>(), 0..40)), 0..9)
        )
            .prop_map(|(of, leaves)| Message::Leaves(Leaves { of, leaves })),
        (
            prop::collection::vec(any::<u16>(), 0..70),
            prop::collection::vec((any_name(), any_version()), 0..9)
        )
            .prop_map(|(leaves, entries)| Message::Versions(Versions { leaves, entries })),
        prop::collection::vec(any_name(), 0..9).prop_map(Message::Want),
        (
            any::<bool>(),
            prop::collection::vec(any::<u16>(), 0..9),
            prop::collection::vec(any_member(), 0..9)
        )
            .prop_map(|(reply, leaves, members)| {
                Message::Members(Members { reply, leaves, members })
            }),
        (any_endpoint(), incident, any::<u64>(), any::<bool>()).prop_map(
            |(endpoint, incident, parent_span, urgent)| {
                Message::Wake(Wake { endpoint, incident, parent_span, urgent })
            }
        ),
        (any_name(), any::<u64>())
            .prop_map(|(node, g)| { Message::Hint(Hint { node, generation: Generation(g) }) }),
        prop::collection::vec(any_document(), 0..4).prop_map(Message::Documents),
        any_endpoint().prop_map(|endpoint| Message::Failback(Failback { endpoint })),
        (
            prop::collection::vec((any_kind(), any::<u64>()), 0..4),
            prop::collection::vec((any_name(), any_address(), any::<u64>()), 0..4),
            prop::collection::vec(".{0,20}", 0..3)
        )
            .prop_map(|(versions, members, refused)| {
                Message::DocumentsAck(DocumentsAck { versions, members, refused })
            }),
        (any::<u64>(), ".{0,40}").prop_map(|(nonce, what)| Message::Ask(Ask { nonce, what })),
        (any::<u64>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(nonce, body)| Message::Answer(Answer { nonce, body })),
        prop::collection::vec(any_said(), 0..4).prop_map(Message::Drill),
        (0u8..9, any_lease()).prop_map(|(s, body)| {
            let service = ServiceName::parse(&format!("s{s}")).unwrap();
            Message::Lease(Lease { service, body })
        }),
    ]
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn every_message_survives_its_bytes(message in any_message()) {
        let bytes = message.encode().unwrap();
        prop_assert_eq!(Message::decode(&bytes), Ok(Some(message)));
    }

    /// What agents of the last version said and understand.
    #[test]
    fn names_and_signed_bytes_lie_on_the_wire_as_texts_and_lists_of_bytes_do(advert in any_advert()) {
        type Plain = (String, Version, Vec<u8>, Vec<u8>, Vec<u8>);
        let SignedAdvert { node, version, body, certificate, signature } = &advert;
        let plain: Plain =
            (node.to_string(), *version, body.to_vec(), certificate.to_vec(), signature.to_vec());
        let bytes = encode_body(&advert).unwrap();
        prop_assert_eq!(&bytes, &encode_body(&plain).unwrap());
        prop_assert_eq!(decode_body::<Plain>(&bytes), Ok(plain));
        // Formats without bytes write lists.
        let json = serde_json::to_string(&advert).unwrap();
        prop_assert_eq!(serde_json::from_str::<SignedAdvert>(&json).unwrap(), advert);
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::decode(&bytes);
        let _ = decode_swim(&bytes);
    }

    /// With a known envelope, so that every body decoder is reached.
    #[test]
    fn no_body_makes_decoding_panic(
        kind in 0u8..40, body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = Message::decode(&[&[PROTOCOL, kind], body.as_slice()].concat());
        let _ = decode_body::<crate::advert::Advert>(&body);
        let _ = decode_body::<crate::document::Document>(&body);
    }

    #[test]
    fn a_message_cut_or_bent_anywhere_is_an_error_or_another_message_never_a_panic(
        message in any_message(), at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let bytes = message.encode().unwrap();
        let at = at.index(bytes.len());
        prop_assert!(Message::decode(&bytes[..at]).is_err(), "cut at {}", at);
        let mut bent = bytes.clone();
        bent[at] ^= 1 << bit;
        let _ = Message::decode(&bent);
        let mut long = bytes;
        long.push(0);
        prop_assert_eq!(Message::decode(&long), Err(WireError::Trailing(1)));
    }

    #[test]
    fn another_version_or_an_unknown_kind_is_skipped(
        version in any::<u8>(), kind in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        prop_assume!(version != PROTOCOL || !KINDS.contains(&kind));
        let bytes = [&[version, kind], body.as_slice()].concat();
        prop_assert_eq!(Message::decode(&bytes), Ok(None));
        prop_assume!(version != PROTOCOL || kind != 0);
        prop_assert_eq!(decode_swim(&bytes), None);
    }
}

/// A length field that promises 2^60 elements in a dozen bytes: the promise is refused by the limit, or
/// found out at the first missing element; either way nothing like it is allocated. The test's memory
/// would not hold it.
#[test]
fn a_lie_about_a_length_does_not_allocate() {
    let huge: &[u8] = &[253, 0, 0, 0, 0, 0, 0, 0, 16];
    for kind in KINDS {
        for skip in 0..4 {
            let bytes = [&[PROTOCOL, kind], &vec![0; skip][..], huge, &[1, 2, 3]].concat();
            let decoded = Message::decode(&bytes);
            // A digest begins with two hashes, which may be as large as they like.
            let is_hash = matches!(&decoded, Ok(Some(Message::Digest(_)))) && skip < 2;
            assert!(is_hash || decoded.is_err(), "kind {kind}, {skip} bytes in");
        }
    }
    let million: &[u8] = &[252, 0, 0, 64, 0];
    assert!(Message::decode(&[&[PROTOCOL, 2], million].concat()).is_err());
}

#[test]
fn an_empty_or_one_byte_message_is_truncated() {
    assert_eq!(Message::decode(&[]), Err(WireError::Truncated));
    assert_eq!(Message::decode(&[PROTOCOL]), Err(WireError::Truncated));
}

#[test]
fn a_swim_datagram_is_its_packet_with_two_bytes_in_front() {
    let packet = vec![7u8; MAX_SWIM];
    let datagram = encode_swim(&packet);
    assert_eq!(datagram.len(), MAX_SWIM + 2);
    assert!(datagram.len() <= 1162, "fits a QUIC datagram on a 1,200-byte path");
    assert_eq!(decode_swim(&datagram), Some(&packet[..]));
}
