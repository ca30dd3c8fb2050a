//! Requests end to end: a client, the caller's agent, an owner's agent, an application; and what
//! happens when one of them fails.

mod ahead;
mod applications;
mod balance;
mod datagrams;
mod edge;
mod exclusive;
mod failures;
mod finding;
mod grpc;
mod hostile;
mod limits;
mod losses;
mod mesh;
mod opaque;
mod relays;
mod requests;
mod soak;
mod streams;
mod upgrade;
