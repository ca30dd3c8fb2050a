//! How it stands with a peer, as requests under way to it are told. What follows is theirs to decide.

use tokio::sync::watch;

/// How it stands with a peer, for requests that are under way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkHealth {
    /// It answers.
    Up,
    /// It may be gone: try elsewhere too, keep what is under way.
    Silent,
    /// Its silence is confirmed: what must not be tried elsewhere is not waited for any longer.
    Lost,
    /// No connection is left, or there never was one.
    Down,
}

impl LinkHealth {
    /// Whether what is sent to it goes unanswered.
    pub fn is_silent(self) -> bool {
        matches!(self, Self::Silent | Self::Lost)
    }
}

/// Waits until the peer is lost. Connections that end break what is under way on them by themselves.
pub async fn lost(health: &mut watch::Receiver<LinkHealth>) {
    if health.wait_for(|h| *h == LinkHealth::Lost).await.is_err() {
        // Nobody is left to tell.
        std::future::pending::<()>().await;
    }
}
