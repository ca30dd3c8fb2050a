//! Connects with who is about to serve, so that the first requests sent there need not wait for handshakes.
//!
//! An endpoint that is called up, or will be if a doubt about another proves right, and one that was called from
//! here before and is ready again, has its connections dialled at once. Until they stand it counts as costly and
//! busy: somebody else answers meanwhile, if there is anybody, but where endpoints take turns. One that is reached
//! through a relay is dialled when its own path is used again. Only for services that this host's applications
//! call.
//!
//! One task, woken by every change of the routes. If it is aborted, the first requests dial.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hearth_proto::advert::{Condition, Role};
use hearth_proto::evidence::Standing;
use hearth_proto::ids::{EndpointId, Generation};
use hearth_proto::route::{Candidate, Route};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Inner;

/// Whoever cannot be reached within this is as good as anybody who has to be dialled.
const PATIENCE: Duration = Duration::from_secs(1);
/// Endpoints of a service that are dialled at once, at most: the first of a long list are enough to go on with.
const AT_ONCE: usize = 8;

/// A start of an endpoint.
type Start = (EndpointId, Generation);

pub(super) async fn run(inner: Weak<Inner>, mut changed: watch::Receiver<u64>) {
    let mut expected: BTreeSet<Start> = BTreeSet::new();
    while changed.changed().await.is_ok() {
        let Some(inner) = inner.upgrade() else { return };
        let snapshot = inner.mesh.snapshot.load_full();
        let called = snapshot.services.values().filter(|r| inner.services.is_used(&r.service));
        let mut now = BTreeSet::new();
        for route in called {
            let due = route.candidates.iter().filter(|c| is_expected(&inner, route, c));
            let mut room = AT_ONCE;
            for candidate in due {
                let start = (candidate.id.clone(), candidate.generation);
                if !expected.contains(&start) && candidate.id.node != inner.node && room > 0 {
                    room -= 1;
                    prepare(&inner, candidate);
                }
                now.insert(start);
            }
        }
        expected = now;
    }
}

/// Whether requests may soon go there, for all that is known.
fn is_expected(inner: &Inner, route: &Route, candidate: &Candidate) -> bool {
    let rising = matches!(candidate.role, Role::Warm { .. })
        && matches!(candidate.condition, Condition::Activating | Condition::Serving);
    let ready = candidate.standing == Standing::Ready;
    candidate.via.is_none()
        && (rising
            || route.tally.called.contains(&candidate.id)
            || route.tally.next.contains(&candidate.id)
            || ready && inner.loads.is_known(&candidate.id))
}

fn prepare(inner: &Arc<Inner>, candidate: &Candidate) {
    let load = inner.loads.of(&candidate.id);
    let (links, node, address) =
        (inner.mesh.links.clone(), candidate.id.node.clone(), candidate.address);
    let away = load.away();
    tokio::spawn(async move {
        // Who does not answer will be found out by whoever has a request for it.
        let _ = timeout(PATIENCE, links.prepare(&node, address)).await;
        drop(away);
    });
}
