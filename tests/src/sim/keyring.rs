//! A keyring whose signatures are keyed hashes.
//!
//! Each identity has a secret that only its own keyring and the verifier inside every keyring know. What
//! an attacker of the simulator makes without the secret does not verify, as with real keys; that the
//! verifier could sign is the price of having no cryptography here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use hearth_proto::advert::{Keyring, Untrusted};
use hearth_proto::ids::{Identity, NodeName};
use hearth_proto::time::Wall;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

/// One identity's keys, and what it knows of revocations.
pub struct Keys {
    seed: u64,
    who: Identity,
    issued: Wall,
    revoked: Revoked,
    signed: Signed,
}

/// The revocations a keyring goes by; shared with the host that learns of them.
pub type Revoked = Arc<Mutex<BTreeMap<NodeName, Wall>>>;

/// Every body an identity has signed, by [`fingerprint`]: what its owner never said is told from what it did.
pub type Signed = Arc<Mutex<BTreeSet<u64>>>;

impl Keys {
    /// Keys of `who` in the world of `seed`, with a certificate issued at `issued`.
    pub fn new(seed: u64, who: Identity, issued: Wall, revoked: Revoked, signed: Signed) -> Self {
        Self { seed, who, issued, revoked, signed }
    }
}

fn secret(seed: u64, who: &Identity) -> u64 {
    xxh3_64_with_seed(who.to_string().as_bytes(), seed ^ 0x5e_c2e7)
}

fn mac(seed: u64, who: &Identity, message: &[u8]) -> Vec<u8> {
    xxh3_128_with_seed(message, secret(seed, who)).to_le_bytes().to_vec()
}

/// The hash by which a record's body is known to the checks.
pub fn fingerprint(body: &[u8]) -> u64 {
    xxh3_64_with_seed(body, 0)
}

impl Keyring for Keys {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        signed.insert(fingerprint(message));
        mac(self.seed, &self.who, message)
    }

    fn certificate(&self) -> Arc<[u8]> {
        format!("{}|{}", self.issued.0, self.who).into_bytes().into()
    }

    fn verify(
        &self,
        signer: &Identity,
        certificate: &[u8],
        message: &[u8],
        signature: &[u8],
        _lasting: bool,
    ) -> Result<(), Untrusted> {
        let text = String::from_utf8_lossy(certificate);
        let unreadable = || Untrusted::Certificate("unreadable".to_owned());
        let (issued, who) = text.split_once('|').ok_or_else(unreadable)?;
        let issued = Wall(issued.parse().map_err(|_| unreadable())?);
        let name = |n: &str| NodeName::parse(n).map_err(|_| unreadable());
        let found = match who.split_once('/') {
            Some(("node", n)) => Identity::Node(name(n)?),
            Some(("control", n)) => Identity::Control(name(n)?),
            _ => return Err(unreadable()),
        };
        if found != *signer {
            return Err(Untrusted::OtherIdentity { expected: signer.clone(), found });
        }
        if let Identity::Node(n) = signer {
            let revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
            if revoked.get(n).is_some_and(|moment| issued < *moment) {
                return Err(Untrusted::Revoked(signer.clone()));
            }
        }
        if mac(self.seed, signer, message) == signature {
            Ok(())
        } else {
            Err(Untrusted::Signature)
        }
    }
}
