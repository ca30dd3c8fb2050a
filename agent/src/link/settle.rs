//! Which of two mesh links to the same peer stays. Pure, and the same on both sides.
//!
//! In this order:
//! 1. a peer that presents an older generation than was seen is refused: it is a ghost;
//! 2. one that presents a newer generation replaces what there was: the old process is gone;
//! 3. a link that is silent gives way to one that just proved itself;
//! 4. a link over TCP is only dialled where QUIC does not answer, and QUIC beside one over TCP only to see
//!    whether it does: of two such the newer stays, unless one over QUIC was made a moment ago;
//! 5. of two links dialled by the same side the newer stays: its dialler gave the older up;
//! 6. of two links dialled by different sides the one dialled by the smaller name stays.

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
    /// What it runs on.
    pub(crate) on: On,
}

/// What a link runs on, as far as the rule cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Quic {
        /// Made a moment ago: it works.
        young: bool,
    },
    Tcp,
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
    match (current.on, new.on) {
        _ if current.silent => {}
        (On::Quic { young: true }, On::Tcp) => return Verdict::Keep,
        (On::Quic { .. }, On::Tcp) | (On::Tcp, On::Quic { .. }) => return Verdict::Replace,
        (On::Quic { .. }, On::Quic { .. }) | (On::Tcp, On::Tcp) => {}
    }
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
        let on = On::Quic { young: false };
        Contender { generation: Generation(generation), dialled_here, silent, on }
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

    #[test]
    fn of_a_link_over_tcp_and_one_over_quic_the_newer_stays_whoever_dialled() {
        let tcp = |dialled_here| Contender { on: On::Tcp, ..link(1, dialled_here, false) };
        for (old_here, new_here) in [(true, true), (true, false), (false, true), (false, false)] {
            let quic = link(1, old_here, false);
            assert_eq!(run("a", "b", 1, Some(quic), tcp(new_here)), Verdict::Replace);
            let quic = link(1, new_here, false);
            assert_eq!(run("a", "b", 1, Some(tcp(old_here)), quic), Verdict::Replace);
        }
    }

    #[test]
    fn a_link_over_quic_that_just_came_up_does_not_give_way_to_one_over_tcp() {
        let young = Contender { on: On::Quic { young: true }, ..link(1, false, false) };
        let tcp = Contender { on: On::Tcp, ..link(1, true, false) };
        assert_eq!(run("a", "b", 1, Some(young), tcp), Verdict::Keep);
        let silent = Contender { silent: true, ..young };
        assert_eq!(run("a", "b", 1, Some(silent), tcp), Verdict::Replace);
    }
}
