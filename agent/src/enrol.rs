//! Becoming a member and staying one: join with a token, renew with the certificate.
//!
//! Joining happens once, before anything else runs: the node knows nobody, so the token's hash says which
//! root to believe, and the token's secret says who we are. From then on [`Renewal`] asks for a new
//! certificate from half of the old one's life. A control plane that is gone is no error but a state: the
//! agent goes on with what it has, and says until when that is good.
//!
//! Decides nothing about names (the authority does) and nothing about trust (identity does). The renewal
//! task owns no state that matters: aborting it at any point leaves the old identity in use.

mod error;
mod exchange;
mod pinned;
mod renewal;
#[cfg(test)]
mod tests;
mod token;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::api::{Enrolment, JoinRequest, RenewRequest};
use hearth_proto::document::SignedDocument;
use hearth_proto::ids::NodeName;
use hearth_proto::time::Wall;

use crate::config::{HostPort, Token};
use crate::identity::{
    Credentials, Expected, IdentityStore, StoreError, WallClock, certificates, generate,
    signing_request,
};

pub use error::EnrolError;
pub use renewal::{Pace, Renewal, RenewalEvent};
pub use token::{JoinToken, TokenError};

/// A clock this far off is worth a warning: certificates are backdated by minutes, not by hours.
const CLOCK_DOUBTFUL: Duration = Duration::from_secs(60);
/// A clock this far off makes peers refuse us or us refuse them.
const CLOCK_WRONG: Duration = Duration::from_secs(300);

/// What a node says to become a member.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The name it wants; the token must be bound to it.
    pub name: &'a NodeName,
    /// Where its identity will be kept.
    pub state_dir: &'a Path,
    /// The control API.
    pub control: &'a HostPort,
    /// Where its mesh port is reached.
    pub mesh_address: SocketAddr,
    /// Its clock.
    pub clock: WallClock,
}

/// A node that became a member.
#[derive(Debug)]
pub struct Enrolled {
    /// Its identity, on disk already.
    pub credentials: Credentials,
    /// The documents in force, not verified yet.
    pub documents: Vec<SignedDocument>,
}

impl Token {
    /// The token itself, read from its file if need be.
    pub fn read(&self) -> Result<JoinToken, EnrolError> {
        match self {
            Self::Text(text) => Ok(JoinToken::parse(text)?),
            Self::File(path) => {
                let text = fs::read_to_string(path)
                    .map_err(|source| EnrolError::TokenFile { path: path.clone(), source })?;
                Ok(JoinToken::parse(&text).map_err(|e| TokenError {
                    what: format!("{}: {}", path.display(), e.what),
                    ..e
                })?)
            }
        }
    }
}

/// Joins the mesh and writes the identity to disk.
///
/// What can fail here without the token (disk, key) is done before the token is spent. An identity that
/// arrived is kept even if the clock turns out to be wrong: with the clock set right the next start needs
/// no new token.
pub async fn join(who: &Candidate<'_>, token: &JoinToken) -> Result<Enrolled, EnrolError> {
    let store = IdentityStore::new(who.state_dir);
    let key_pem = store.pending_key()?;
    let request = JoinRequest {
        token: token.text.clone(),
        name: who.name.clone(),
        csr_pem: signing_request(&key_pem).map_err(StoreError::from)?,
        mesh_address: who.mesh_address.to_string(),
    };
    let pinned = pinned::client_config(token, who.control, who.clock.clone());
    let answer: Enrolment =
        exchange::post(who.control, pinned, "/v1/join", &request, "join").await?;
    let unusable = |why: String| EnrolError::Answer { control: who.control.clone(), why };
    let roots = certificates("the trust bundle", &answer.bundle_pem)
        .map_err(|e| unusable(e.to_string()))?;
    if !roots.iter().any(|root| pinned::hash(root) == token.root) {
        return Err(unusable("its trust bundle lacks the root the token names".into()));
    }
    let received = Credentials::from_pem(
        &key_pem,
        &answer.certificate_pem,
        &answer.bundle_pem,
        who.clock.clone(),
    )?;
    if (received.node(), received.trust_domain()) != (who.name, &answer.trust_domain) {
        return Err(unusable(format!(
            "the certificate is for {} of {}, asked was {} of {}",
            received.node(),
            received.trust_domain(),
            who.name,
            answer.trust_domain
        )));
    }
    store.write(&key_pem, &answer.certificate_pem, &answer.bundle_pem)?;
    store.forget_pending_key();
    compare_clocks(who.control, who.clock.now(), answer.now)?;
    let credentials = Credentials::load_with(who.state_dir, who.clock.clone())?
        .ok_or_else(|| unusable("the identity vanished from the disk".into()))?;
    tracing::info!(
        node = %who.name,
        trust_domain = %credentials.trust_domain(),
        control = %who.control,
        expires = %crate::identity::rfc3339(credentials.expires()),
        "joined the mesh"
    );
    Ok(Enrolled { credentials, documents: answer.documents })
}

/// Asks for a new certificate, with a new key, and puts it in use. On an error the old one stays.
pub async fn renew(
    credentials: &Credentials,
    control: &HostPort,
    mesh_address: SocketAddr,
) -> Result<Vec<SignedDocument>, EnrolError> {
    let key_pem = generate().map_err(StoreError::from)?;
    let request = RenewRequest {
        csr_pem: signing_request(&key_pem).map_err(StoreError::from)?,
        mesh_address: mesh_address.to_string(),
    };
    let tls = credentials.client_config(Expected::Control, exchange::ALPN);
    let answer: Enrolment =
        exchange::post(control, tls, "/v1/renew", &request, "renew its certificate").await?;
    compare_clocks(control, credentials.clock().now(), answer.now)?;
    let replaced = {
        let (credentials, answer) = (credentials.clone(), Arc::new(answer));
        let kept = answer.clone();
        let replace =
            move || credentials.replace(&key_pem, &kept.certificate_pem, &kept.bundle_pem);
        tokio::task::spawn_blocking(replace).await.map(|result| (result, answer))
    };
    let (result, answer) = replaced.map_err(|e| EnrolError::Answer {
        control: control.clone(),
        why: format!("taking it failed: {e}"),
    })?;
    result?;
    Ok(Arc::try_unwrap(answer).map_or_else(|shared| shared.documents.clone(), |a| a.documents))
}

/// An identity found on disk must be the one the configuration names: a copied disk is no second node.
pub fn same_name(credentials: &Credentials, expected: &NodeName) -> Result<(), EnrolError> {
    if credentials.node() == expected {
        return Ok(());
    }
    let (found, expected) = (credentials.node().clone(), expected.clone());
    Err(EnrolError::OtherName { found, expected })
}

fn compare_clocks(control: &HostPort, ours: Wall, theirs: Wall) -> Result<(), EnrolError> {
    let off = Duration::from_micros(ours.0.abs_diff(theirs.0));
    if off > CLOCK_WRONG {
        return Err(EnrolError::Clock { control: control.clone(), ours, theirs });
    }
    if off > CLOCK_DOUBTFUL {
        tracing::warn!(
            off_s = off.as_secs(),
            ours = %crate::identity::rfc3339(ours),
            control_plane = %crate::identity::rfc3339(theirs),
            "this host's clock differs from the control plane's; set one of them right"
        );
    }
    Ok(())
}
