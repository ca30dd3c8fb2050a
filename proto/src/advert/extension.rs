//! Records behind the fixed part of an advert: what later versions say, in a form earlier ones skip.
//!
//! The extension is a sequence of `tag: u8`, `length: u16` (little-endian), `length` bytes. A tag that is
//! not known here is skipped, and so is whatever a later version adds at the end of a record of traits. The
//! reader never fails: it stops where a length reaches beyond the end, and what stood before counts. Tags
//! are given out here, each once and for good.
//!
//! | tag | record |
//! |---|---|
//! | 1 | weights: two bytes, little endian, for each endpoint of the advert in order; the first record counts |
//! | 2 | how one endpoint is checked and activated, a record for each; see [`traits`](super::traits) |
//! | 10 | the leases of exclusive services that the node holds; the first record counts |

use serde::{Deserialize, Serialize};

use crate::ids::ServiceName;
use crate::wire;

use super::Advert;

/// The tag of the endpoints' weights.
pub const WEIGHTS: u8 = 1;
/// The tag of how an endpoint is checked and activated.
pub const TRAITS: u8 = 2;
/// The tag of the leases held.
pub const LEASES: u8 = 10;
/// The weight of an endpoint whose owner says nothing: a whole one. Twice as much capacity is 200.
pub const WEIGHT: u16 = 100;
/// The largest weight.
pub const MAX_WEIGHT: u16 = 5_000;

/// Bytes before each record's own.
const HEAD: usize = 3;

/// The records of an extension, in order.
#[derive(Clone, Debug)]
pub struct Records<'a>(&'a [u8]);

/// Reads an extension.
pub fn records(extension: &[u8]) -> Records<'_> {
    Records(extension)
}

impl<'a> Iterator for Records<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [tag, low, high, rest @ ..] = self.0 else { return None };
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let Some((body, rest)) = rest.split_at_checked(length) else {
            self.0 = &[];
            return None;
        };
        self.0 = rest;
        Some((*tag, body))
    }
}

/// A record was not added: it is larger than its length can say. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record of {0} bytes does not fit into an advert's extension")]
pub struct TooLong(usize);

/// Adds a record.
pub fn append(extension: &mut Vec<u8>, tag: u8, body: &[u8]) -> Result<(), TooLong> {
    let length = u16::try_from(body.len()).map_err(|_| TooLong(body.len()))?;
    extension.reserve(HEAD + body.len());
    extension.push(tag);
    extension.extend_from_slice(&length.to_le_bytes());
    extension.extend_from_slice(body);
    Ok(())
}

/// Adds the record of weights, if any is not [`WEIGHT`].
pub fn add_weights(extension: &mut Vec<u8>, weights: impl Iterator<Item = u16> + Clone) {
    if weights.clone().any(|w| w != WEIGHT) {
        let record: Vec<u8> = weights.flat_map(u16::to_le_bytes).collect();
        // An advert has MAX_ENDPOINTS at most, whose weights fit into a record.
        let _ = append(extension, WEIGHTS, &record);
    }
}

/// A lease as its holder declares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAdvert {
    /// The service.
    pub service: ServiceName,
    /// The instance that serves under it.
    pub instance: u16,
    /// The term.
    pub term: u64,
}

/// Adds the record of the leases held, if there are any.
pub fn add_leases(extension: &mut Vec<u8>, leases: &[LeaseAdvert]) {
    if let (false, Ok(record)) = (leases.is_empty(), wire::encode_body(&leases)) {
        // An advert has MAX_ENDPOINTS at most, whose leases fit into a record.
        let _ = append(extension, LEASES, &record);
    }
}

impl Advert {
    /// The leases held; none where it does not say, or cannot be read.
    pub fn leases(&self) -> Vec<LeaseAdvert> {
        let record = records(&self.extension).find(|(tag, _)| *tag == LEASES);
        record.and_then(|(_, body)| wire::decode_body(body).ok()).unwrap_or_default()
    }

    /// The weights of the endpoints, in their order. A record that does not fit them says nothing.
    pub fn weights(&self) -> Vec<u16> {
        let record = records(&self.extension).find(|(tag, _)| *tag == WEIGHTS);
        let record = record.map(|(_, body)| body).unwrap_or_default();
        if record.len() != 2 * self.endpoints.len() {
            return vec![WEIGHT; self.endpoints.len()];
        }
        let words = record.chunks_exact(2).map(|w| u16::from_le_bytes([w[0], w[1]]));
        words.map(|w| w.clamp(1, MAX_WEIGHT)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advert::{Condition, EndpointAdvert, Protocol, Role};
    use crate::ids::{Generation, NodeName, ServiceName, Version};
    use crate::time::Wall;
    use proptest::prelude::*;

    fn advert(endpoints: u16, extension: Vec<u8>) -> Advert {
        let endpoint = |instance| EndpointAdvert {
            service: ServiceName::parse("ledger").unwrap(),
            instance,
            role: Role::Hot,
            condition: Condition::Serving,
            protocol: Protocol::Http,
            since: Wall(0),
            activated_for: None,
        };
        Advert {
            node: NodeName::parse("n1").unwrap(),
            version: Version { generation: Generation(1), revision: 1 },
            address: "192.0.2.1:7940".parse().unwrap(),
            zone: String::new(),
            region: String::new(),
            endpoints: (0..endpoints).map(endpoint).collect(),
            policy_version: 0,
            left: false,
            extension,
        }
    }

    #[test]
    fn weights_are_said_only_where_one_is_unusual() {
        let mut extension = Vec::new();
        add_weights(&mut extension, [100, 100].into_iter());
        assert!(extension.is_empty(), "agents of the version before see what they always saw");
        add_weights(&mut extension, [100, 250].into_iter());
        assert_eq!(extension, [1, 4, 0, 100, 0, 250, 0]);
        assert_eq!(advert(2, extension).weights(), [100, 250]);
    }

    #[test]
    fn leases_survive_beside_weights_and_records_nobody_knows() {
        let service = ServiceName::parse("ledger").unwrap();
        let held = vec![LeaseAdvert { service, instance: 1, term: 7 }];
        let mut extension = Vec::new();
        append(&mut extension, 200, b"of a later version").unwrap();
        add_weights(&mut extension, [7].into_iter());
        add_leases(&mut extension, &held);
        let said = advert(1, extension);
        assert_eq!((said.leases(), said.weights()), (held, vec![7]));
        assert!(advert(1, vec![LEASES, 1, 0, 9]).leases().is_empty(), "one that cannot be read");
    }

    #[test]
    fn an_unknown_tag_is_skipped_and_a_broken_end_is_not_read() {
        let mut extension = Vec::new();
        append(&mut extension, 77, b"of a later version").unwrap();
        add_weights(&mut extension, [7].into_iter());
        extension.extend_from_slice(&[1, 200, 0, 1]);
        assert_eq!(advert(1, extension).weights(), [7]);
    }

    #[test]
    fn a_record_that_does_not_fit_the_endpoints_says_nothing_and_no_weight_is_nought() {
        assert_eq!(advert(2, vec![1, 2, 0, 9, 0]).weights(), [100, 100]);
        assert_eq!(advert(1, vec![1, 2, 0, 0, 0]).weights(), [1]);
        assert_eq!(advert(1, vec![1, 2, 0, 255, 255]).weights(), [MAX_WEIGHT]);
    }

    #[test]
    fn records_are_read_as_they_were_written_and_unknown_tags_are_only_skipped() {
        let mut extension = Vec::new();
        append(&mut extension, TRAITS, b"abc").unwrap();
        append(&mut extension, 200, b"").unwrap();
        append(&mut extension, WEIGHTS, b"d").unwrap();
        // The form is the wire's: it must not change.
        assert_eq!(extension, b"\x02\x03\x00abc\xc8\x00\x00\x01\x01\x00d");
        let all: Vec<_> = records(&extension).collect();
        assert_eq!(all, [(TRAITS, &b"abc"[..]), (200, b""), (WEIGHTS, b"d")]);
        assert_eq!(append(&mut extension, 1, &[0; 65_536]), Err(TooLong(65_536)));
        assert_eq!(records(&extension).count(), 3, "nothing changed");
    }

    #[test]
    fn a_length_beyond_the_end_ends_the_reading_and_what_stood_before_counts() {
        let cut = b"\x02\x01\x00a\x01\xff\x00bc";
        assert_eq!(records(cut).collect::<Vec<_>>(), [(TRAITS, &b"a"[..])]);
        assert_eq!(records(b"\x02\x01").count(), 0);
    }

    proptest! {
        #[test]
        fn what_was_added_is_read(
            all in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        ) {
            let mut extension = Vec::new();
            for (tag, record) in &all {
                append(&mut extension, *tag, record).unwrap();
            }
            let read: Vec<(u8, Vec<u8>)> =
                records(&extension).map(|(tag, r)| (tag, r.to_vec())).collect();
            prop_assert_eq!(read, all);
        }

        #[test]
        fn any_bytes_are_read_without_end_or_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let read: usize = records(&bytes).map(|(_, body)| body.len() + HEAD).sum();
            prop_assert!(read <= bytes.len());
            let _ = advert(1, bytes).leases();
        }
    }
}
