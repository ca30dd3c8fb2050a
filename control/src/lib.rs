//! Hearth's control plane, and the operator's command line.
//!
//! The control plane signs identities and policy, keeps their history, and hands signed documents to
//! any few agents; gossip carries them to the rest. Traffic never needs it: what runs goes on running
//! while it is dead.
//!
//! | module | decides or owns |
//! |---|---|
//! | [`directory`], [`config`] | the state directory: what is in it, who may read it, its settings |
//! | [`authority`], [`identity`], [`keyring`] | certificates: who gets which name, our own certificate, signatures |
//! | [`token`], [`limit`] | who may join: one-time tokens, their refusals, guesses per source |
//! | [`policy`] | policy text to policy, what changes between two, what can never work |
//! | [`store`] | what survives a restart, in transactions |
//! | [`plane`] | the operations: join, renew, apply, create a token |
//! | [`push`] | bringing documents to agents |
//! | [`server`], [`metrics`] | REST over TLS, limits, audit; Prometheus |
//! | [`daemon`] | wiring of `hearth-control serve`: tasks, signals, renewal |
//! | [`cli`] | `hearth`, the operator's command line |
//! | [`failure`], [`logs`], [`notify`], [`moment`] | exit codes and error texts, JSON logs, systemd, the clock |
//!
//! Dependencies point one way: `daemon → server, push → plane → store, authority, token, policy`.

pub mod authority;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod directory;
pub mod failure;
pub mod identity;
pub mod keyring;
pub mod limit;
pub mod logs;
pub mod metrics;
pub mod moment;
pub mod notify;
pub mod plane;
pub mod policy;
pub mod push;
pub mod server;
pub mod store;
pub mod tls;
pub mod token;
