//! Everything services speak but plain HTTP, through a pair of real agents, with the clients and servers
//! that people really use: gRPC, WebSocket, PostgreSQL, Redis, TLS, DNS, SOCKS.
//!
//! The rules are what a service may rely on, not what this version does. Sizes are small here and large
//! with `HEARTH_FULL=1` (`make protocols`).

#![allow(clippy::needless_pass_by_value)] // what is asserted reads best without references

mod protocols {
    mod blocked;
    mod databases;
    mod finding;
    mod grpc;
    mod raw_h2;
    mod tcp;
    mod tonic_client;
    mod udp;
    mod websocket;
}
