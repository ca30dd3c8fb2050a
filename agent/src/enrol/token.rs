//! The join token: `hearth1.<SHA-256 of the root>.<secret>`, both base64url without padding.
//!
//! The hash lets a node that knows nobody yet recognise the right control plane, the secret lets the
//! control plane recognise the node. Only the control plane can judge the secret; here the form is
//! checked, so that a token cut off by a terminal is told from one that was used already.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const PREFIX: &str = "hearth1";
const HINT: &str = "make a new one on the control host: hearth token create NODE";

/// A join token of the right form.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the root certificate's DER.
    pub root: [u8; 32],
    /// All of it, as it is sent.
    pub(super) text: String,
}

/// Why a text is no join token. Never quotes it: it may be a secret all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}\n  hint: {hint}")]
pub struct TokenError {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: &'static str,
}

impl JoinToken {
    /// Reads a token, with spaces or a line end around it.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let bad = |why: &str| TokenError { what: format!("the join token {why}"), hint: HINT };
        let text = text.trim();
        if text.is_empty() {
            return Err(bad("is empty"));
        }
        let mut parts = text.split('.');
        let (Some(prefix), Some(root), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad("is not of the form hearth1.HASH.SECRET; was it copied whole?"));
        };
        if prefix != PREFIX {
            return Err(bad("does not begin with \"hearth1.\"; it is none, or of another version"));
        }
        let decode = |part: &str| {
            URL_SAFE_NO_PAD.decode(part).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        };
        let root = decode(root).ok_or_else(|| bad("has a damaged HASH; was it copied whole?"))?;
        decode(secret).ok_or_else(|| bad("has a damaged SECRET; was it copied whole?"))?;
        Ok(Self { root, text: text.to_owned() })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(<hidden>)")
    }
}
