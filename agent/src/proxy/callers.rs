//! How many requests of peers are under way here, and whose they are.
//!
//! There is room for so many, whoever sends them, and no caller has more than half of it: a request takes as
//! long as its caller lets it, so one of them could otherwise keep all others out. Knows nothing of endpoints;
//! what each of those takes on, [`super::limit`] says.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use hearth_proto::ids::NodeName;

/// Requests of peers under way at once.
const MOST: usize = 8192;
/// The same of one of them.
const MOST_OF_ONE: usize = MOST / 2;

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// All of it is taken.
    #[error("{MOST} requests of peers are under way here")]
    ByAll,
    /// The caller has its share.
    #[error("{MOST_OF_ONE} requests of the caller are under way here")]
    ByCaller,
}

/// Counts requests of peers.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    all: AtomicUsize,
    /// Read by every request, written when a caller comes for the first time.
    each: ArcSwap<HashMap<NodeName, Arc<AtomicUsize>>>,
}

impl Callers {
    /// Requests under way.
    pub(crate) fn under_way(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// Counts a request of `caller` for as long as the result lives.
    pub(crate) fn enter(&self, caller: &NodeName) -> Result<Counted<'_>, Full> {
        let own = match self.each.load().get(caller) {
            Some(own) => own.clone(),
            None => self.first_of(caller),
        };
        // Counted before it is compared, so that many at once cannot slip through.
        let before = own.fetch_add(1, Ordering::Relaxed);
        let counted = Counted { all: &self.all, own };
        match (self.all.fetch_add(1, Ordering::Relaxed), before) {
            (MOST.., _) => Err(Full::ByAll),
            (_, MOST_OF_ONE..) => Err(Full::ByCaller),
            _ => Ok(counted),
        }
    }

    /// Makes room to count a caller in. Callers of which nothing is under way are forgotten with it.
    fn first_of(&self, caller: &NodeName) -> Arc<AtomicUsize> {
        let fresh = Arc::new(AtomicUsize::new(0));
        let all = self.each.rcu(|each| {
            // Somebody who is about to count on one holds it.
            let used = |count: &Arc<AtomicUsize>| Arc::strong_count(count) > 1;
            let stay = each.iter().filter(|(name, count)| *name == caller || used(count));
            let mut next: HashMap<_, _> = stay.map(|(n, c)| (n.clone(), c.clone())).collect();
            next.entry(caller.clone()).or_insert_with(|| fresh.clone());
            next
        });
        match all.get(caller) {
            Some(own) => own.clone(),
            None => fresh,
        }
    }
}

/// Counts while it lives.
#[derive(Debug)]
pub(crate) struct Counted<'a> {
    all: &'a AtomicUsize,
    own: Arc<AtomicUsize>,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.own.fetch_sub(1, Ordering::Relaxed);
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    #[test]
    fn no_caller_keeps_all_others_out() {
        let callers = Callers::default();
        let greedy: Vec<_> = (0..MOST).map_while(|_| callers.enter(&node("a")).ok()).collect();
        assert_eq!(greedy.len(), MOST_OF_ONE);
        assert_eq!(callers.enter(&node("a")).unwrap_err(), Full::ByCaller);
        let modest = callers.enter(&node("b")).unwrap();
        assert_eq!(callers.under_way(), MOST_OF_ONE + 1);
        drop(greedy);
        assert!(callers.enter(&node("a")).is_ok());
        drop(modest);
        assert_eq!(callers.under_way(), 0);
    }

    #[test]
    fn all_together_have_no_more_than_there_is_and_those_that_are_gone_are_forgotten() {
        let callers = Callers::default();
        let names: Vec<NodeName> = (0..4).map(|n| node(&format!("n{n}"))).collect();
        let all: Vec<_> = (0..MOST).map(|n| callers.enter(&names[n % 4]).unwrap()).collect();
        assert_eq!(callers.enter(&node("late")).unwrap_err(), Full::ByAll);
        drop(all);
        callers.enter(&node("other")).unwrap();
        assert!(callers.each.load().len() <= 2, "{:?}", callers.each.load());
    }
}
