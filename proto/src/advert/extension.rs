//! Records behind the fixed part of an advert: what later versions say, in a form earlier ones skip.
//!
//! The extension is a sequence of `tag: u8`, `length: u16` (little-endian), `length` bytes. A tag that is
//! not known here is skipped, and so is whatever a later version adds at the end of a known record. The
//! reader never fails: it stops where a length reaches beyond the end, and what stood before counts. Tags
//! are given out here, each once and for good.

/// What balancing needs of each endpoint.
pub const WEIGHTS: u8 = 1;
/// How each endpoint is checked and activated; see [`traits`](super::traits).
pub const TRAITS: u8 = 2;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        fn any_bytes_are_read_without_end_or_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let read: usize = records(&bytes).map(|(_, body)| body.len() + HEAD).sum();
            prop_assert!(read <= bytes.len());
        }
    }
}
