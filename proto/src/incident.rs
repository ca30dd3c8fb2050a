//! Naming an incident so that agents which never spoke name it alike.
//!
//! An incident is the loss of one endpoint in one version of its owner's advert. Everyone who holds
//! that advert derives the same key from it, and from the key the same trace id: the spans of all
//! agents end in one trace without anyone coordinating.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::ids::{EndpointId, NodeName, Version};

/// What an incident is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IncidentKey {
    /// The endpoint that was lost.
    pub lost: EndpointId,
    /// The version of its owner's last advert in which it was serving.
    pub version: Version,
}

impl IncidentKey {
    fn canonical(&self) -> String {
        format!("hearth-incident/1|{}|{}", self.lost, self.version)
    }

    /// The W3C trace id of the incident: the same on every agent. Never zero.
    pub fn trace_id(&self) -> u128 {
        xxh3_128(self.canonical().as_bytes()).max(1)
    }

    /// The id of one of the incident's spans as `node` makes it. Never zero.
    pub fn span_id(&self, span: &str, node: &NodeName) -> u64 {
        xxh3_64(format!("{}|{span}|{node}", self.canonical()).as_bytes()).max(1)
    }
}

/// The short id people use: service and eight hex digits.
impl fmt::Display for IncidentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.lost.service, (self.trace_id() >> 96) as u32)
    }
}
