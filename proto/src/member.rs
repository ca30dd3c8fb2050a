//! Membership (SWIM by foca): placeholder types used on the wire.
use serde::{Deserialize, Serialize};

/// One member as carried by push-pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// foca's encoding.
    pub bytes: Vec<u8>,
}
