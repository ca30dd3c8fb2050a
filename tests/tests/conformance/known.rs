//! Rows that are known not to hold, each with its reason: listed as ignored, run with `--include-ignored`.
//!
//! Only what harms nobody and lies in a library belongs here; whatever is ours is mended instead.

use libtest_mimic::Trial;

const KNOWN: &[(&str, &str)] = &[
    (
        "h2::flow::a_first_frame_that_is_no_settings_is_refused",
        "the h2 crate takes any frame for the first; nothing follows from it",
    ),
    (
        "h2::messages::trailers_with_a_pseudo_field",
        "the h2 crate drops the field instead of refusing the stream; it is not passed on",
    ),
    (
        "h2::messages::hints_are_passed_on",
        "hyper's server cannot send informational answers to HTTP/2 clients; they get the final answer",
    ),
    (
        "modern::its_trailers_reach_http1",
        "hyper's server keeps trailers from HTTP/1.1 clients unless it read TE itself; the body is whole",
    ),
];

/// Marks those that are known, and says why.
pub(crate) fn marked(trial: Trial) -> Trial {
    match KNOWN.iter().find(|(name, _)| *name == trial.name()) {
        Some((name, why)) => {
            println!("NOT RUN: {name}: {why}");
            trial.with_ignored_flag(true)
        }
        None => trial,
    }
}
