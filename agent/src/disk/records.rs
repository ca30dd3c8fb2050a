//! The format of `table.bin` and `documents.bin`: magic, SHA-256 of the rest, then frames.
//!
//! A frame is its length (u32, little endian) and a `Vec` of some records in the wire encoding. Frames
//! exist because one encoded value may not exceed the wire's limit, while a table may. The digest tells a
//! damaged file from one written by another version; whom to believe is told by the records' signatures.

use std::fs;
use std::io;
use std::path::Path;

use hearth_proto::wire::{self, MAX_MESSAGE, WireError};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::Serialize;
use serde::de::DeserializeOwned;

const MAGIC: &[u8; 8] = b"hearth\0\x01";
/// Records per frame. Adverts are at most 16 KiB and a certificate, so a frame stays well under the
/// wire's 4 MiB; documents may be 512 KiB each, and there are three.
const PER_FRAME: usize = 4;
/// Largest file that is read: 2,000 nodes with the largest adverts are 40 MB.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// Why a file of records cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damage {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it has {0} bytes, at most {MAX_FILE} are read")]
    TooLarge(u64),
    #[error("it does not begin as a file of this version of Hearth does")]
    Magic,
    #[error("its digest does not fit its content")]
    Digest,
    #[error("it ends within a record")]
    Truncated,
    #[error("a record cannot be read: {0}")]
    Record(#[from] WireError),
}

/// The bytes of a file that holds `values`.
pub(super) fn encode<T: Serialize>(values: &[T]) -> Result<Vec<u8>, WireError> {
    let mut frames = Vec::new();
    for chunk in values.chunks(PER_FRAME) {
        let frame = wire::encode_body(&chunk)?;
        let length = u32::try_from(frame.len())
            .ok()
            .filter(|l| *l as usize <= MAX_MESSAGE)
            .ok_or_else(|| WireError::Encode("a frame exceeds the wire's limit".into()))?;
        frames.extend_from_slice(&length.to_le_bytes());
        frames.extend_from_slice(&frame);
    }
    let mut bytes = Vec::with_capacity(MAGIC.len() + SHA256_OUTPUT_LEN + frames.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(digest(&SHA256, &frames).as_ref());
    bytes.extend_from_slice(&frames);
    Ok(bytes)
}

/// The records of the file at `path`; `None` where there is no file.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<Vec<T>>, Damage> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE => return Err(Damage::TooLarge(metadata.len())),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    }
    decode(&fs::read(path)?).map(Some)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Vec<T>, Damage> {
    let bytes = bytes.strip_prefix(MAGIC).ok_or(Damage::Magic)?;
    let (expected, mut frames) =
        bytes.split_at_checked(SHA256_OUTPUT_LEN).ok_or(Damage::Truncated)?;
    if digest(&SHA256, frames).as_ref() != expected {
        return Err(Damage::Digest);
    }
    let mut values = Vec::new();
    while !frames.is_empty() {
        let (length, rest) = frames.split_first_chunk::<4>().ok_or(Damage::Truncated)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (frame, rest) = rest.split_at_checked(length).ok_or(Damage::Truncated)?;
        values.extend(wire::decode_body::<Vec<T>>(frame)?);
        frames = rest;
    }
    Ok(values)
}
