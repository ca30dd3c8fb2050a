//! foca's packets in our wire format.

use bytes::{Buf, BufMut};
use foca::{Codec, Header};
use serde::Serialize;

use crate::wire::{self, WireError};

use super::MemberId;

/// foca's codec over our wire module.
#[derive(Debug, Default)]
pub(super) struct WireCodec;

fn put(value: &impl Serialize, mut buf: impl BufMut) -> Result<(), WireError> {
    let bytes = wire::encode_body(value)?;
    if buf.remaining_mut() < bytes.len() {
        return Err(WireError::Encode("the packet is full".into()));
    }
    buf.put_slice(&bytes);
    Ok(())
}

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
        put(header, buf)
    }
    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<MemberId>, WireError> {
        take(buf)
    }
    fn encode_member(
        &mut self,
        member: &foca::Member<MemberId>,
        buf: impl BufMut,
    ) -> Result<(), WireError> {
        put(member, buf)
    }
    fn decode_member(&mut self, buf: impl Buf) -> Result<foca::Member<MemberId>, WireError> {
        take(buf)
    }
}
