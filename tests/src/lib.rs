//! Everything that proves Hearth outside its own crates: the namespace lab, load, receivers, and
//! the demo built from them.
//!
//! Test support only: nothing here is linked into a shipped binary.

pub mod app;
pub mod bench;
pub mod cases;
pub mod conformance;
pub mod counted;
pub mod demo;
pub mod drive;
pub mod failbench;
pub mod lab;
pub mod load;
pub mod loopback;
pub mod membench;
pub mod otlp;
pub mod pair;
pub mod python;
pub mod sensing;
pub mod sim;
pub mod soak;
pub mod strike;
