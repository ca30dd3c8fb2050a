//! What is printed when something is set up wrongly: by the real binaries, word for word.
//!
//! Every text must say what was attempted, where the mistake is, and what to do; every exit code must
//! tell a service manager whether trying again can help (sysexits: 75 and 69 may, 77 and 78 do not).
//! Expected texts lie beside this file (`errors/*.txt`) and are reviewed like code.

#[path = "errors/agent.rs"]
mod agent;
#[path = "errors/book.rs"]
mod book;
#[path = "errors/clock.rs"]
mod clock;
#[path = "errors/control.rs"]
mod control;
#[path = "errors/join.rs"]
mod join;
#[path = "errors/operator.rs"]
mod operator;
#[path = "errors/world.rs"]
mod world;
