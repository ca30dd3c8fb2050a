//! Whole meshes under a virtual clock: many [`hearth_proto::node::Node`]s, a network that lies as networks
//! do, and the invariants of `proto/ALGORITHM.md` checked all the way.
//!
//! Everything follows from one seed: the mesh, its latencies, the faults and every draw in between. The
//! same seed gives the same run to the bit, told by the hash over every delivered event. Nothing here
//! sleeps, opens a socket or reads a clock; a virtual minute of twenty nodes takes well under a second.
//!
//! | module | owns |
//! |---|---|
//! | [`world`], `agenda` | the one loop, a core's turn; what is to happen when |
//! | [`host`] | the hosts and their lives |
//! | [`link`], [`sides`], `dial` | the agent's link layer as a model: silence, pings, queues; dials |
//! | [`net`] | paths: latency, jitter, loss, reordering, duplication, partitions |
//! | [`application`] | applications with checks and hooks |
//! | [`traffic`] | callers that pick as the proxy does |
//! | [`keyring`] | signatures that can be forged no more than real ones |
//! | [`truth`] | what is really so, against which the checks hold what agents think |
//! | [`check`] | the invariants |
//! | [`flight`] | recordings of some hosts, replayed when all is over |
//! | [`mesh`], [`fault`] | what a world is made of, what befalls it |
//! | [`scenario`], `random`, `rehearsal` | what is shown: by name, by seed, drills |
//! | [`episode`], `failover`, [`tally`], `journal` | how long requests still go where a fault is: one fault, a mix, many seeds; kept |
//! | `hotwarm` | losses, flaps, partitions and bad hooks over warm benches, watched as they happen |
//! | [`fleet`] | large meshes: how fast they see themselves |
//! | [`scale`] | how they grow: bytes at rest, news, deaths, memory |
//! | [`availability`] | hosts that fail and are repaired at random, beside what `proto::plan` predicts |
//! | [`swim`] | membership alone, beside formulas and papers |
//! | [`run`], [`parallel`] | one seed, many seeds, what is printed |

mod agenda;
pub mod application;
pub mod availability;
pub mod check;
mod dial;
pub mod episode;
mod failover;
pub mod fault;
pub mod fleet;
pub mod flight;
pub mod host;
mod hotwarm;
mod journal;
pub mod keyring;
pub mod link;
pub mod mesh;
pub mod net;
pub mod parallel;
mod random;
mod rehearsal;
pub mod run;
pub mod scale;
pub mod scenario;
pub mod sides;
pub mod swim;
pub mod tally;
pub mod traffic;
pub mod truth;
pub mod world;

/// Microseconds of virtual time since the world began.
pub type At = u64;
/// Microseconds in a millisecond.
pub const MS: u64 = 1_000;
/// Microseconds in a second.
pub const S: u64 = 1_000_000;
