//! What redundancy is for, on real processes: a zone lost whole, every host lost in turn, a bench that has to be
//! started first, a host that flaps, survivors with little to spare, sessions that outlive their endpoint.
//!
//! Every test is one mesh under open load, every request on record. Figures are printed (`--nocapture`); bounds
//! are what the rules of the mesh say, none is on time.

#[path = "redundancy/flap.rs"]
mod flap;
#[path = "redundancy/hook.rs"]
mod hook;
#[path = "redundancy/overload.rs"]
mod overload;
#[path = "redundancy/rolling.rs"]
mod rolling;
#[path = "redundancy/sessions.rs"]
mod sessions;
#[path = "redundancy/zone.rs"]
mod zone;

use hearth_proto::view::ExplainView;
use hearth_tests::lab::mesh::{Mesh, Node};
use hearth_tests::strike::SOON;

/// Waits until requests may go to none of these.
fn left(mesh: &Mesh, lost: &[Node]) -> ExplainView {
    let lost: Vec<String> = lost.iter().map(Node::endpoint).collect();
    let left = |view: &ExplainView| !view.route.picks.iter().any(|id| lost.contains(id));
    mesh.wait_view("the lost ones to be left", SOON, left).unwrap()
}
