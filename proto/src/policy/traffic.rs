//! How a service's requests are spread over the endpoints that serve: by which balancer, with what regard
//! to where they are, and what keeps a session on one endpoint.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Word;

/// How one of the ready endpoints is picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Of two drawn at random the one with the lower peak latency times requests under way.
    #[default]
    PeakEwma,
    /// Of two drawn at random the one with fewer requests under way for its weight.
    LeastRequest,
    /// One after the other, smoothly by weight.
    RoundRobin,
    /// Always the same for the same key, unless it is far busier than the others. The key is that of
    /// `affinity`, else the client's address.
    RingHash,
}

/// Which distance between caller and endpoint counts. One without a zone or region is as far from everyone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locality {
    /// Same zone first, then same region, then the rest.
    #[default]
    Zone,
    /// Same region first, then the rest.
    Region,
    /// None.
    Off,
}

/// What keeps the requests of one session on one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// The value of this header field.
    Header(FieldName),
    /// The value of this cookie. A client that has none is given one.
    Cookie(FieldName),
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Cookie(name) => write!(f, "cookie {name}"),
        }
    }
}

/// The name of a header field or cookie: a token of RFC 9110 section 5.6.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldName(String);

impl FieldName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Word for FieldName {
    const EXPECTED: &'static str = "the name of a header field or cookie such as \"x-user\"";
    fn parse(text: &str) -> Result<Self, String> {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if text.is_empty() || text.len() > 64 || !text.bytes().all(is_token) {
            return Err(format!("{text:?} is not {}, of at most 64 characters", Self::EXPECTED));
        }
        Ok(Self(text.to_owned()))
    }
    fn print(&self) -> String {
        self.0.clone()
    }
}

/// The error that names all words there are.
fn unknown<T: Word, R>(text: &str) -> Result<R, String> {
    Err(format!("{text:?} is not {}", T::EXPECTED))
}

impl Word for Balance {
    const EXPECTED: &'static str =
        "\"peak-ewma\", \"least-request\", \"round-robin\" or \"ring-hash\"";
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "peak-ewma" => Ok(Self::PeakEwma),
            "least-request" => Ok(Self::LeastRequest),
            "round-robin" => Ok(Self::RoundRobin),
            "ring-hash" => Ok(Self::RingHash),
            _ => unknown::<Self, _>(text),
        }
    }
    fn print(&self) -> String {
        match self {
            Self::PeakEwma => "peak-ewma",
            Self::LeastRequest => "least-request",
            Self::RoundRobin => "round-robin",
            Self::RingHash => "ring-hash",
        }
        .to_owned()
    }
}

impl Word for Locality {
    const EXPECTED: &'static str = "\"zone\", \"region\" or \"off\"";
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "zone" => Ok(Self::Zone),
            "region" => Ok(Self::Region),
            "off" => Ok(Self::Off),
            _ => unknown::<Self, _>(text),
        }
    }
    fn print(&self) -> String {
        match self {
            Self::Zone => "zone",
            Self::Region => "region",
            Self::Off => "off",
        }
        .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::{Ceiling, Policy, ServicePolicy};
    use crate::settings;

    use super::*;

    fn read(text: &str) -> Result<ServicePolicy, String> {
        let text = format!("[services.ledger]\n{text}\n");
        let policy: Policy = settings::parse("p.toml", &text).map_err(|e| e.to_string())?;
        let printed = toml::to_string(&policy).unwrap();
        let again: Policy = settings::parse("p.toml", &printed).unwrap();
        assert_eq!(again, policy, "{printed}");
        let bytes = crate::wire::encode_body(&policy).unwrap();
        assert_eq!(crate::wire::decode_body(&bytes), Ok(policy.clone()));
        Ok(policy.services.into_values().next().unwrap())
    }

    #[test]
    fn balance_locality_and_affinity_read_as_they_print_and_survive_the_wire() {
        for word in ["peak-ewma", "least-request", "round-robin", "ring-hash"] {
            assert_eq!(read(&format!("balance = {word:?}")).unwrap().balance.print(), word);
        }
        for word in ["zone", "region", "off"] {
            assert_eq!(read(&format!("locality = {word:?}")).unwrap().locality.print(), word);
        }
        let header = FieldName("x-user".into());
        let affinity = |text| read(text).unwrap().affinity;
        assert_eq!(
            affinity("affinity = { header = \"x-user\" }"),
            Some(Affinity::Header(header.clone()))
        );
        assert_eq!(affinity("affinity = { cookie = \"x-user\" }"), Some(Affinity::Cookie(header)));
        assert_eq!(affinity(""), None);
        assert_eq!(read("max_requests = \"auto\"").unwrap().max_requests, Ceiling::Auto);
    }

    #[test]
    fn a_mistake_in_them_names_what_there_is() {
        for (bad, hint) in [
            ("balance = \"random\"", "\"least-request\""),
            ("locality = \"rack\"", "\"region\""),
            ("affinity = { header = \"x user\" }", "header field"),
            ("affinity = { header = \"\" }", "header field"),
            ("affinity = { ip = \"x\" }", "allowed here: header, cookie"),
            ("affinity = { header = \"a\", cookie = \"b\" }", ""),
            ("max_requests = \"many\"", "\"auto\""),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(hint), "{bad}: {error}");
        }
    }
}
