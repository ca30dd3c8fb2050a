//! TLS 1.3 records, sealed and opened in place.
//!
//! rustls makes the handshake, checks certificates and derives keys; afterwards its record layer would copy each
//! record twice and allocate for it. This one works as kernel TLS would (`rustls::kernel`): it takes the traffic
//! secrets, and leaves to rustls the derivation of their successors. What stands here is RFC 8446 section 5.2 and
//! nothing else: the header as additional data, the nonce from the sequence number, the content type behind the
//! plaintext. Held to rustls's own record layer by tests that put it at the other end.

use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;

use super::frame::MAX_RECORD;

/// In front of each record: content type, version, length.
pub(crate) const HEAD: usize = 5;
/// Behind the plaintext: the real content type and the tag.
pub(crate) const TAIL: usize = 1 + TAG;
const TAG: usize = 16;
/// Most that a record may hold behind its header (RFC 8446 section 5.2).
const MAX_SEALED: usize = MAX_RECORD + 256;
/// Records under one key. AES-GCM stays safe for 2^24.5 of full size (RFC 8446 section 5.5).
const REKEY: u64 = 1 << 23;

pub(crate) const APPLICATION: u8 = 23;
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const KEY_UPDATE_REQUESTED: [u8; 5] = [24, 0, 0, 1, 1];
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// Why a record cannot be used. The connection is of no use then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("a TLS record was forged or damaged")]
    Forged,
    #[error("a TLS record is malformed: {0}")]
    Malformed(&'static str),
    #[error("the peer refused us: TLS alert {0}")]
    Alert(u8),
    #[error("no fresh TLS keys: {0}")]
    Keys(String),
}

/// One direction's key, and the number of the next record.
struct Key {
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    number: u64,
}

impl Key {
    fn new((number, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        let unusable = || RecordError::Keys("an unknown cipher".into());
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (&aead::CHACHA20_POLY1305, key, iv)
            }
            _ => return Err(unusable()),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| unusable())?;
        let iv = iv.as_ref().try_into().map_err(|_| unusable())?;
        Ok(Self { key: LessSafeKey::new(key), iv, number })
    }

    /// The nonce of the next record (RFC 8446 section 5.3). Each number is used once.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[aead::NONCE_LEN - 8..].iter_mut().zip(self.number.to_be_bytes())
        {
            *byte ^= number;
        }
        self.number += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// rustls's side of the connection, for keys that follow.
pub(crate) enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

/// The record layer of one connection.
pub(crate) struct Records {
    kernel: Kernel,
    sealing: Key,
    opening: Key,
    /// Our key is to be replaced before the next record.
    rekey: bool,
}

/// What a record holds: the length of its plaintext, which begins behind [`HEAD`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Frames.
    Application(usize),
    /// Something of TLS's own that is dealt with.
    Nothing,
    /// The peer says that nothing follows.
    End,
}

impl Records {
    pub(crate) fn new(
        kernel: Kernel,
        secrets: rustls::ExtractedSecrets,
    ) -> Result<Self, RecordError> {
        let (sealing, opening) = (Key::new(secrets.tx)?, Key::new(secrets.rx)?);
        Ok(Self { kernel, sealing, opening, rekey: false })
    }

    /// Length of the first record in `bytes`, header included; `None` while its header is not whole.
    pub(crate) fn length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        let Some(&[kind, major, _, high, low]) = bytes.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let length = usize::from(high) << 8 | usize::from(low);
        if kind != APPLICATION || major != 3 {
            return Err(RecordError::Malformed("not application data"));
        }
        if length > MAX_SEALED {
            return Err(RecordError::Malformed("too long"));
        }
        Ok(Some(HEAD + length))
    }

    /// Opens one whole record in place.
    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<Opened, RecordError> {
        let (head, sealed) = record.split_at_mut(HEAD);
        let nonce = self.opening.nonce();
        let plain = self
            .opening
            .key
            .open_in_place(nonce, Aad::from(&*head), sealed)
            .map_err(|_| RecordError::Forged)?;
        // Padding is zeros behind the content type.
        let Some(end) = plain.iter().rposition(|byte| *byte != 0) else {
            return Err(RecordError::Malformed("no content type"));
        };
        if end > MAX_RECORD {
            return Err(RecordError::Malformed("too long"));
        }
        match (plain[end], &plain[..end]) {
            (APPLICATION, _) => Ok(Opened::Application(end)),
            (ALERT, [_, 0]) => Ok(Opened::End),
            (ALERT, [_, alert]) => Err(RecordError::Alert(*alert)),
            (HANDSHAKE, message) => {
                let asked = match message {
                    m if m == KEY_UPDATE => false,
                    m if m == KEY_UPDATE_REQUESTED => true,
                    _ => return Err(RecordError::Malformed("an unexpected handshake message")),
                };
                self.rekey |= asked;
                self.opening = Key::new(self.successor(false)?)?;
                Ok(Opened::Nothing)
            }
            _ => Err(RecordError::Malformed("an unknown content type")),
        }
    }

    /// Seals, in place, records that were laid out by [`super::outbox::Outbox`]. A change of keys that is
    /// due goes in front of them.
    pub(crate) fn seal_all(&mut self, records: &mut Vec<u8>) -> Result<(), RecordError> {
        if self.rekey || self.sealing.number >= REKEY {
            let mut update = laid_out(HANDSHAKE, &KEY_UPDATE);
            self.seal(&mut update)?;
            self.sealing = Key::new(self.successor(true)?)?;
            self.rekey = false;
            let start = update.len();
            records.splice(0..0, update);
            return self.seal(&mut records[start..]);
        }
        self.seal(records)
    }

    /// The record that says that nothing follows.
    pub(crate) fn close_notify(&mut self) -> Result<Vec<u8>, RecordError> {
        let mut notify = laid_out(ALERT, &CLOSE_NOTIFY);
        self.seal(&mut notify)?;
        Ok(notify)
    }

    #[cfg(test)]
    pub(crate) fn rekey(&mut self) {
        self.rekey = true;
    }

    fn seal(&mut self, mut records: &mut [u8]) -> Result<(), RecordError> {
        while let Some(length) = Self::length(records)? {
            let (record, rest) = records.split_at_mut(length);
            let (head, body) = record.split_at_mut(HEAD);
            let (plain, tag) = body.split_at_mut(body.len() - TAG);
            let nonce = self.sealing.nonce();
            let sealed = self
                .sealing
                .key
                .seal_in_place_separate_tag(nonce, Aad::from(&*head), plain)
                .map_err(|_| RecordError::Keys("a record could not be sealed".into()))?;
            tag.copy_from_slice(sealed.as_ref());
            records = rest;
        }
        Ok(())
    }

    fn successor(&mut self, ours: bool) -> Result<(u64, ConnectionTrafficSecrets), RecordError> {
        let next = match (&mut self.kernel, ours) {
            (Kernel::Client(k), true) => k.update_tx_secret(),
            (Kernel::Client(k), false) => k.update_rx_secret(),
            (Kernel::Server(k), true) => k.update_tx_secret(),
            (Kernel::Server(k), false) => k.update_rx_secret(),
        };
        next.map_err(|e| RecordError::Keys(e.to_string()))
    }
}

/// The header of a record with so long a plaintext.
pub(crate) fn head(plain: usize) -> [u8; HEAD] {
    // Proof: plaintexts are at most MAX_RECORD long.
    let [high, low] = ((plain + TAIL) as u16).to_be_bytes();
    [APPLICATION, 3, 3, high, low]
}

/// A record as it is before it is sealed.
fn laid_out(kind: u8, plain: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEAD + plain.len() + TAIL);
    record.extend_from_slice(&head(plain.len()));
    record.extend_from_slice(plain);
    record.push(kind);
    record.extend_from_slice(&[0; TAG]);
    record
}
