//! A recording's bytes: a header, then frames. A frame is its length (u32), a checksum (xxh3-64, both
//! little endian) and some entries in the wire encoding.
//!
//! Whoever writes may die within a frame: reading stops at the first that does not hold, and says how much
//! it left unread. Entries are batched in frames, so that a frame's twelve bytes are shared by many.

use xxhash_rust::xxh3::xxh3_64;

use crate::wire::{self, WireError};

use super::input::Entry;

const MAGIC: &[u8; 8] = b"hearthfr";
/// Grows with every change of what entries consist of: a file of another format is refused by its number.
const FORMAT: u16 = 3;
const HEADER: usize = MAGIC.len() + 2;
const FRAME: usize = 4 + 8;

/// What begins a file.
pub fn header() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes
}

/// Some entries as a frame.
pub fn frame(entries: &[Entry]) -> Result<Vec<u8>, WireError> {
    let body = wire::encode_body(&entries)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|n| *n as usize <= wire::MAX_LARGE)
        .ok_or_else(|| WireError::Encode("a frame is too large".into()))?;
    let mut bytes = Vec::with_capacity(FRAME + body.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&xxh3_64(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// What a file holds.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Everything up to the end or the first damage.
    pub entries: Vec<Entry>,
    /// What is wrong with the rest, if there is one.
    pub damage: Option<Damage>,
}

/// A tail that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins.
    pub offset: usize,
    /// How many bytes it has.
    pub bytes: usize,
    /// What is wrong.
    pub why: String,
}

/// Reads a file. `Err` says why it is no recording of this format.
pub fn read(bytes: &[u8]) -> Result<Recording, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it is no recording of Hearth's flight recorder")?;
    let (format, mut rest) = rest.split_first_chunk::<2>().ok_or("it ends within its header")?;
    let format = u16::from_le_bytes(*format);
    if format != FORMAT {
        return Err(format!(
            "it is of format {format}, this version of Hearth reads format {FORMAT}: replay it with the \
             version that recorded it"
        ));
    }
    let mut recording = Recording { entries: Vec::new(), damage: None };
    let mut offset = HEADER;
    while !rest.is_empty() {
        match one(rest) {
            Ok((entries, used)) => {
                recording.entries.extend(entries);
                rest = &rest[used..];
                offset += used;
            }
            Err(why) => {
                recording.damage = Some(Damage { offset, bytes: rest.len(), why });
                break;
            }
        }
    }
    Ok(recording)
}

fn one(bytes: &[u8]) -> Result<(Vec<Entry>, usize), String> {
    let short = || "it ends within a frame".to_owned();
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
    let (sum, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let length = u32::from_le_bytes(*length) as usize;
    let body = rest.get(..length).ok_or_else(short)?;
    if xxh3_64(body) != u64::from_le_bytes(*sum) {
        return Err("a frame's checksum does not fit".to_owned());
    }
    let entries = wire::decode_large(body).map_err(|e| e.to_string())?;
    Ok((entries, FRAME + length))
}
