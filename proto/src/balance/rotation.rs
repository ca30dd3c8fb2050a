//! Taking turns, smoothly by weight: nginx's algorithm, run once per change of a route.
//!
//! Each turn everybody gains its weight; who has most is next and loses the sum of all weights. Of weights 5,
//! 1, 1 the turns are a a b a c a a, not a a a a a b c. The sequence repeats after as many turns as the
//! weights sum up to, so it is laid out, and a turn is a look at it: nothing is shared that threads would
//! wait for but a counter.

use super::Member;

/// Weights are told apart in so many steps at most.
const STEPS: u64 = 20;
/// Sequences are not longer than about so many turns: their layout takes time in their length and in the
/// number of members.
const LONGEST: u64 = 4096;

/// The sequence of members' indices.
pub(crate) fn smooth(members: &[Member]) -> Vec<u32> {
    let Some(heaviest) = members.iter().map(|m| u64::from(m.weight)).max() else {
        return Vec::new();
    };
    if members.iter().all(|m| u64::from(m.weight) == heaviest) {
        return members.iter().map(|m| m.index).collect();
    }
    let steps = (LONGEST / members.len() as u64).clamp(2, STEPS);
    let weight = |m: &Member| (u64::from(m.weight) * steps).div_ceil(heaviest);
    // Proof: at most 20 steps each.
    let weights: Vec<i64> = members.iter().map(|m| i64::try_from(weight(m)).unwrap_or(1)).collect();
    let total: i64 = weights.iter().sum();
    let mut current = vec![0i64; members.len()];
    let mut sequence = Vec::new();
    for _ in 0..total {
        let mut best = 0;
        for i in 0..members.len() {
            current[i] += weights[i];
            if current[i] > current[best] {
                best = i;
            }
        }
        current[best] -= total;
        sequence.push(members[best].index);
    }
    sequence
}

/// Whose turn it is; of those left, where some are not to be picked.
pub(crate) fn turn(sequence: &[u32], turn: u64, exclude: &impl Fn(usize) -> bool) -> Option<usize> {
    let n = sequence.len() as u64;
    let at = usize::try_from(turn.checked_rem(n)?).ok()?;
    let (before, from) = sequence.split_at(at);
    from.iter().chain(before).map(|i| *i as usize).find(|i| !exclude(*i))
}
