//! Hearth's protocol: vocabulary, wire format and every decision, as deterministic state machines.
//!
//! In the sense of quinn-proto: *logic without IO*. Time comes in as an argument, randomness as a seed,
//! cryptography as a trait ([`advert::Keyring`]); bytes and events go out. Nothing here knows sockets,
//! files, threads, the environment or a clock, and no collection with a random order is ever walked.
//! The same core therefore runs in the agent, in the simulator with thousands of nodes in one process,
//! and over a recorded incident.
//!
//! | module | decides |
//! |---|---|
//! | [`ids`], [`time`], [`policy`], [`settings`] | vocabulary: checked once, trusted afterwards |
//! | [`advert`], [`document`], [`wire`] | what is said, under whose signature, in which bytes |
//! | [`table`], [`member`], [`digest`] | what is known of the mesh: replicated records, SWIM membership, where two differ |
//! | [`evidence`], [`outlier`], [`failover`], [`route`] | what this agent thinks of endpoints, who must serve, who is picked |
//! | [`exclusive`] | who alone may serve an exclusive service: leases, terms, promises |
//! | [`balance`] | how requests are spread over those, and what an owner lets in at once |
//! | [`lifecycle`], [`activation`] | an own endpoint's life; how long its activations took |
//! | [`damping`], [`ramp`], [`budget`] | who flaps, who starts slowly, how much moves at once |
//! | [`incident`], [`record`] | a loss: its name, and what was seen and decided until it was stable |
//! | [`drill`] | losses made on purpose: which run, and that they end |
//! | [`node`] | all of it composed: one agent's core |
//! | [`history`] | nothing: what losses came to, remembered |
//! | [`flight`] | nothing: records a core's steps, runs a recording again |
//! | [`plan`] | how available a service will be: a Markov model, offline |
//! | [`lint`] | what can never fail over, and how to mend it |
//! | [`view`], [`api`] | what the admin and control APIs say |

pub mod activation;
pub mod advert;
pub mod api;
pub mod balance;
pub mod budget;
pub mod damping;
pub mod digest;
pub mod document;
pub mod drill;
pub mod evidence;
pub mod exclusive;
pub mod failover;
pub mod flight;
pub mod history;
pub mod ids;
pub mod incident;
pub mod lifecycle;
pub mod lint;
pub mod member;
pub mod node;
pub mod outlier;
pub mod plan;
pub mod policy;
pub mod ramp;
pub mod record;
pub mod relay;
pub mod route;
pub mod settings;
pub mod table;
pub mod time;
pub mod view;
pub mod wire;
