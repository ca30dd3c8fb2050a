//! The fast path: plain HTTP/1.1 in, plain HTTP/1.1 out, and as little as possible between.
//!
//! It carries the plain majority: a head that can be read in one way only, no body or a small one of known
//! length, no other protocol asked for. Whatever is unusual goes to hyper with the bytes already read, and a
//! first attempt that does not bring an answer below 500 goes to the race; so there is one place for the
//! rare rules, and none of their cost here. `request`, `response` and `chunked` are pure and held to
//! hyper's reading by differential tests: where the two differ, this one is the stricter.
//!
//! | module | does |
//! |---|---|
//! | [`client`] | a client's connection: requests in turn, answers back |
//! | [`owner`] | a peer's request to our own application, its answer back |
//! | `opening` | a request as it goes to a peer |
//! | `plan` | what is kept beside a route, so that a request looks nothing up |
//! | `pool` | connections to applications |
//! | `timer` | one timer per connection, kept |
//! | `request`, `response`, `answer`, `chunked` | what stands in the bytes |

mod answer;
mod chunked;
pub(crate) mod client;
#[cfg(test)]
mod differential;
mod opening;
pub(crate) mod owner;
mod plan;
mod pool;
mod request;
mod response;
mod timer;

pub(crate) use plan::Plans;
pub(crate) use pool::Pools;
