//! How available a service with hot and warm endpoints will be, before it is built that way.
//!
//! Decides nothing about a running mesh: it computes, from counts, rates and times, the share of
//! time in which too few serve, what that is made of, what would mend most of it, and how far the
//! usual shortcuts are off. Pure like the rest of the core; measured values come in as a [`Spec`].
//!
//! | module | does |
//! |---|---|
//! | [`input`] | vocabulary, and what people write checked: [`Spec`] to [`Scenario`] |
//! | [`basis`], [`interval`] | where each number comes from; how much a count of losses says |
//! | [`model`] | the rules: which states there are and what moves between them |
//! | [`chain`], [`transient`] | a chain's long run (GTH elimination) and its first hours (uniformisation) |
//! | [`forecast`], [`sensitivity`] | a scenario solved; what buys most |
//! | [`closed`], [`shortcut`] | formulas for small models; textbook shortcuts and where they go wrong |
//! | [`report`], [`sweep`], [`chart`] | tables as data, curves as data, curves as SVG or for a terminal |
//!
//! What the numbers are not: every time is exponential, one failure rate for all endpoints, and
//! losses are either independent or strike everything. A forecast compares designs well and
//! promises nothing about a single year.

pub mod basis;
pub mod chain;
pub mod chart;
pub mod closed;
pub mod forecast;
pub mod input;
pub mod interval;
pub mod model;
pub mod report;
pub mod sensitivity;
pub mod shortcut;
pub mod sweep;
pub mod transient;

pub use forecast::{Forecast, PlanError};
pub use input::{InputError, Scenario, Spec};
pub use report::Report;

#[cfg(test)]
mod machines;
#[cfg(test)]
mod proptests;
#[cfg(test)]
mod tests;
