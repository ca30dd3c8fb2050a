//! Who is picked from in mode exclusive: the one holder, never two.

use crate::advert::Condition;
use crate::evidence::{Standing, Why};
use crate::exclusive::electorate::majority;
use crate::policy::ServicePolicy;

use super::{Candidate, Choice, through};

/// Decides by the first rule that fits:
///
/// 1. of those that say they serve under a lease, the one with the greatest term counts, nobody else;
/// 2. it is ready: it;
/// 3. our link to it is silent, and it answers through a relay: it, by that way;
/// 4. our link to it is silent, or it is out, and another stands by: wait, for it or for its successor;
/// 5. it is doubtful: it all the same, since it alone may serve;
/// 6. nobody serves and somebody stands by: wait for the lease to be granted;
/// 7. nobody.
pub(super) fn choose(policy: &ServicePolicy, candidates: &[Candidate]) -> (Choice, String) {
    let Some(exclusive) = &policy.exclusive else {
        return (Choice::Nobody, "the policy says exclusive and names no owners".to_owned());
    };
    let holder = (0..candidates.len())
        .filter(|i| candidates[*i].condition == Condition::Serving)
        .filter_map(|i| Some((candidates[i].term?, i)))
        .max();
    let waiting: Vec<usize> = (0..candidates.len())
        .filter(|i| {
            let stands_by = Why::Condition(Condition::Standby);
            let starts = Why::Condition(Condition::Activating);
            let why = candidates[*i].standing.why();
            exclusive.owners.contains(&candidates[*i].id.node)
                && (why == Some(&stands_by) || why == Some(&starts))
        })
        .collect();
    let who = |i: usize, term: u64| format!("{} holds the lease, term {term}", candidates[i].id);
    match holder.map(|(term, i)| (term, i, &candidates[i].standing)) {
        Some((term, i, Standing::Ready)) => (Choice::Serve(vec![i]), who(i, term)),
        Some((term, i, Standing::Doubtful(Why::Silent { .. }))) if candidates[i].via.is_some() => {
            let way = through(std::iter::once(&candidates[i]));
            (Choice::Relay(vec![i]), format!("{}, {way}", who(i, term)))
        }
        Some((term, i, Standing::Doubtful(why)))
            if waiting.is_empty() || !matches!(why, Why::Silent { .. }) =>
        {
            (Choice::Panic(vec![i]), format!("{}, and nobody else may serve", who(i, term)))
        }
        Some((term, i, _)) if !waiting.is_empty() => {
            let last = who(i, term);
            (
                Choice::Wake(waiting),
                format!("{last}, and is lost; another owner follows when that ends"),
            )
        }
        Some((term, i, _)) => (Choice::Nobody, format!("{}, and is lost", who(i, term))),
        None if !waiting.is_empty() => {
            let need = majority(exclusive.owners.len());
            let of = exclusive.owners.len();
            let reason =
                format!("nobody holds the lease: it takes {need} of {of} owners to grant it");
            (Choice::Wake(waiting), reason)
        }
        None => {
            (Choice::Nobody, "nobody holds the lease, and no owner's endpoint can serve".to_owned())
        }
    }
}
