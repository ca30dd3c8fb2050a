//! Hearth's agent: the IO shell around the protocol core, and the traffic path.
//!
//! | module | does |
//! |---|---|
//! | [`run`] | the agent's life: puts the parts together |
//! | [`driver`], [`outside`], [`admin`] | the only owner of the core; what it wants done; what operators ask of it |
//! | [`link`] | QUIC connections to peers, and whether they still answer |
//! | [`proxy`] | the traffic path |
//! | [`dns`] | names of services, for programs that look names up |
//! | [`pipe`] | where applications listen, and connections on this host |
//! | [`identity`], [`enrol`] | who we are, whom we believe; joining and renewing |
//! | [`config`], [`disk`], [`exit`] | what the operator wrote, what survives a restart, how we end |
//! | [`flight`], [`incidents`] | the flight recorder's ring of files; incidents of earlier starts |
//! | [`questions`] | what peers are asked for an operator |
//! | [`local`], [`check`], [`process`], [`hook`] | what we know of our own endpoints, how warm ones are made to serve |
//! | [`telemetry`], [`notify`] | logs, metrics, traces; what the service manager is told |

pub mod admin;
pub mod check;
pub mod config;
mod counted;
pub mod disk;
pub mod dns;
pub mod driver;
pub mod enrol;
pub mod exit;
pub mod flight;
pub mod hook;
pub mod identity;
pub mod incidents;
pub mod jitter;
pub mod link;
pub mod local;
mod loopback;
pub mod notify;
pub mod outside;
pub mod pipe;
mod priority;
pub mod process;
pub mod promises;
pub mod proxy;
pub mod questions;
pub mod run;
pub mod telemetry;
pub mod threads;
mod warm;
