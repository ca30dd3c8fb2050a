//! A request through a pair of agents allocates no more than it did: a guard, not a goal. What is printed is
//! the figure; `bench-speed allocations` says where each comes from.

use hearth_tests::bench::allocations::{count, text};

/// Seconds of counting: hundreds of requests even on a busy machine.
const SECONDS: f64 = 3.0;
/// Per request, of the caller's agent and of the application's: about half as many again as were counted when
/// this was set (13 and 29 over QUIC; 6 and 21 over TCP, which is what two agents on one machine take).
const CEILING: [f64; 2] = [20.0, 45.0];

#[test]
fn a_request_allocates_no_more_than_it_did() {
    let counted = count(SECONDS).unwrap();
    println!("{}", text(&counted));
    assert!(counted.requests >= 100, "too few to say anything: {}", counted.requests);
    for (side, ceiling) in counted.sides.iter().zip(CEILING) {
        // An agent gossips: none at all would mean that nothing was counted.
        assert!(side.at_rest > 0.0, "nothing was counted");
        assert!(side.blocks <= ceiling, "{} of {ceiling}", side.blocks);
    }
}
