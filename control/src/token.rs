//! Join tokens: their text, and why one is refused.
//!
//! A token is `hearth1.<root>.<secret>`: the hash of the mesh's root certificate, by which the joining
//! agent knows the control plane, and a secret by which the control plane knows the agent. Only the
//! secret's SHA-256 is ever stored. Whether a token is still good is decided here
//! ([`TokenRecord::check`]); that the decision and the spending are one transaction is the store's
//! promise.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hearth_proto::ids::NodeName;
use hearth_proto::time::Wall;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::authority::sha256;
use crate::moment;

/// What every token starts with; the number is the version of the format.
const SCHEME: &str = "hearth1";
/// What every operator token starts with.
const OPERATOR_SCHEME: &str = "hearthop1";

/// No random bytes could be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel gave no random bytes")]
pub struct NoRandom;

/// The SHA-256 of a secret: what is stored, and what it is found by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of a secret.
    pub fn of(secret: &[u8]) -> Self {
        Self(sha256(secret))
    }

    /// The hash's bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Hex, as stored.
    pub fn hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Whether `hex` is this hash; takes the same time wherever they differ.
    pub fn matches(&self, hex: &str) -> bool {
        self.hex().as_bytes().ct_eq(hex.as_bytes()).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", &self.hex()[..8])
    }
}

fn secret() -> Result<[u8; 32], NoRandom> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}

/// A new join token: its text, which is shown once, and the hash to be stored.
pub fn new_join_token(root_hash: &[u8; 32]) -> Result<(String, SecretHash), NoRandom> {
    let secret = secret()?;
    let text = format!(
        "{SCHEME}.{}.{}",
        URL_SAFE_NO_PAD.encode(root_hash),
        URL_SAFE_NO_PAD.encode(secret)
    );
    Ok((text, SecretHash::of(&secret)))
}

/// A new operator token: its text, which is shown once, and the hash to be stored.
pub fn new_operator_token() -> Result<(String, SecretHash), NoRandom> {
    let text = format!("{OPERATOR_SCHEME}.{}", URL_SAFE_NO_PAD.encode(secret()?));
    let hash = SecretHash::of(text.as_bytes());
    Ok((text, hash))
}

/// Reads a join token meant for the mesh with `root_hash`.
pub fn read_join_token(text: &str, root_hash: &[u8; 32]) -> Result<SecretHash, TokenRefused> {
    let decode = |part: &str| -> Option<[u8; 32]> {
        URL_SAFE_NO_PAD.decode(part).ok()?.as_slice().try_into().ok()
    };
    let mut parts = text.trim().split('.');
    let (Some(SCHEME), Some(root), Some(secret), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenRefused::Malformed);
    };
    let root = decode(root).ok_or(TokenRefused::Malformed)?;
    let secret = decode(secret).ok_or(TokenRefused::Malformed)?;
    if root != *root_hash {
        return Err(TokenRefused::OtherMesh);
    }
    Ok(SecretHash::of(&secret))
}

/// What is stored of a join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// The node it is bound to.
    pub node: NodeName,
    /// When it was made.
    pub created: Wall,
    /// Who made it.
    pub by: String,
    /// When it expires.
    pub expires: Wall,
    /// When and from where it was used.
    pub used: Option<Use>,
}

/// The one use of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// When.
    pub at: Wall,
    /// From which address.
    pub from: String,
}

impl TokenRecord {
    /// Whether `node` may join with it at `now`. In this order: a used token stays "replayed" for
    /// ever, and whoever holds a token of another name learns nothing of its state.
    pub fn check(&self, node: &NodeName, now: Wall) -> Result<(), TokenRefused> {
        if self.node != *node {
            return Err(TokenRefused::OtherName { asked: node.clone() });
        }
        if let Some(used) = &self.used {
            return Err(TokenRefused::Replayed { at: used.at });
        }
        if now >= self.expires {
            return Err(TokenRefused::Expired { at: self.expires });
        }
        Ok(())
    }
}

/// Why nobody joins with this token. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// The text is no token.
    #[error("this is not a join token (one reads {SCHEME}.<root>.<secret>)")]
    Malformed,
    /// The token pins another root.
    #[error("the join token was made by the control plane of another mesh")]
    OtherMesh,
    /// Nobody made it, or it was forgotten since.
    #[error("the join token is not known here")]
    Unknown,
    /// It is bound to another name.
    #[error("the join token is not for node {asked}")]
    OtherName {
        /// The name that wanted to join.
        asked: NodeName,
    },
    /// It was used before.
    #[error("the join token was used already, at {}", moment::utc(*.at))]
    Replayed {
        /// When.
        at: Wall,
    },
    /// It is too old.
    #[error("the join token expired at {}", moment::utc(*.at))]
    Expired {
        /// When.
        at: Wall,
    },
}

impl TokenRefused {
    /// One word for the counter's label and the audit line.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::OtherMesh => "token_other_mesh",
            Self::Unknown => "token_unknown",
            Self::OtherName { .. } => "token_other_name",
            Self::Replayed { .. } => "token_replayed",
            Self::Expired { .. } => "token_expired",
        }
    }

    /// What to do, as told to whoever wanted to join as `node`.
    pub fn hint(&self, node: &NodeName) -> String {
        let fresh = format!("make a new one: hearth token create {node}");
        match self {
            Self::Malformed => format!("copy the whole token, or {fresh}"),
            Self::OtherMesh => "use the token of this mesh, or the address of the other".to_owned(),
            Self::Unknown | Self::Expired { .. } => fresh,
            Self::OtherName { .. } => format!("a token is bound to one name; {fresh}"),
            Self::Replayed { .. } => {
                format!(
                    "a token is good for one join; if that was not you, look into it, then {fresh}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: [u8; 32] = [7; 32];

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    fn record() -> TokenRecord {
        TokenRecord {
            node: node("web-1"),
            created: Wall(0),
            by: "admin".into(),
            expires: Wall(1_000_000),
            used: None,
        }
    }

    #[test]
    fn a_token_survives_its_text_and_the_text_holds_no_stored_hash() {
        let (text, hash) = new_join_token(&ROOT).unwrap();
        assert_eq!(read_join_token(&format!(" {text}\n"), &ROOT), Ok(hash));
        assert!(!text.contains(&hash.hex()));
    }

    #[test]
    fn garbage_is_no_token() {
        let (good, _) = new_join_token(&ROOT).unwrap();
        let long = "x".repeat(100_000);
        for bad in ["", ".", "..", "hearth1..", "hearth2.a.b", "hearth1.a.b", &long, &good[1..]] {
            assert_eq!(read_join_token(bad, &ROOT), Err(TokenRefused::Malformed), "{bad:.40}");
        }
        for bad in [format!("{good}.x"), format!("{good}x"), good[..good.len() - 4].to_owned()] {
            assert_eq!(read_join_token(&bad, &ROOT), Err(TokenRefused::Malformed), "{bad}");
        }
    }

    #[test]
    fn a_token_of_another_root_is_told_apart() {
        let (text, _) = new_join_token(&[8; 32]).unwrap();
        assert_eq!(read_join_token(&text, &ROOT), Err(TokenRefused::OtherMesh));
    }

    #[test]
    fn a_token_is_good_once_for_one_name_until_it_expires() {
        let mut r = record();
        assert_eq!(r.check(&node("web-1"), Wall(999_999)), Ok(()));
        assert_eq!(r.check(&node("web-1"), Wall(1_000_000)).unwrap_err().reason(), "token_expired");
        assert_eq!(r.check(&node("web-2"), Wall(1)).unwrap_err().reason(), "token_other_name");
        r.used = Some(Use { at: Wall(5), from: "192.0.2.1".into() });
        assert_eq!(r.check(&node("web-1"), Wall(6)).unwrap_err().reason(), "token_replayed");
        assert_eq!(r.check(&node("web-2"), Wall(6)).unwrap_err().reason(), "token_other_name");
    }

    #[test]
    fn each_refusal_says_what_and_what_to_do() {
        let n = node("web-1");
        let told: Vec<String> = [
            TokenRefused::Malformed,
            TokenRefused::OtherMesh,
            TokenRefused::Unknown,
            TokenRefused::OtherName { asked: n.clone() },
            TokenRefused::Replayed { at: Wall(0) },
            TokenRefused::Expired { at: Wall(0) },
        ]
        .iter()
        .map(|r| format!("{r} | {}", r.hint(&n)))
        .collect();
        assert_eq!(
            told,
            [
                "this is not a join token (one reads hearth1.<root>.<secret>) | copy the whole \
                 token, or make a new one: hearth token create web-1",
                "the join token was made by the control plane of another mesh | use the token of \
                 this mesh, or the address of the other",
                "the join token is not known here | make a new one: hearth token create web-1",
                "the join token is not for node web-1 | a token is bound to one name; make a new \
                 one: hearth token create web-1",
                "the join token was used already, at 1970-01-01 00:00:00Z | a token is good for \
                 one join; if that was not you, look into it, then make a new one: hearth token \
                 create web-1",
                "the join token expired at 1970-01-01 00:00:00Z | make a new one: hearth token \
                 create web-1",
            ]
        );
    }
}
