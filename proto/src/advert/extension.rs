//! What later versions put into an advert's `extension`: parts, each `[tag][length, 2 bytes][bytes]`. A
//! tag that is not known is passed over, so that parts may be added without asking older agents.

use serde::{Deserialize, Serialize};

use crate::ids::ServiceName;
use crate::wire;

/// The tag of the leases held.
const LEASES: u8 = 10;

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

/// Appends a part. One too long to be told is left out.
pub fn put(extension: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if let Ok(length) = u16::try_from(bytes.len()) {
        extension.push(tag);
        extension.extend_from_slice(&length.to_le_bytes());
        extension.extend_from_slice(bytes);
    }
}

/// The part of that tag. `None` where there is none, or what stands there is no list of parts.
pub fn find(mut extension: &[u8], tag: u8) -> Option<&[u8]> {
    while let [found, low, high, rest @ ..] = extension {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let (part, rest) = rest.split_at_checked(length)?;
        if *found == tag {
            return Some(part);
        }
        extension = rest;
    }
    None
}

/// Appends the leases held, if there are any.
pub fn put_leases(extension: &mut Vec<u8>, leases: &[LeaseAdvert]) {
    if let (false, Ok(bytes)) = (leases.is_empty(), wire::encode_body(&leases)) {
        put(extension, LEASES, &bytes);
    }
}

/// The leases held; none where it does not say, or cannot be read.
pub fn leases(extension: &[u8]) -> Vec<LeaseAdvert> {
    let part = find(extension, LEASES);
    part.and_then(|bytes| wire::decode_body(bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn leases_survive_beside_parts_nobody_knows() {
        let service = ServiceName::parse("ledger").unwrap();
        let held = vec![LeaseAdvert { service, instance: 1, term: 7 }];
        let mut extension = Vec::new();
        put(&mut extension, 200, b"of a later version");
        put_leases(&mut extension, &held);
        put(&mut extension, 201, b"");
        assert_eq!(leases(&extension), held);
        assert!(leases(&[]).is_empty());
        assert_eq!(find(&extension, 201), Some(&b""[..]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), tag: u8) {
            let _ = find(&bytes, tag);
            let _ = leases(&bytes);
        }
    }
}
