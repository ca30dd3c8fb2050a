//! Accounts that must balance: what clients were told against what applications did, request by request.
//!
//! [`exactly_once`]: non-idempotent requests while applications and agents are killed. [`storm`]: how much
//! more than was asked for reaches a sick or a slow application. Short by default; `make oracle` is the full
//! size. A seed (`HEARTH_SEED=n`) is printed and makes the same sequence of faults again.

mod oracle {
    mod exactly_once;
    mod storm;
}
