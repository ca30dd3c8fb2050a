//! Each rule of the protocol as a test of its own; all of them together are [`super::explore`]'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::claim::Stand;
use super::core::{Core, Lost, Memory, Out};
use super::electorate::{Electorate, Short, majority};
use super::message::*;
use super::promise::{Book, Voter};
use super::seat::{Candidacy, Seat, Status};
use super::{MAX_LEASE, Timing};
use crate::ids::{Generation, NodeName};
use crate::time::{Span, Time};

const LEASE: Duration = Duration::from_secs(5);

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn names(texts: &[&str]) -> Vec<NodeName> {
    texts.iter().map(|t| name(t)).collect()
}

fn three() -> Electorate {
    Electorate::new(1, names(&["a", "b", "c"]), [])
}

fn fresh() -> Book {
    Book::fresh(&three(), &Timing::of(LEASE))
}

fn claim_of(electorate: &Electorate, term: u64) -> Claim {
    Claim {
        round: Round { generation: Generation(1), count: term },
        number: electorate.number(),
        print: electorate.print(),
        settled: 0,
        term,
        lease: Span(LEASE),
    }
}

fn at(ms: u64) -> Time {
    Time(1_000_000_000 + ms * 1_000)
}

/// Asks a voter on `c`.
fn ask(voter: &mut Voter, now: Time, from: &str, claim: &Claim) -> Result<(), Refusal> {
    voter.claim(now, &name("c"), &name(from), claim, &three())
}

// ---- voters ----------------------------------------------------------------------------------

#[test]
fn a_promise_binds_for_its_whole_length_and_not_longer() {
    let mut voter = Voter::restored(fresh(), at(0));
    assert_eq!(ask(&mut voter, at(0), "a", &claim_of(&three(), 1)), Ok(()));
    let held = Err(Refusal::Held { by: name("a"), term: 1, left: Span(Duration::from_millis(1)) });
    assert_eq!(ask(&mut voter, at(4_999), "b", &claim_of(&three(), 2)), held);
    assert_eq!(ask(&mut voter, at(5_000), "b", &claim_of(&three(), 2)), Ok(()));
}

#[test]
fn a_term_is_promised_once_and_the_refusal_names_the_greatest_seen() {
    let mut voter = Voter::restored(fresh(), at(0));
    assert_eq!(ask(&mut voter, at(0), "a", &claim_of(&three(), 7)), Ok(()));
    for (from, term) in [("b", 7), ("b", 6), ("a", 6)] {
        let refused = ask(&mut voter, at(6_000), from, &claim_of(&three(), term));
        assert_eq!(refused, Err(Refusal::Term { seen: 7 }), "{from} {term}");
    }
    assert_eq!(ask(&mut voter, at(6_000), "a", &claim_of(&three(), 7)), Ok(()), "a renewal");
}

#[test]
fn a_renewal_shorter_than_the_promise_takes_nothing_of_it_back() {
    let mut voter = Voter::restored(fresh(), at(0));
    assert_eq!(ask(&mut voter, at(0), "a", &claim_of(&three(), 1)), Ok(()));
    let short = Claim { lease: Span(Duration::from_secs(1)), ..claim_of(&three(), 1) };
    assert_eq!(ask(&mut voter, at(100), "a", &short), Ok(()));
    assert!(voter.promised(at(4_999)).is_some());
    assert_eq!(voter.book().lease, Span(LEASE), "nor after a restart");
}

#[test]
fn what_was_given_back_is_free_at_once_and_cannot_be_renewed() {
    let mut voter = Voter::restored(fresh(), at(0));
    assert_eq!(ask(&mut voter, at(0), "a", &claim_of(&three(), 3)), Ok(()));
    assert!(!voter.release(&name("b"), 3), "only by its holder");
    assert!(!voter.release(&name("a"), 2), "only this term");
    assert!(voter.release(&name("a"), 3));
    let late = ask(&mut voter, at(1), "a", &claim_of(&three(), 3));
    assert_eq!(late, Err(Refusal::Term { seen: 3 }), "a renewal that was under way");
    assert_eq!(ask(&mut voter, at(1), "b", &claim_of(&three(), 4)), Ok(()));
}

#[test]
fn a_restarted_voter_keeps_its_promise_for_its_whole_length_again() {
    let mut voter = Voter::restored(fresh(), at(0));
    assert_eq!(ask(&mut voter, at(0), "a", &claim_of(&three(), 1)), Ok(()));
    let mut voter = Voter::restored(voter.book().clone(), at(4_000));
    assert!(matches!(
        ask(&mut voter, at(8_999), "b", &claim_of(&three(), 2)),
        Err(Refusal::Held { .. })
    ));
    assert_eq!(ask(&mut voter, at(9_000), "b", &claim_of(&three(), 2)), Ok(()));
}

#[test]
fn only_owners_claim_only_what_may_be_promised_and_only_under_the_electorate_in_force() {
    let mut voter = Voter::restored(fresh(), at(0));
    assert_eq!(ask(&mut voter, at(0), "x", &claim_of(&three(), 1)), Err(Refusal::NotOwner));
    let long = Claim { lease: Span(MAX_LEASE * 2), ..claim_of(&three(), 1) };
    assert_eq!(ask(&mut voter, at(0), "a", &long), Err(Refusal::TooLong));
    let other = Electorate::new(1, names(&["a", "b", "c", "d"]), []);
    let refused = ask(&mut voter, at(0), "a", &claim_of(&other, 1));
    assert_eq!(refused, Err(Refusal::Electorate { number: 1 }), "same number, other owners");
    voter.book.number = 2;
    let refused = ask(&mut voter, at(0), "a", &claim_of(&three(), 1));
    assert_eq!(refused, Err(Refusal::Electorate { number: 2 }), "it has voted under a later one");
}

// ---- electorates -------------------------------------------------------------------------------

#[test]
fn a_majority_is_more_than_half_and_of_every_electorate_that_may_be_alive() {
    assert_eq!([1, 2, 3, 4, 5].map(majority), [1, 2, 2, 3, 3]);
    let e = Electorate::new(3, names(&["d"]), [names(&["c", "d"]), names(&["a", "b", "c"])]);
    let yes = |n: &[&str]| names(n).into_iter().collect::<BTreeSet<_>>();
    assert!(e.agree(3, &yes(&["d"])), "the present one is settled");
    assert_eq!(e.short(2, &yes(&["d"])), Some(Short { have: 1, need: 2, of: 2 }));
    assert!(e.agree(2, &yes(&["c", "d"])));
    assert!(!e.agree(0, &yes(&["c", "d"])), "nothing is settled: the first counts as well");
    assert!(e.agree(0, &yes(&["a", "c", "d"])));
}

proptest! {
    /// Two majorities of owners before and after a change always have a voter in common.
    #[test]
    fn any_two_quorums_that_count_an_electorate_meet_in_it(
        owners in prop::collection::btree_set(0u8..8, 1..8),
        next in prop::collection::btree_set(0u8..8, 1..8),
        one in prop::collection::btree_set(0u8..8, 0..8),
        two in prop::collection::btree_set(0u8..8, 0..8),
    ) {
        let of = |set: &BTreeSet<u8>| set.iter().map(|n| name(&format!("n{n}"))).collect::<Vec<_>>();
        let before = Electorate::new(1, of(&owners), []);
        let after = Electorate::new(2, of(&next), [of(&owners)]);
        let (one, two) = (of(&one).into_iter().collect(), of(&two).into_iter().collect());
        if before.agree(0, &one) && after.agree(1, &two) {
            prop_assert!(one.intersection(&two).any(|n| before.owners().contains(n)));
        }
    }

    /// Whatever the rates of clocks within a tenth, and whenever the claim arrives.
    #[test]
    fn a_holder_stops_before_any_promise_ends_under_a_drift_of_ten_percent(
        lease in 1_000_000u64..60_000_000, holder in 900u64..=1_100, voter in 900u64..=1_100,
        delay in 0u64..10_000_000,
    ) {
        let timing = Timing::of(Duration::from_micros(lease));
        let real = |d: Duration, rate: u64| d.as_micros() as u64 * 1_000 / rate;
        prop_assert!(real(timing.hold, holder) <= delay + real(timing.promise, voter));
    }
}

// ---- nodes -------------------------------------------------------------------------------------

/// Cores whose messages and writes are carried by hand.
struct Desk {
    cores: BTreeMap<&'static str, Core>,
    mail: Vec<(NodeName, NodeName, Body)>,
    writes: Vec<(&'static str, u64, Book)>,
    told: Vec<(&'static str, Out)>,
}

impl Desk {
    fn new(of: &[&'static str]) -> Self {
        let core = |n: &'static str| {
            let memory = (Some(fresh()), None);
            (n, Core::new(name(n), Generation(1), three(), Timing::of(LEASE), memory, at(0)))
        };
        let cores = of.iter().copied().map(core).collect();
        Self { cores, mail: Vec::new(), writes: Vec::new(), told: Vec::new() }
    }

    fn act(&mut self, on: &'static str, act: impl FnOnce(&mut Core)) {
        let core = self.cores.get_mut(on).unwrap();
        act(core);
        while let Some(out) = core.poll() {
            match out {
                Out::Send { to, body } => self.mail.push((name(on), to, body)),
                Out::Save { serial, book } => self.writes.push((on, serial, book)),
                told => self.told.push((on, told)),
            }
        }
    }

    fn write(&mut self, now: Time) {
        for (on, serial, _) in std::mem::take(&mut self.writes) {
            self.act(on, |c| c.saved(now, serial));
        }
    }

    /// Carries letters and writes until there are none.
    fn carry(&mut self, now: Time) {
        while !self.mail.is_empty() || !self.writes.is_empty() {
            self.write(now);
            for (from, to, body) in std::mem::take(&mut self.mail) {
                let found = self.cores.keys().find(|n| **n == to.as_str()).copied();
                if let Some(on) = found {
                    self.act(on, |c| c.handle(now, &from, body));
                }
            }
        }
    }

    fn holds(&self, on: &str, now: Time) -> Option<u64> {
        self.cores[on].holding(now).map(|(term, _)| term)
    }
}

#[test]
fn a_lease_counts_from_when_the_claim_was_sent_and_ends_by_itself() {
    let mut desk = Desk::new(&["a", "b", "c"]);
    desk.act("a", |c| c.claim(at(0), 0));
    desk.carry(at(1_000));
    let hold = u64::try_from(Timing::of(LEASE).hold.as_millis()).unwrap();
    assert_eq!(desk.holds("a", at(hold)), Some(1));
    assert_eq!(desk.holds("a", at(hold + 1)), None, "not a millisecond later");
}

#[test]
fn one_of_three_is_no_majority() {
    let mut desk = Desk::new(&["a"]);
    desk.act("a", |c| c.claim(at(0), 0));
    desk.carry(at(0));
    assert_eq!(desk.holds("a", at(0)), None);
}

#[test]
fn nothing_is_granted_before_it_is_on_disk_not_even_to_oneself() {
    let mut desk = Desk::new(&["a", "b"]);
    desk.act("a", |c| c.claim(at(0), 0));
    let (_, _, claim) = desk.mail[0].clone();
    desk.mail.clear();
    desk.act("b", |c| c.handle(at(0), &name("a"), claim));
    assert!(desk.mail.is_empty(), "b has not written yet");
    let writes: Vec<u64> = desk.writes.iter().map(|(_, _, book)| book.term).collect();
    assert_eq!(writes, [1, 1]);
    desk.writes.retain(|(on, ..)| *on == "b");
    desk.carry(at(1));
    assert_eq!(desk.holds("a", at(1)), None, "a has not written yet");
    desk.act("a", |c| c.saved(at(2), 1));
    assert_eq!(desk.holds("a", at(2)), Some(1));
}

#[test]
fn grants_of_a_round_that_was_given_up_count_for_nothing() {
    let mut desk = Desk::new(&["a", "b", "c"]);
    desk.act("a", |c| c.claim(at(0), 0));
    desk.write(at(0));
    let claims = std::mem::take(&mut desk.mail);
    desk.act("a", |c| c.release(at(10), None));
    desk.mail.clear();
    desk.mail = claims;
    desk.carry(at(20));
    assert_eq!(desk.holds("a", at(20)), None);
}

#[test]
fn a_holder_that_was_stopped_past_its_lease_loses_it_before_it_hears_anything() {
    let mut desk = Desk::new(&["a", "b", "c"]);
    desk.act("a", |c| c.claim(at(0), 0));
    desk.carry(at(0));
    desk.act("a", |c| c.renew(at(1_000)));
    desk.write(at(1_000));
    // Its renewals were granted long ago; the grants lie unread until it runs again.
    for (from, to, body) in std::mem::take(&mut desk.mail) {
        let on = if to.as_str() == "b" { "b" } else { "c" };
        desk.act(on, |c| c.handle(at(1_000), &from, body));
    }
    desk.write(at(1_000));
    let grants = std::mem::take(&mut desk.mail);
    assert_eq!(grants.len(), 2);
    for (from, _, body) in grants {
        desk.act("a", |c| c.handle(at(9_000), &from, body));
    }
    assert_eq!(desk.holds("a", at(9_000)), None);
    assert_eq!(desk.told.last(), Some(&("a", Out::Lost { term: 1, why: Lost::Expired })));
}

#[test]
fn a_holder_whose_term_a_voter_has_outgrown_renews_above_it() {
    let mut desk = Desk::new(&["a", "b", "c"]);
    desk.act("a", |c| c.claim(at(0), 0));
    desk.carry(at(0));
    let Memory::Whole(voter) = &mut desk.cores.get_mut("b").unwrap().memory else { panic!() };
    (voter.book.term, voter.book.holder) = (9, None);
    let gone = desk.cores.remove("c");
    desk.act("a", |c| c.renew(at(1_000)));
    desk.carry(at(1_000));
    assert_eq!(desk.holds("a", at(1_000)), Some(1));
    desk.act("a", |c| c.renew(at(1_100)));
    desk.carry(at(1_100));
    assert_eq!(desk.holds("a", at(1_100)), Some(10), "without having lost it");
    assert!(gone.is_some());
}

#[test]
fn a_lease_given_back_is_given_up_before_anybody_hears_of_it() {
    let mut desk = Desk::new(&["a", "b", "c"]);
    desk.act("a", |c| c.claim(at(0), 0));
    desk.carry(at(0));
    desk.act("a", |c| c.release(at(100), Some(name("b"))));
    assert_eq!(desk.holds("a", at(100)), None);
    desk.carry(at(100));
    desk.act("b", |c| c.claim(at(101), 0));
    desk.carry(at(101));
    assert_eq!(desk.holds("b", at(101)), Some(2));
}

#[test]
fn owners_change_without_a_gap_and_never_without_a_majority_of_those_before() {
    let next = Electorate::new(2, names(&["c", "d", "e"]), [names(&["a", "b", "c"])]);
    let mut desk = Desk::new(&["a", "b", "c"]);
    desk.act("c", |c| c.claim(at(0), 0));
    desk.carry(at(0));
    for n in ["d", "e"] {
        let memory = (Some(Book::fresh(&next, &Timing::of(LEASE))), None);
        let core =
            Core::new(name(n), Generation(1), next.clone(), Timing::of(LEASE), memory, at(0));
        desk.cores.insert(n, core);
    }
    desk.act("c", |c| c.set_electorate(at(100), next.clone(), Timing::of(LEASE)));
    assert_eq!(desk.holds("c", at(100)), Some(1), "it stays an owner and keeps its lease");
    desk.act("c", |c| c.renew(at(200)));
    desk.carry(at(200));
    let until = |desk: &Desk| desk.cores["c"].holding(at(200)).unwrap().1;
    let before = until(&desk);
    desk.act("a", |c| c.set_electorate(at(300), next.clone(), Timing::of(LEASE)));
    desk.act("c", |c| c.renew(at(300)));
    desk.carry(at(300));
    assert!(until(&desk) > before, "c, d, e are not enough; c, d, e and a are");
    assert_eq!(desk.cores["c"].claimant().settled, 2);
    let old = desk.cores["b"].electorate().clone();
    assert_eq!(old.number(), 1, "b still knows the owners before, and is refused");
    desk.act("b", |c| c.claim(at(9_000), 0));
    desk.carry(at(9_000));
    assert_eq!(desk.holds("b", at(9_000)), None);
}

// ---- memory ------------------------------------------------------------------------------------

fn blank(on: &str, now: Time) -> Core {
    Core::new(name(on), Generation(2), three(), Timing::of(LEASE), (None, None), now)
}

#[test]
fn a_voter_without_memory_does_not_vote_before_the_longest_lease_is_over_and_all_are_heard() {
    let mut desk = Desk::new(&["a", "b"]);
    desk.act("a", |c| c.claim(at(0), 7));
    desk.carry(at(0));
    desk.cores.insert("c", blank("c", at(100)));
    let over = 100 + u64::try_from(MAX_LEASE.as_millis()).unwrap();
    let is_blank = |desk: &Desk| matches!(desk.cores["c"].memory(), Memory::Blank(_));
    desk.act("c", |c| c.ask(at(over - 1)));
    desk.carry(at(over));
    assert!(is_blank(&desk), "asked before it was over");
    let a = desk.cores.remove("a").unwrap();
    desk.act("c", |c| c.ask(at(over)));
    desk.carry(at(over));
    assert!(is_blank(&desk), "a and c may have been a majority, and a is not heard");
    desk.cores.insert("a", a);
    desk.act("c", |c| c.ask(at(over + 1)));
    desk.carry(at(over + 1));
    let Memory::Whole(voter) = desk.cores["c"].memory() else { panic!("still blank") };
    assert_eq!((voter.book().term, voter.book().holder.clone()), (7, None));
}

/// Has each of these ask, and says who has a memory then.
fn ask_all(desk: &mut Desk, who: &[&'static str], now: u64) -> Vec<&'static str> {
    for n in who {
        desk.act(n, |c| c.ask(at(now)));
        desk.carry(at(now));
    }
    let whole = |n: &&&str| matches!(desk.cores[**n].memory(), Memory::Whole(_));
    ["a", "b", "c"].iter().filter(whole).copied().collect()
}

fn all_blank() -> Desk {
    let mut desk = Desk::new(&[]);
    for n in ["a", "b", "c"] {
        desk.cores.insert(n, blank(n, at(0)));
    }
    desk
}

#[test]
fn where_everybody_is_without_memory_nobody_waits_for_a_lease_and_nobody_is_left_behind() {
    let mut desk = all_blank();
    assert_eq!(ask_all(&mut desk, &["a"], 1), [""; 0], "b and c have not heard so yet");
    assert_eq!(ask_all(&mut desk, &["b", "c"], 600), [""; 0]);
    assert_eq!(ask_all(&mut desk, &["a"], 1_251), ["a"]);
    assert_eq!(ask_all(&mut desk, &["b", "c"], 1_849), ["a"], "nor before they have waited");
    assert_eq!(ask_all(&mut desk, &["b", "c"], 1_850), ["a", "b", "c"], "a has a memory by now");
}

#[test]
fn who_hears_of_a_memory_first_or_of_other_owners_does_not_vote_for_it() {
    let mut desk = all_blank();
    ask_all(&mut desk, &["a", "b"], 1);
    assert_eq!(ask_all(&mut desk, &["a"], 1_300), ["a"]);
    assert_eq!(ask_all(&mut desk, &["c"], 1_301), ["a"]);
    assert_eq!(ask_all(&mut desk, &["c"], 9_000), ["a"], "c may have promised before it was wiped");
    let more = Electorate::new(1, names(&["a", "b", "c", "d"]), []);
    desk.act("b", |c| c.set_electorate(at(9_000), more.clone(), Timing::of(LEASE)));
    assert_eq!(ask_all(&mut desk, &["b"], 9_001), ["a"], "b knows nothing of d");
}

// ---- seats -------------------------------------------------------------------------------------

/// Seats on a network that delivers after a millisecond, and disks that write at once.
struct Room {
    now: u64,
    seats: BTreeMap<NodeName, Seat>,
    mail: Vec<(NodeName, NodeName, Body)>,
    cut: BTreeSet<NodeName>,
    claims: u64,
}

impl Room {
    fn new(seed: u64, of: &[&str]) -> Self {
        let seat = |(n, rank): (&&str, u32)| {
            let memory = (Some(fresh()), None);
            let core = Core::new(name(n), Generation(1), three(), Timing::of(LEASE), memory, at(0));
            let mut seat = Seat::new(core, seed + u64::from(rank), at(0));
            seat.set_candidacy(at(0), Candidacy::In(rank));
            (name(n), seat)
        };
        let seats = of.iter().zip(0..).map(seat).collect();
        Self { now: 0, seats, mail: Vec::new(), cut: BTreeSet::new(), claims: 0 }
    }

    fn act(&mut self, on: &NodeName, act: impl FnOnce(&mut Seat, Time)) {
        let now = at(self.now);
        let Some(seat) = self.seats.get_mut(on) else { return };
        act(seat, now);
        while let Some(out) = seat.poll() {
            match out {
                Out::Send { to, body } => {
                    self.claims += u64::from(matches!(body, Body::Claim(_)));
                    self.mail.push((on.clone(), to, body));
                }
                Out::Save { serial, .. } => seat.saved(now, serial),
                Out::Won { .. } | Out::Lost { .. } => {}
            }
        }
    }

    /// A millisecond.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += 1;
            for (from, to, body) in std::mem::take(&mut self.mail) {
                if !self.cut.contains(&from) && !self.cut.contains(&to) {
                    self.act(&to, |seat, now| seat.handle(now, &from, body));
                }
            }
            for on in self.seats.keys().cloned().collect::<Vec<_>>() {
                self.act(&on, |seat, now| {
                    if seat.poll_timeout() <= now {
                        seat.handle_timeout(now);
                    }
                });
            }
        }
    }

    fn holder(&self) -> Option<(String, u64)> {
        let holds = |(n, s): (&NodeName, &Seat)| Some((n.to_string(), s.holding(at(self.now))?.0));
        self.seats.iter().find_map(holds)
    }

    fn status(&self, of: &str) -> Status {
        self.seats[&name(of)].status(at(self.now))
    }
}

#[test]
fn the_first_in_the_agreed_order_gets_the_lease_and_keeps_it() {
    let mut room = Room::new(1, &["a", "b", "c"]);
    room.pass(200);
    assert_eq!(room.holder(), Some(("a".into(), 1)));
    for _ in 0..60 {
        room.pass(1_000);
        assert_eq!(room.holder(), Some(("a".into(), 1)));
    }
    let rounds = room.claims / 2;
    assert!(rounds <= 70, "{rounds} rounds of renewals in 60 s");
    assert!(matches!(room.status("b"), Status::Follows { .. }));
}

#[test]
fn when_the_holder_is_gone_the_next_in_order_follows_once_the_promises_end() {
    let mut room = Room::new(2, &["a", "b", "c"]);
    room.pass(1_000);
    room.cut.insert(name("a"));
    room.pass(3_900);
    assert!(room.holder().is_none_or(|(n, _)| n == "a"), "the promises are not over");
    room.pass(2_000);
    assert_eq!(room.holder(), Some(("b".into(), 2)));
}

#[test]
fn a_minority_refuses_says_so_and_raises_no_terms() {
    let mut room = Room::new(3, &["a", "b", "c"]);
    room.pass(1_000);
    room.cut.extend([name("b"), name("c")]);
    room.pass(60_000);
    assert_eq!(room.holder(), None);
    let Status::Minority { short, silent } = room.status("b") else {
        panic!("{:?}", room.status("b"))
    };
    assert_eq!((short, silent.len()), (Short { have: 1, need: 2, of: 3 }, 2));
    let text = room.status("b").to_string();
    assert!(
        text.starts_with("no majority: 1 of 3 owners would grant the lease, 2 are needed"),
        "{text}"
    );
    room.cut.clear();
    room.pass(5_000);
    assert!(room.holder().is_some_and(|(_, term)| term <= 3), "{:?}", room.holder());
}

#[test]
fn a_lease_handed_over_is_taken_by_whom_it_is_meant_for() {
    let mut room = Room::new(4, &["a", "b", "c"]);
    room.pass(1_000);
    room.act(&name("a"), |seat, now| seat.hand_over(now, Some(name("c"))));
    room.pass(20);
    assert_eq!(room.holder(), Some(("c".into(), 2)));
}

#[test]
fn who_cannot_serve_gives_the_lease_up_and_the_next_has_it_within_half_a_second() {
    let mut room = Room::new(5, &["a", "b", "c"]);
    room.pass(1_000);
    room.act(&name("a"), |seat, now| seat.set_candidacy(now, Candidacy::Out));
    room.pass(500);
    assert_eq!(room.holder(), Some(("b".into(), 2)));
    assert_eq!(room.status("a").word(), "follows");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// All three believe to be first, and start at the same moment.
    #[test]
    fn claimants_that_meet_do_not_meet_for_ever(seed in any::<u32>()) {
        let mut room = Room::new(u64::from(seed), &["a", "b", "c"]);
        for n in ["a", "b", "c"] {
            room.act(&name(n), |seat, now| {
                seat.set_candidacy(now, Candidacy::Out);
                seat.set_candidacy(now, Candidacy::In(0));
            });
        }
        room.pass(3_000);
        prop_assert!(room.holder().is_some(), "{:?}", ["a", "b", "c"].map(|n| room.status(n)));
        let claiming = room.seats.values().filter(|s| matches!(s.core().claimant().stand(), Stand::Claiming(_)));
        prop_assert_eq!(claiming.count(), 0);
    }
}
