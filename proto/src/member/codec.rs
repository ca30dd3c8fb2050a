//! foca's packets in our wire format.

use bytes::{Buf, BufMut};
use foca::{Codec, Header};

use crate::wire::{self, WireError};

use super::MemberId;

/// foca's codec over our wire module.
#[derive(Debug, Default)]
pub(super) struct WireCodec;

fn take<T: serde::de::DeserializeOwned>(mut buf: impl Buf) -> Result<T, WireError> {
    let (value, used) = wire::decode_prefix(buf.chunk())?;
    buf.advance(used);
    Ok(value)
}

impl Codec<MemberId> for WireCodec {
    type Error = WireError;

    fn encode_header(
        &mut self,
        header: &Header<MemberId>,
        buf: impl BufMut,
    ) -> Result<(), WireError> {
        wire::encode_into(header, buf)
    }
    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<MemberId>, WireError> {
        take(buf)
    }
    fn encode_member(
        &mut self,
        member: &foca::Member<MemberId>,
        mut buf: impl BufMut,
    ) -> Result<(), WireError> {
        // Whole or not at all: what a packet had no room for must take none.
        let bytes = wire::encode_body(member)?;
        if buf.remaining_mut() < bytes.len() {
            return Err(WireError::Encode("the packet is full".into()));
        }
        buf.put_slice(&bytes);
        Ok(())
    }
    fn decode_member(&mut self, buf: impl Buf) -> Result<foca::Member<MemberId>, WireError> {
        take(buf)
    }
}
