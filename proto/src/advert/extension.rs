//! What later versions say in an advert beyond its fields: a sequence of records, each a tag (one byte), a
//! length (two bytes, little endian) and so many bytes. Who does not know a tag skips its record; a sequence
//! that breaks off ends before the broken record. Of one tag the first record counts.
//!
//! | tag | record |
//! |---|---|
//! | 1 | weights: two bytes, little endian, for each endpoint of the advert in order |

use super::Advert;

/// The tag of the endpoints' weights.
pub const WEIGHTS: u8 = 1;
/// The weight of an endpoint whose owner says nothing: a whole one. Twice as much capacity is 200.
pub const WEIGHT: u16 = 100;
/// The largest weight.
pub const MAX_WEIGHT: u16 = 5_000;

/// The records of an extension.
pub fn records(extension: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = extension;
    std::iter::from_fn(move || {
        let (head, behind) = rest.split_at_checked(3)?;
        let length = usize::from(u16::from_le_bytes([head[1], head[2]]));
        let (record, behind) = behind.split_at_checked(length)?;
        rest = behind;
        Some((head[0], record))
    })
}

/// The first record of a tag.
pub fn record(extension: &[u8], tag: u8) -> Option<&[u8]> {
    records(extension).find(|(t, _)| *t == tag).map(|(_, record)| record)
}

/// Adds a record. One that is longer than its length can say is left out, and so is one without content.
pub fn add(extension: &mut Vec<u8>, tag: u8, record: &[u8]) {
    let Ok(length) = u16::try_from(record.len()) else { return };
    if length > 0 {
        extension.push(tag);
        extension.extend_from_slice(&length.to_le_bytes());
        extension.extend_from_slice(record);
    }
}

/// Adds the record of weights, if any is not [`WEIGHT`].
pub fn add_weights(extension: &mut Vec<u8>, weights: impl Iterator<Item = u16> + Clone) {
    if weights.clone().any(|w| w != WEIGHT) {
        let record: Vec<u8> = weights.flat_map(u16::to_le_bytes).collect();
        add(extension, WEIGHTS, &record);
    }
}

impl Advert {
    /// The weights of the endpoints, in their order. A record that does not fit them says nothing.
    pub fn weights(&self) -> Vec<u16> {
        let record = record(&self.extension, WEIGHTS).unwrap_or_default();
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
    fn an_unknown_tag_is_skipped_and_a_broken_end_is_not_read() {
        let mut extension = Vec::new();
        add(&mut extension, 77, b"of a later version");
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

    proptest! {
        #[test]
        fn what_was_added_is_read_and_no_bytes_break_reading(
            all in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 1..40)), 0..6),
            noise in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut extension = Vec::new();
            for (tag, record) in &all {
                add(&mut extension, *tag, record);
            }
            let read: Vec<(u8, Vec<u8>)> =
                records(&extension).map(|(tag, r)| (tag, r.to_vec())).collect();
            prop_assert_eq!(read, all);
            prop_assert!(records(&noise).map(|(_, r)| r.len() + 3).sum::<usize>() <= noise.len());
        }
    }
}
