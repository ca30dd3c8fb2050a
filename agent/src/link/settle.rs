//! Which of two mesh links to the same peer stays. Pure, and the same on both sides.
//!
//! In this order:
//! 1. a peer that presents an older generation than was seen is refused: it is a ghost;
//! 2. one that presents a newer generation replaces what there was: the old process is gone;
//! 3. a link that is silent gives way to one that just proved itself;
//! 4. of two links dialled by the same side the newer stays: its dialler gave the older up;
//! 5. of two links dialled by different sides the one dialled by the smaller name stays.

use hearth_proto::ids::{Generation, NodeName};

/// What the rule looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contender {
    /// The peer's start, from its Hello.
    pub(crate) generation: Generation,
    /// Whether we dialled.
    pub(crate) dialled_here: bool,
    /// Whether it is silent now.
    pub(crate) silent: bool,
}

/// The verdict on a newly established link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Close it: the peer presents an old generation.
    Refuse,
    /// It replaces whatever belongs to an older start of the peer, which is closed at once.
    Supersede,
    /// It becomes the link; the other finishes what is in flight.
    Replace,
    /// The one there was stays; the new one finishes what is in flight.
    Keep,
}

/// Decides about `new`, given the link there is (if any) and the newest generation seen of the peer.
pub(crate) fn settle(
    own: &NodeName,
    peer: &NodeName,
    newest: Generation,
    current: Option<Contender>,
    new: Contender,
) -> Verdict {
    if new.generation < newest {
        return Verdict::Refuse;
    }
    if new.generation > newest {
        return Verdict::Supersede;
    }
    let Some(current) = current else { return Verdict::Replace };
    if current.silent || current.dialled_here == new.dialled_here {
        return Verdict::Replace;
    }
    let ours_stays = own < peer;
    if new.dialled_here == ours_stays { Verdict::Replace } else { Verdict::Keep }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(generation: u64, dialled_here: bool, silent: bool) -> Contender {
        Contender { generation: Generation(generation), dialled_here, silent }
    }

    fn run(own: &str, peer: &str, newest: u64, old: Option<Contender>, new: Contender) -> Verdict {
        let name = |n| NodeName::parse(n).unwrap();
        settle(&name(own), &name(peer), Generation(newest), old, new)
    }

    #[test]
    fn an_older_generation_is_refused_and_a_newer_one_supersedes() {
        assert_eq!(run("a", "b", 5, None, link(4, true, false)), Verdict::Refuse);
        let old = Some(link(5, true, false));
        assert_eq!(run("a", "b", 5, old, link(6, false, false)), Verdict::Supersede);
        assert_eq!(run("a", "b", 0, None, link(1, false, false)), Verdict::Supersede);
    }

    #[test]
    fn both_sides_of_a_double_dial_keep_the_same_link_in_either_order() {
        // One link dialled by `a`, one by `b`; each side sees them in either order.
        for first_by_a in [true, false] {
            for (own, peer) in [("a", "b"), ("b", "a")] {
                let here = |by_a: bool| by_a == (own == "a");
                let verdict = run(
                    own,
                    peer,
                    1,
                    Some(link(1, here(first_by_a), false)),
                    link(1, here(!first_by_a), false),
                );
                let expected = if first_by_a { Verdict::Keep } else { Verdict::Replace };
                assert_eq!(verdict, expected, "{own} sees a's link first: {first_by_a}");
            }
        }
    }

    #[test]
    fn a_silent_link_gives_way_and_a_second_dial_of_the_same_side_wins() {
        assert_eq!(
            run("a", "b", 1, Some(link(1, true, true)), link(1, false, false)),
            Verdict::Replace
        );
        assert_eq!(
            run("b", "a", 1, Some(link(1, false, false)), link(1, false, false)),
            Verdict::Replace
        );
    }
}
