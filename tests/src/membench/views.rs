//! What each member holds of each other, and since when. Pure: sightings in, answers out.
//!
//! Members are numbered. A sighting is what an agent says itself: of Hearth a row of its view, of serf a line
//! of its log. Both carry the moment of the change, not that of the look, so that figures are as sharp as the
//! agents' clocks, however seldom they are asked. (All agents of a bench run on one machine.)
//!
//! A view that is looked at now and then does not show what came and went in between. That there was something
//! is seen all the same: somebody is alive since another moment than before.

use hearth_proto::time::Wall;

/// What a member takes another for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// It knows nothing of it.
    #[default]
    Unknown,
    /// Alive.
    Alive,
    /// Alive, and somebody says it is not.
    Suspect,
    /// Failed.
    Down,
}

/// What a member holds of another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    state: State,
    since: Wall,
    /// When it was last suspected: at this moment, or not long before.
    doubted: Wall,
    /// When it was last taken for failed.
    down: Wall,
}

/// All views of all members.
#[derive(Debug, Clone)]
pub struct Views {
    /// By who holds it, then by whom it is about.
    all: Vec<Vec<Seen>>,
}

/// What was thought of one member by the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opinion {
    /// So many took it for failed at some time.
    pub failed: usize,
    /// So many suspected it at some time, or took it for failed.
    pub doubted: usize,
    /// So often one took somebody else for failed.
    pub others_failed: usize,
}

impl Views {
    /// Of so many members, none of whom knows anything.
    #[must_use]
    pub fn new(members: usize) -> Self {
        Self { all: vec![vec![Seen::default(); members]; members] }
    }

    /// `who` takes `of` for this, since then.
    pub fn note(&mut self, who: usize, of: usize, state: State, since: Wall) {
        let seen = &mut self.all[who][of];
        if (seen.state, seen.since) == (state, since) {
            return;
        }
        match (seen.state, state) {
            (_, State::Down) => seen.down = since,
            // Alive since another moment: something was in between.
            (_, State::Suspect) | (State::Alive, State::Alive) => seen.doubted = since,
            _ => {}
        }
        (seen.state, seen.since) = (state, since);
    }

    /// `who` suspected `of` at that moment; what it takes it for is told apart from that.
    pub fn doubt(&mut self, who: usize, of: usize, at: Wall) {
        self.all[who][of].doubted = at;
    }

    /// `who` begins anew: it knows nobody.
    pub fn forget(&mut self, who: usize) {
        self.all[who].fill(Seen::default());
    }

    /// Whether `who` takes `of` for alive.
    #[must_use]
    pub fn holds(&self, who: usize, of: usize) -> bool {
        self.all[who][of].state == State::Alive
    }

    /// How many pairs are not as they should be when everybody lives.
    #[must_use]
    pub fn lacking(&self) -> usize {
        self.pairs().filter(|(_, _, seen)| seen.state != State::Alive).count()
    }

    /// The moment of the last change by which everybody sees everybody, if everybody does.
    #[must_use]
    pub fn whole_since(&self) -> Option<Wall> {
        if self.lacking() > 0 {
            return None;
        }
        self.pairs().map(|(_, _, seen)| seen.since).max()
    }

    /// When the others learnt that `of` has failed, since then; in order, who has not is missing.
    #[must_use]
    pub fn learnt(&self, of: usize, from: Wall) -> Vec<Wall> {
        let about = self.pairs().filter(|&(_, about, _)| about == of);
        let known = about.filter(|(_, _, seen)| seen.state == State::Down && seen.since >= from);
        let mut moments: Vec<Wall> = known.map(|(_, _, seen)| seen.since).collect();
        moments.sort_unstable();
        moments
    }

    /// The moment by which `of`, started again at `from`, is seen by all others and sees all of them.
    #[must_use]
    pub fn back(&self, of: usize, from: Wall) -> Option<Wall> {
        let mut last = from;
        for (_, about, seen) in self.pairs().filter(|&(who, about, _)| who == of || about == of) {
            // Its own view was forgotten with the start before.
            let stale = about == of && seen.since < from;
            if seen.state != State::Alive || stale {
                return None;
            }
            last = last.max(seen.since);
        }
        Some(last)
    }

    /// What was thought of `of` since then. What `of` itself thinks of others counts among `others_failed`.
    #[must_use]
    pub fn opinion(&self, of: usize, from: Wall) -> Opinion {
        let mut opinion = Opinion::default();
        for (_, about, seen) in self.pairs() {
            let (failed, doubted) = (seen.down >= from, seen.doubted >= from);
            if about == of {
                opinion.failed += usize::from(failed);
                opinion.doubted += usize::from(failed || doubted);
            } else {
                opinion.others_failed += usize::from(failed);
            }
        }
        opinion
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize, &Seen)> {
        let rows = self.all.iter().enumerate();
        rows.flat_map(|(who, row)| {
            row.iter().enumerate().map(move |(about, seen)| (who, about, seen))
        })
        .filter(|(who, about, _)| who != about)
    }
}

#[cfg(test)]
mod tests {
    use super::{Opinion, State, Views, Wall};

    fn of_three(since: u64) -> Views {
        let mut views = Views::new(3);
        for who in 0..3 {
            for of in (0..3).filter(|&of| of != who) {
                views.note(who, of, State::Alive, Wall(since));
            }
        }
        views
    }

    #[test]
    fn views_are_whole_since_the_last_member_was_seen_by_the_last() {
        let mut views = of_three(10);
        assert_eq!(views.whole_since(), Some(Wall(10)));
        views.note(2, 0, State::Suspect, Wall(11));
        assert_eq!((views.whole_since(), views.lacking()), (None, 1));
        views.note(2, 0, State::Alive, Wall(14));
        assert_eq!(views.whole_since(), Some(Wall(14)));
    }

    #[test]
    fn a_death_is_learnt_by_each_when_it_says_so_and_earlier_ones_do_not_count() {
        let mut views = of_three(10);
        views.note(0, 2, State::Down, Wall(19));
        assert!(views.learnt(2, Wall(20)).is_empty());
        views.note(0, 2, State::Alive, Wall(20));
        views.note(0, 2, State::Down, Wall(26));
        views.note(1, 2, State::Suspect, Wall(22));
        views.note(1, 2, State::Down, Wall(24));
        assert_eq!(views.learnt(2, Wall(20)), [Wall(24), Wall(26)]);
    }

    #[test]
    fn who_was_started_again_is_back_when_all_see_it_anew_and_it_sees_all() {
        let mut views = of_three(10);
        views.note(0, 2, State::Down, Wall(20));
        views.forget(2);
        views.note(0, 2, State::Alive, Wall(31));
        views.note(2, 0, State::Alive, Wall(32));
        views.note(2, 1, State::Alive, Wall(33));
        // Member 1 still means the one that was killed.
        assert_eq!(views.back(2, Wall(30)), None);
        views.note(1, 2, State::Down, Wall(34));
        views.note(1, 2, State::Alive, Wall(35));
        assert_eq!(views.back(2, Wall(30)), Some(Wall(35)));
    }

    #[test]
    fn what_came_and_went_between_two_looks_was_at_least_a_doubt() {
        let mut views = of_three(10);
        views.note(0, 2, State::Alive, Wall(10));
        assert_eq!(views.opinion(2, Wall(1)), Opinion::default());
        views.note(0, 2, State::Alive, Wall(12));
        views.note(1, 2, State::Down, Wall(13));
        views.note(1, 2, State::Alive, Wall(14));
        views.note(2, 0, State::Down, Wall(13));
        let opinion = Opinion { failed: 1, doubted: 2, others_failed: 1 };
        assert_eq!(views.opinion(2, Wall(11)), opinion);
        assert_eq!(views.opinion(2, Wall(15)), Opinion::default());
    }

    #[test]
    fn a_doubt_told_apart_leaves_the_state() {
        let mut views = of_three(10);
        views.doubt(0, 1, Wall(12));
        assert_eq!((views.lacking(), views.opinion(1, Wall(11)).doubted), (0, 1));
    }
}
