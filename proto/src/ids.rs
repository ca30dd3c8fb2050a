//! The names and versions every other module speaks in.
//!
//! A name is checked once, where it enters (config, certificate, wire), and is trusted afterwards: no
//! other module validates a name again. Names are cheap to clone and to compare (up to 23 bytes lie in
//! place, without an allocation, a counter or a pointer) and ordered, so that every map in the core iterates
//! in the same order on every host.

use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;

/// Longest node or service name, in bytes: a DNS label (RFC 1035 section 2.3.4).
pub const MAX_LABEL: usize = 63;
/// Longest trust domain, in bytes (SPIFFE-ID section 2.1).
pub const MAX_TRUST_DOMAIN: usize = 255;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text was empty.
    #[error("a {what} may not be empty")]
    Empty {
        /// What kind of name was read.
        what: &'static str,
    },
    /// The text was too long.
    #[error("the {what} {text:?} has {} bytes, at most {max} are allowed", text.len())]
    TooLong {
        /// What kind of name was read.
        what: &'static str,
        /// The offending text.
        text: String,
        /// The bound in bytes.
        max: usize,
    },
    /// A character is not allowed where it stands.
    #[error("the {what} {text:?} has {found:?} at position {at}; allowed are {allowed}")]
    Character {
        /// What kind of name was read.
        what: &'static str,
        /// The offending text.
        text: String,
        /// The character.
        found: char,
        /// Its position in characters, from 1.
        at: usize,
        /// What may stand there.
        allowed: &'static str,
    },
}

fn check_label(what: &'static str, text: &str) -> Result<(), NameError> {
    const ALLOWED: &str = "a-z, 0-9 and, not first or last, '-'";
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > MAX_LABEL {
        return Err(NameError::TooLong { what, text: text.into(), max: MAX_LABEL });
    }
    // Nearly always so, and read for each name that arrives; what follows only finds what is wrong.
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.bytes().all(plain) && !text.starts_with('-') && !text.ends_with('-') {
        return Ok(());
    }
    let last = text.chars().count() - 1;
    for (i, c) in text.chars().enumerate() {
        let edge = i == 0 || i == last;
        if !(c.is_ascii_lowercase() || c.is_ascii_digit() || (c == '-' && !edge)) {
            return Err(NameError::Character {
                what,
                text: text.into(),
                found: c,
                at: i + 1,
                allowed: ALLOWED,
            });
        }
    }
    Ok(())
}

fn check_domain(what: &'static str, text: &str) -> Result<(), NameError> {
    const ALLOWED: &str = "a-z, 0-9, '.', '-' and '_' (SPIFFE-ID section 2.1)";
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > MAX_TRUST_DOMAIN {
        return Err(NameError::TooLong { what, text: text.into(), max: MAX_TRUST_DOMAIN });
    }
    for (i, c) in text.chars().enumerate() {
        if !(c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_')) {
            return Err(NameError::Character {
                what,
                text: text.into(),
                found: c,
                at: i + 1,
                allowed: ALLOWED,
            });
        }
    }
    Ok(())
}

/// Reads a name from where its text lies.
struct Text<T> {
    what: &'static str,
    parse: fn(&str) -> Result<T, NameError>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {}", self.what)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(SmolStr);

        impl $type {
            /// Checks a text and takes it as a name.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                $check($what, text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        // Ordered, compared and hashed as its text is, so that maps can be asked with a text.
        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        // By hand: a derive over `String` would copy each name that is written or read once more.
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_str(Text { what: $what, parse: Self::parse })
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_str().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A host running an agent. One DNS label, so that it can stand in a SPIFFE id and a host name.
    NodeName, "node name", check_label
);
name!(
    /// A name that callers use, such as `ledger`. One DNS label.
    ServiceName, "service name", check_label
);
name!(
    /// The SPIFFE trust domain all identities of one mesh share.
    TrustDomain, "trust domain", check_domain
);

/// Counts the starts of an agent. It is on disk before the first packet leaves, and it only grows: an
/// old generation of a node is never believed again.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Generation(pub u64);

/// The version of what a node says of itself: generation first, then the changes within it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Version {
    /// The start of the agent that said it.
    pub generation: Generation,
    /// The number of the change within that start.
    pub revision: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation.0, self.revision)
    }
}

/// One instance of a service on a node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointId {
    /// The service.
    pub service: ServiceName,
    /// The node that owns the endpoint.
    pub node: NodeName,
    /// Tells several instances of a service on one node apart.
    pub instance: u16,
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.service, self.node)?;
        if self.instance > 0 {
            write!(f, "#{}", self.instance)?;
        }
        Ok(())
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Who a certificate says it is: a SPIFFE id of this mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// `spiffe://<domain>/node/<name>`: an agent.
    Node(NodeName),
    /// `spiffe://<domain>/control/<name>`: the control plane.
    Control(NodeName),
}

/// Why a URI is not an identity of this mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The URI does not start with `spiffe://`.
    #[error("{0:?} is not a SPIFFE id (it must start with spiffe://)")]
    NotSpiffe(String),
    /// The id belongs to another trust domain.
    #[error("{uri:?} is of another trust domain than {expected}")]
    OtherDomain {
        /// What was presented.
        uri: String,
        /// The domain of this mesh.
        expected: TrustDomain,
    },
    /// The path is none that Hearth uses.
    #[error("{0:?} has a path other than /node/<name> or /control/<name>")]
    Path(String),
}

impl Identity {
    /// Reads a SPIFFE id and checks that it is of `domain`.
    pub fn parse(uri: &str, domain: &TrustDomain) -> Result<Self, IdentityError> {
        let rest = uri
            .strip_prefix("spiffe://")
            .ok_or_else(|| IdentityError::NotSpiffe(uri.to_owned()))?;
        let path = || IdentityError::Path(uri.to_owned());
        let (found, rest) = rest.split_once('/').ok_or_else(path)?;
        if found != domain.as_str() {
            return Err(IdentityError::OtherDomain {
                uri: uri.to_owned(),
                expected: domain.clone(),
            });
        }
        let (kind, name) = rest.split_once('/').ok_or_else(path)?;
        let name = NodeName::parse(name).map_err(|_| path())?;
        match kind {
            "node" => Ok(Self::Node(name)),
            "control" => Ok(Self::Control(name)),
            _ => Err(path()),
        }
    }

    /// The SPIFFE id as a URI.
    pub fn uri(&self, domain: &TrustDomain) -> String {
        match self {
            Self::Node(name) => format!("spiffe://{domain}/node/{name}"),
            Self::Control(name) => format!("spiffe://{domain}/control/{name}"),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Control(name) => write!(f, "control/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_dns_label() {
        assert!(NodeName::parse("web-1").is_ok());
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "ä", &"x".repeat(64)] {
            assert!(NodeName::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn an_identity_survives_its_uri_and_no_other_domain_passes() {
        let domain = TrustDomain::parse("mesh.example").unwrap();
        let id = Identity::Node(NodeName::parse("web-1").unwrap());
        assert_eq!(Identity::parse(&id.uri(&domain), &domain), Ok(id));
        for bad in [
            "spiffe://other.example/node/web-1",
            "spiffe://mesh.example/node/web-1/x",
            "spiffe://mesh.example/node/",
            "spiffe://mesh.example/node",
            "spiffe://mesh.example/admin/web-1",
            "https://mesh.example/node/web-1",
        ] {
            assert!(Identity::parse(bad, &domain).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn names_of_every_length_compare_as_their_texts_do() {
        let texts: Vec<String> = (1..=MAX_LABEL)
            .flat_map(|n| ["a", "b", "0"].map(|last| format!("{}{last}", "a".repeat(n - 1))))
            .collect();
        let names: Vec<NodeName> = texts.iter().map(|t| NodeName::parse(t).unwrap()).collect();
        for (a, x) in texts.iter().zip(&names) {
            assert_eq!((x.as_str(), &x.to_string(), &String::from(x.clone())), (a.as_str(), a, a));
            for (b, y) in texts.iter().zip(&names) {
                assert_eq!((x.cmp(y), x == y), (a.cmp(b), a == b), "{a} and {b}");
            }
        }
    }

    #[test]
    fn a_newer_generation_beats_any_revision() {
        let old = Version { generation: Generation(1), revision: u64::MAX };
        let new = Version { generation: Generation(2), revision: 0 };
        assert!(new > old);
    }
}
