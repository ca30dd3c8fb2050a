//! A mesh under load that is struck: the fault, the wait until the mesh has settled, and what callers felt.
//!
//! What every test of a fault has in common. No request may fail; how long the slow ones took is printed and
//! bounds nothing, for a busy machine must not turn a test red.

use std::time::Duration;

use hearth_proto::view::ExplainView;

use crate::lab::Lab;
use crate::lab::mesh::{Mesh, MeshSpec, sketch};
use crate::lab::wait::wait_for;
use crate::load::{Load, LoadSpec, PhaseReport};

/// Within this a mesh reacts, however busy the machine.
pub const SOON: Duration = Duration::from_secs(30);
/// Hold of 3 s, rejoining and health checks before it.
pub const FAILBACK: Duration = Duration::from_secs(60);
/// This long without a bad request, and the fault is over.
const QUIET: Duration = Duration::from_millis(1500);

/// A mesh under load.
#[derive(Debug)]
pub struct Run {
    // Before the mesh: nobody is to call an agent that is being taken down.
    /// The load.
    pub load: Load,
    /// The mesh.
    pub mesh: Mesh,
}

impl Run {
    /// A mesh under the usual load, which all hot hosts share.
    ///
    /// # Panics
    /// When it does not come up, or a request fails before any fault.
    #[must_use]
    pub fn start(lab: &Lab, spec: &MeshSpec) -> Self {
        let run = Self::under(Mesh::start(lab, spec).unwrap(), LoadSpec::new(Mesh::entry()));
        let before = run.load.since(Duration::ZERO);
        assert_eq!(before.served.len(), spec.hot, "each hot host serves: {before:?}");
        run
    }

    /// A mesh under this load.
    ///
    /// # Panics
    /// When a request fails before any fault.
    #[must_use]
    pub fn under(mesh: Mesh, load: LoadSpec) -> Self {
        let load = Load::start(&mesh.caller.host, load).unwrap();
        let run = Self { load, mesh };
        run.sent(500);
        let before = run.load.since(Duration::ZERO);
        assert_eq!(before.failed, 0, "before any fault: {before:?}");
        run
    }

    /// Waits for this many requests on record.
    ///
    /// # Panics
    /// When they do not come.
    pub fn sent(&self, count: usize) {
        wait_for("requests", SOON, || match self.load.samples().len() {
            got if got >= count => Ok(()),
            got => Err(got.to_string()),
        })
        .unwrap();
    }

    /// Waits for this many more requests on record.
    ///
    /// # Panics
    /// When they do not come.
    pub fn sent_more(&self, count: usize) {
        self.sent(self.load.samples().len() + count);
    }

    /// Strikes, waits until `settled` holds and the traffic is normal, and returns the figures.
    ///
    /// # Panics
    /// When a request failed, or traffic stays abnormal.
    pub fn strike(
        &self,
        what: &str,
        fault: impl FnOnce(&Mesh),
        settled: impl FnOnce(&Mesh) -> ExplainView,
    ) -> (PhaseReport, ExplainView) {
        let mark = self.load.mark();
        fault(&self.mesh);
        let view = settled(&self.mesh);
        wait_for("normal traffic", SOON, || {
            let enough = self.load.mark() > mark + QUIET && self.load.quiet_for() > QUIET;
            if enough { Ok(()) } else { Err(format!("{:?}", self.load.lately(QUIET))) }
        })
        .unwrap();
        let phase = self.load.since(mark);
        println!(
            "{what}: {} sent, {} failed, slowest {:.1} ms, {} over 100 ms, normal after {:.0} ms",
            phase.sent, phase.failed, phase.slowest_ms, phase.over_100_ms, phase.normal_after_ms
        );
        assert_eq!(phase.failed, 0, "{what}: {phase:?}\n{}", sketch(&view));
        (phase, view)
    }
}
