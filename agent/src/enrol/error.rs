//! Why a node did not join or renew, in words an operator can act on.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hearth_proto::ids::NodeName;
use hearth_proto::time::Wall;

use super::token::TokenError;
use crate::config::HostPort;
use crate::identity::{IdentityError, StoreError, rfc3339, roughly};

/// Why joining or renewing failed. The identity in use, if any, stays in use.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The token is none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The file with the token could not be read.
    #[error(
        "cannot read the join token from {}: {source}\n  hint: write the output of \"hearth token \
         create NODE\" there, readable by the user the agent runs as", path.display()
    )]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The name of the control plane's host is not known.
    #[error(
        "cannot find the address of the control plane {control}: {source}\n  hint: check join.control \
         and this host's name resolution"
    )]
    Lookup {
        /// The control API.
        control: HostPort,
        /// Why.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error(
        "cannot reach the control plane at {control}: {why}\n  hint: is \"hearth-control serve\" \
         running there, and may this host reach it over TCP? A node that has joined needs it only to \
         renew"
    )]
    Unreachable {
        /// The control API.
        control: HostPort,
        /// Why.
        why: String,
    },
    /// Somebody answers who is not the control plane the token names.
    #[error(
        "{control} is not the control plane this token is of: it shows no root certificate with the \
         SHA-256 {expected}\n  hint: check join.control; if the authority was made anew (hearth-control \
         init), make a new token there. If neither, somebody stands in between"
    )]
    WrongRoot {
        /// The control API.
        control: HostPort,
        /// The hash in the token, hex, shortened.
        expected: String,
    },
    /// The TLS handshake failed.
    #[error(
        "no trusted connection to the control plane at {control}: {why}\n  hint: {}",
        tls_hint(why)
    )]
    Tls {
        /// The control API.
        control: HostPort,
        /// Why.
        why: String,
    },
    /// The control plane said no.
    #[error(
        "the control plane at {control} does not let this node {attempt}: {error}\n  hint: {hint}"
    )]
    Refused {
        /// The control API.
        control: HostPort,
        /// What was asked for.
        attempt: &'static str,
        /// The HTTP status.
        status: u16,
        /// Its words.
        error: String,
        /// What to do, its words or ours.
        hint: String,
    },
    /// The answer makes no sense.
    #[error(
        "the answer of the control plane at {control} cannot be used: {why}\n  hint: is it of a version \
         that fits this agent, and is {control} its API port?"
    )]
    Answer {
        /// The control API.
        control: HostPort,
        /// Why.
        why: String,
    },
    /// The clocks differ too much.
    #[error("{}", clock_text(control, *ours, *theirs))]
    Clock {
        /// The control API.
        control: HostPort,
        /// Our time.
        ours: Wall,
        /// Its time.
        theirs: Wall,
    },
    /// The identity received is not usable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The identity cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A node of that name is there already.
    #[error(
        "this node is {found}, the configuration says {expected}\n  hint: {}",
        name_hint(expected)
    )]
    OtherName {
        /// The identity on disk.
        found: NodeName,
        /// The configuration.
        expected: NodeName,
    },
}

fn clock_text(control: &HostPort, ours: Wall, theirs: Wall) -> String {
    let off = roughly(Duration::from_micros(ours.0.abs_diff(theirs.0)));
    let direction = if ours < theirs { "behind" } else { "ahead of" };
    format!(
        "this host's clock is {off} {direction} the control plane's at {control}: here it is {}, there \
         {}; other agents would refuse this node's certificate\n  hint: set the clock right (is a time \
         service such as chrony or systemd-timesyncd running, here and there?) and start the agent \
         again; no new token is needed",
        rfc3339(ours),
        rfc3339(theirs)
    )
}

/// How a refusal of our own certificate is told.
pub(super) const OUR_CERTIFICATE: &str = "it refused this node's certificate";

fn tls_hint(why: &str) -> &'static str {
    if why.contains("clock may be off") {
        "compare this host's clock with the control plane's and set the wrong one right"
    } else if why.starts_with(OUR_CERTIFICATE) {
        "it may have expired or been withdrawn (the control plane's log says which); then move the \
         identity directory away and join with a new token (hearth token create NODE)"
    } else {
        "is this the control API's port (HTTPS, 7945 by default)?"
    }
}

fn name_hint(expected: &NodeName) -> String {
    format!(
        "correct `name`, or move the identity directory away and join with a token for {expected} \
         (hearth token create {expected})"
    )
}

impl EnrolError {
    /// Whether trying again later may help without anybody doing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Lookup { .. } | Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}
