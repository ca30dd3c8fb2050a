//! What holds the traffic path to the rules of HTTP from outside: a pair of real agents between a client
//! that writes bytes and an application that records them.
//!
//! | module | does |
//! |---|---|
//! | [`pair`] | caller's agent, mesh, owner's agent, on this machine's loopback |
//! | [`application`] | a scripted server that keeps each byte it was sent |
//! | [`client`] | a connection that writes in pieces and keeps each byte it got |
//! | [`h2`] | HTTP/2 frames, right and wrong |
//! | [`modern`] | an application that speaks HTTP/2 |
//! | [`noise`], [`source`], [`transfer`] | large bodies, checked byte by byte at both ends |
//! | [`memory`] | what a process holds |
//! | [`wire`] | a strict reader of HTTP/1 messages, of its own |
//! | [`case`] | one case: what is sent, how it is answered, what must come out at both ends |
//!
//! Knows nothing of how the agents are made, and shares no parser with them.

pub mod application;
pub mod case;
pub mod client;
pub mod h2;
pub mod memory;
pub mod modern;
pub mod noise;
pub mod pair;
pub mod source;
pub mod transfer;
pub mod wire;
