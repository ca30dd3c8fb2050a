//! The control plane's REST API: request and answer bodies, shared by the agent that joins, the daemon
//! that answers and the command line. JSON.

use serde::{Deserialize, Serialize};

use crate::document::SignedDocument;
use crate::ids::{NodeName, TrustDomain};
use crate::time::Wall;

/// `POST /v1/join`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The one-time token.
    pub token: String,
    /// The node that joins; must be the one the token is bound to.
    pub name: NodeName,
    /// PKCS #10, PEM. Only its key is used: the authority decides the names.
    pub csr_pem: String,
    /// Where the node's mesh port is reached, so that policy can be pushed to it.
    pub mesh_address: String,
}

/// `POST /v1/renew`, with the present certificate as TLS client certificate
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// PKCS #10, PEM.
    pub csr_pem: String,
    /// Where the node's mesh port is reached.
    pub mesh_address: String,
}

/// Answer to join and renew.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enrolment {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The node's certificate, PEM.
    pub certificate_pem: String,
    /// The root certificates, PEM.
    pub bundle_pem: String,
    /// The documents in force.
    pub documents: Vec<SignedDocument>,
    /// The control plane's clock, to find a wrong one early.
    pub now: Wall,
}

/// `POST /v1/tokens` (operator)
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The node it will be bound to.
    pub name: NodeName,
    /// Seconds until it expires.
    pub ttl_seconds: u64,
}

/// Its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// The token; shown once, stored hashed.
    pub token: String,
    /// When it expires.
    pub expires: Wall,
}

/// `PUT /v1/policy` (operator)
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRequest {
    /// The policy, TOML.
    pub text: String,
    /// The name of the file it came from, for error messages.
    pub file: String,
    /// Validate and compare only.
    #[serde(default)]
    pub dry_run: bool,
}

/// Its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyAnswer {
    /// The version in force afterwards (with `dry_run`: the one it would get).
    pub version: u64,
    /// What changes, a line each; empty when nothing does.
    pub changes: Vec<String>,
    /// What is allowed and will not do what was probably meant, a line each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Agents that acknowledged the push so far.
    pub acknowledged: Vec<NodeName>,
}

/// One of `GET /v1/policy/history`, and `GET /v1/policy`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyVersion {
    /// The version.
    pub version: u64,
    /// When it was signed.
    pub issued: Wall,
    /// Who applied it (the operator token's name).
    pub by: String,
    /// The text.
    pub text: String,
}

/// `GET /v1/status`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ControlStatus {
    /// Version of the daemon.
    pub version: String,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Policy version in force.
    pub policy_version: u64,
    /// When the last push reached an agent.
    pub last_push: Option<Wall>,
    /// Policy version in force by node, as last reported.
    pub nodes: Vec<(NodeName, u64)>,
}
