//! Hearth's agent: the IO shell around the protocol core, and the traffic path.
//!
//! | module | does |
//! |---|---|
//! | [`driver`], [`admin`] | the only owner of the core; what operators ask of it |
//! | [`identity`], [`enrol`] | who we are, whom we believe; joining and renewing |
//! | [`config`], [`disk`], [`exit`] | what the operator wrote, what survives a restart, how we end |
//! | [`check`], [`hook`] | what we know of our own endpoints, how warm ones are made to serve |
//! | [`telemetry`], [`notify`] | logs, metrics, traces; what the service manager is told |

pub mod admin;
pub mod check;
pub mod config;
pub mod disk;
pub mod driver;
pub mod enrol;
pub mod exit;
pub mod hook;
pub mod identity;
pub mod jitter;
pub mod link;
mod loopback;
pub mod notify;
