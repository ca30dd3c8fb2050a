//! The flight recorder: what went into a core and what it decided, so that it can be run again.
//!
//! [`Recorder`] stands before a [`Node`](crate::node::Node) with the same inputs and commands, passes them
//! on, and lays an [`Entry`] per step on its tape, which the shell polls and keeps in a bounded ring. A
//! recording begins with a [`Checkpoint`](crate::node::Checkpoint) and can be cut before any other, so that
//! a ring holds whole recordings however long its agent runs. [`Replay`] runs the same core over it and
//! compares every decision with the one recorded.
//!
//! What is recorded of a step: its time, its input, how each signature in it was judged, what membership
//! told the rest of the core, and the decisions it led to, as lines of text. Not recorded is what decides
//! nothing: SWIM's own packets (their outcome is), digests and versions, which only fetch records.
//!
//! | file | holds |
//! |---|---|
//! | `input` | the inputs as values |
//! | `decision` | what counts as a decision, and its line |
//! | `recorder`, `replay` | making a recording; running it |
//! | `file` | its bytes: frames with checksums, a damaged tail is cut off |

mod decision;
mod file;
mod input;
mod recorder;
mod replay;

pub use file::{Damage, Recording, frame, header, read};
pub use input::{Entry, Input, Step};
pub use recorder::Recorder;
pub use replay::{Difference, Replay, Unplayable};

#[cfg(test)]
mod tests;
