//! The task that keeps the certificate fresh.
//!
//! Sleeps until renewal is due, asks, publishes through [`Credentials`], tells the driver. It looks at
//! the wall clock at least once a minute, because hosts are suspended, clocks are set, and a root that is
//! rotated out makes renewal due at once.

use std::net::SocketAddr;
use std::time::Duration;

use hearth_proto::document::SignedDocument;
use hearth_proto::time::Wall;
use tokio::sync::mpsc;

use super::{EnrolError, renew};
use crate::config::HostPort;
use crate::identity::{Credentials, rfc3339};
use crate::jitter::{self, Backoff};

/// How often the task looks and tries.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Longest time between two looks at the clock.
    pub look: Duration,
    /// First wait after a failure.
    pub first: Duration,
    /// Longest wait after failures.
    pub longest: Duration,
}

impl Default for Pace {
    /// From half of a 24 h life on there are 12 h left: one attempt in ten minutes per agent is enough,
    /// and a fleet of 2,000 then asks a control plane that returns some three times per second.
    fn default() -> Self {
        Self {
            look: Duration::from_secs(60),
            first: Duration::from_secs(10),
            longest: Duration::from_secs(600),
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum RenewalEvent {
    /// A new certificate is in use.
    Renewed {
        /// It ends then.
        expires: Wall,
        /// The documents in force, not verified yet.
        documents: Vec<SignedDocument>,
    },
    /// An attempt failed; the next one follows by itself.
    Failed {
        /// Why.
        error: EnrolError,
        /// The certificate in use ends then.
        expires: Wall,
    },
}

/// Renews for as long as it runs. May be aborted at any point.
#[derive(Debug)]
pub struct Renewal {
    /// Whose certificate.
    pub credentials: Credentials,
    /// The control API.
    pub control: HostPort,
    /// Where our mesh port is reached, told with each renewal.
    pub mesh_address: SocketAddr,
    /// Events. When the receiver is gone, the task ends.
    pub events: mpsc::Sender<RenewalEvent>,
    /// How often.
    pub pace: Pace,
}

impl Renewal {
    /// Runs until the receiver of its events is gone.
    pub async fn run(self) {
        loop {
            let jitter = jitter::share();
            while let Some(wait) = self.until_due(jitter) {
                tokio::select! {
                    () = tokio::time::sleep(wait.min(self.pace.look)) => {}
                    () = self.events.closed() => return,
                }
            }
            if !self.renew_at_last().await {
                return;
            }
        }
    }

    fn until_due(&self, jitter: f64) -> Option<Duration> {
        let now = self.credentials.clock().now();
        let left = self.credentials.renew_at(jitter).0.saturating_sub(now.0);
        (left > 0).then(|| Duration::from_micros(left))
    }

    /// Tries until it succeeds; `false` when nobody listens any more.
    async fn renew_at_last(&self) -> bool {
        let mut backoff = Backoff::new(self.pace.first, self.pace.longest);
        loop {
            let result = renew(&self.credentials, &self.control, self.mesh_address).await;
            let expires = self.credentials.expires();
            let (event, done) = match result {
                Ok(documents) => {
                    tracing::info!(expires = %rfc3339(expires), "certificate renewed");
                    (RenewalEvent::Renewed { expires, documents }, true)
                }
                Err(error) => {
                    self.complain(&error, expires);
                    (RenewalEvent::Failed { error, expires }, false)
                }
            };
            if self.events.send(event).await.is_err() {
                return false;
            }
            // Even after a success there is a pause: a control plane that hands out certificates which
            // are due at once must not be asked in a tight loop.
            tokio::select! {
                () = tokio::time::sleep(backoff.wait()) => {}
                () = self.events.closed() => return false,
            }
            if done {
                return true;
            }
        }
    }

    fn complain(&self, error: &EnrolError, expires: Wall) {
        let (error, until) = (error.to_string(), rfc3339(expires));
        if expires <= self.credentials.clock().now() {
            tracing::error!(error, expired = %until, "certificate expired and cannot be renewed; new \
                links will be refused");
        } else {
            tracing::warn!(error, expires = %until, "certificate not renewed yet");
        }
    }
}
