//! The rules of the module's text, one by one, and as laws over histories that a network may make.

use proptest::prelude::*;

use super::*;

fn node(n: u8) -> NodeName {
    NodeName::parse(&format!("n{n}")).unwrap()
}

fn ledger() -> ServiceName {
    ServiceName::parse("ledger").unwrap()
}

fn plan(id: u64, started: u64, seconds: u64) -> Plan {
    Plan {
        id: DrillId(id),
        service: ledger(),
        lose: Lose::Node(node(1)),
        length: Span(Duration::from_secs(seconds)),
        abort_above: None,
        force: false,
        by: node(9),
        started: Wall(started),
    }
}

fn said(left: Duration) -> Said {
    let empty: Arc<[u8]> = Arc::from([]);
    Said {
        author: node(9),
        body: empty.clone(),
        certificate: empty.clone(),
        signature: empty,
        left: Span(left),
    }
}

fn begin(drills: &mut Drills, now: u64, plan: Plan, left: u64) -> Result<Change, DrillRefused> {
    drills.begin(Time(now), plan, said(Duration::from_micros(left)))
}

const S: u64 = 1_000_000;

#[test]
fn a_drill_ends_by_itself_when_its_time_is_over() {
    let mut drills = Drills::default();
    begin(&mut drills, 0, plan(1, 0, 10), 10 * S).unwrap();
    assert_eq!(drills.due(), Some(Time(10 * S)));
    assert!(drills.expire(Time(10 * S - 1)).is_empty());
    assert!(drills.running(&ledger()).is_some());
    assert_eq!(drills.expire(Time(10 * S)), [ledger()]);
    assert!(drills.running(&ledger()).is_none());
    assert_eq!(drills.due(), None);
}

#[test]
fn a_process_that_was_stopped_past_the_end_ends_it_with_its_first_step() {
    let mut drills = Drills::default();
    begin(&mut drills, 0, plan(1, 0, 10), 10 * S).unwrap();
    assert_eq!(drills.expire(Time(500 * S)), [ledger()]);
}

#[test]
fn what_is_heard_of_a_known_drill_can_only_shorten_it() {
    let mut drills = Drills::default();
    begin(&mut drills, 0, plan(1, 0, 10), 6 * S).unwrap();
    begin(&mut drills, S, plan(1, 0, 10), 10 * S).unwrap();
    assert_eq!(drills.due(), Some(Time(6 * S)));
    drills.shorten(Time(S), DrillId(1), Duration::from_secs(2));
    assert_eq!(drills.due(), Some(Time(3 * S)));
}

#[test]
fn more_than_its_signed_length_is_never_left() {
    let mut drills = Drills::default();
    begin(&mut drills, 0, plan(1, 0, 10), 600 * S).unwrap();
    assert_eq!(drills.due(), Some(Time(10 * S)));
}

#[test]
fn an_end_wins_in_whatever_order_it_arrives() {
    for end_first in [false, true] {
        let mut drills = Drills::default();
        if end_first {
            drills.end(Time(0), DrillId(1), "enough".into(), said(Duration::ZERO));
        }
        begin(&mut drills, 1, plan(1, 0, 10), 10 * S).unwrap();
        if !end_first {
            let change = drills.end(Time(2), DrillId(1), "enough".into(), said(Duration::ZERO));
            assert_eq!(change, Change::Of(ledger()));
        }
        assert!(drills.running(&ledger()).is_none(), "end first: {end_first}");
        assert_eq!(drills.words(Time(3)).len(), 1, "the end is passed on, the beginning is not");
    }
}

#[test]
fn a_drill_that_is_over_does_not_begin_again_when_an_old_word_arrives() {
    let mut drills = Drills::default();
    begin(&mut drills, 0, plan(1, 0, 10), 10 * S).unwrap();
    drills.expire(Time(11 * S));
    begin(&mut drills, 12 * S, plan(1, 0, 10), 9 * S).unwrap();
    assert!(drills.running(&ledger()).is_none());
}

#[test]
fn of_two_drills_of_a_service_the_one_begun_first_goes_on() {
    for order in [[1, 2], [2, 1]] {
        let mut drills = Drills::default();
        for id in order {
            begin(&mut drills, 0, plan(id, 100 - id, 10), 10 * S).unwrap();
        }
        assert_eq!(drills.running(&ledger()).map(|h| h.plan.id), Some(DrillId(2)));
    }
}

#[test]
fn a_breach_is_told_above_the_share_and_not_before_there_are_enough_requests() {
    let mut drills = Drills::default();
    let mut plan = plan(1, 0, 10);
    plan.abort_above = Some(100);
    begin(&mut drills, 0, plan, 10 * S).unwrap();
    assert_eq!(drills.toll(&ledger(), 19, 19), None);
    let (id, why) = drills.toll(&ledger(), 1, 0).unwrap();
    assert_eq!((id, why.as_str()), (DrillId(1), "19 of 20 requests failed, more than 1 %"));
    let mut calm = Drills::default();
    begin(&mut calm, 0, self::plan(1, 0, 10), 10 * S).unwrap();
    assert_eq!(calm.toll(&ledger(), 1_000, 1_000), None, "nobody asked for an abort");
    assert_eq!(calm.running(&ledger()).map(|h| (h.requests, h.failed)), Some((1_000, 1_000)));
}

#[test]
fn a_word_is_refused_that_is_too_long_or_in_anothers_name() {
    struct Keys;
    impl Keyring for Keys {
        fn sign(&self, _: &[u8]) -> Vec<u8> {
            vec![1]
        }
        fn certificate(&self) -> Arc<[u8]> {
            Arc::from([])
        }
        fn verify(
            &self,
            _: &Identity,
            _: &[u8],
            _: &[u8],
            _: &[u8],
            _: bool,
        ) -> Result<(), Untrusted> {
            Ok(())
        }
    }
    let word = |plan| Said::sign(&Word::Begin(plan), node(9), &Keys).unwrap().peek();
    assert!(word(plan(1, 0, 600)).is_ok());
    for seconds in [0, 601] {
        assert_eq!(word(plan(1, 0, seconds)).unwrap_err().reason(), "length");
    }
    let other = Plan { by: node(8), ..plan(1, 0, 10) };
    assert_eq!(word(other).unwrap_err().reason(), "malformed");
}

#[test]
fn what_is_held_is_bounded_and_forgotten() {
    let mut drills = Drills::default();
    for id in 0..MAX_HELD as u64 {
        begin(&mut drills, id, plan(id, id, 10), 10 * S).unwrap();
        drills.end(Time(id), DrillId(id), String::new(), said(Duration::ZERO));
    }
    assert_eq!(begin(&mut drills, 99, plan(99, 99, 10), S), Err(DrillRefused::Full));
    drills.expire(Time(100) + REMEMBER);
    assert_eq!(drills, Drills::default());
}

/// Each is passed on to a few by whoever takes it for news.
#[test]
fn ends_that_cannot_be_remembered_are_no_news_and_the_end_of_a_drill_that_runs_always_is() {
    let mut drills = Drills::default();
    begin(&mut drills, 0, plan(7, 0, 60), 60 * S).unwrap();
    let end = |id: u64| Word::End { id: DrillId(id), why: "enough".into() };
    for id in 1_000..1_000 + 2 * MAX_HELD as u64 {
        if drills.is_news(&end(id)) {
            drills.end(Time(1), DrillId(id), "enough".into(), said(Duration::ZERO));
        }
        assert!(!drills.is_news(&end(id)), "{id} goes round for ever");
    }
    assert_eq!(drills.ends.len(), MAX_HELD);
    assert!(drills.is_news(&end(7)));
    let change = drills.end(Time(2), DrillId(7), "enough".into(), said(Duration::ZERO));
    assert_eq!(change, Change::Of(ledger()));
    assert!(!drills.is_news(&end(7)) && drills.ends.contains_key(&DrillId(7)));
}

#[test]
fn an_id_survives_being_printed() {
    let id = DrillId(0x00c0_ffee);
    assert_eq!(id.to_string().parse(), Ok(id));
    assert!("drill-xyz".parse::<DrillId>().is_err());
}

/// One hop of a word from an agent to another.
#[derive(Clone, Debug)]
struct Hop {
    from: usize,
    to: usize,
    /// True time at which it leaves.
    at: u64,
    /// How long it is on its way.
    takes: u64,
}

const AGENTS: usize = 4;

fn hops() -> impl Strategy<Value = Vec<Hop>> {
    let hop = (0..AGENTS, 0..AGENTS, 0..30 * S, 0..8 * S).prop_map(|(from, to, at, takes)| Hop {
        from,
        to,
        at,
        takes,
    });
    proptest::collection::vec(hop, 0..40)
}

proptest! {
    /// Whatever is lost, late or doubled, whatever the agents' clocks show and whoever restarts: a drill
    /// runs on no agent beyond its length and the longest way one of its words took to get there.
    #[test]
    fn no_agent_drills_longer_than_the_length_and_what_its_word_was_under_way(
        hops in hops(),
        offsets in proptest::collection::vec(0..1_000_000_000u64, AGENTS),
        restart in (0..AGENTS, 0..20 * S),
        length in 1..15u64,
    ) {
        let local = |agent: usize, at: u64| Time(offsets[agent] + at);
        let mut agents = vec![Drills::default(); AGENTS];
        // The true time by which the drill must be over on an agent, once it knows of it.
        let mut bound = [None::<u64>; AGENTS];
        agents[0].begin(local(0, 0), plan(1, 0, length), said(Duration::from_secs(length))).unwrap();
        bound[0] = Some(length * S);
        // What happens, in the order of true time: departures, arrivals, the restart.
        let mut events: Vec<(u64, Option<usize>, bool)> = Vec::new();
        for (i, hop) in hops.iter().enumerate() {
            events.push((hop.at, Some(i), true));
            events.push((hop.at + hop.takes, Some(i), false));
        }
        events.push((restart.1, None, false));
        events.sort();
        let mut flying: BTreeMap<usize, (Said, u64)> = BTreeMap::new();
        for (at, hop, leaves) in events {
            for (agent, drills) in agents.iter_mut().enumerate() {
                drills.expire(local(agent, at));
                let runs = drills.running(&ledger()).is_some();
                let late = bound[agent].is_some_and(|bound| at > bound);
                prop_assert!(!(runs && late), "agent {agent} drills at {at}, bound {:?}", bound[agent]);
            }
            match hop.map(|i| (i, &hops[i])) {
                None => agents[restart.0] = Drills::default(),
                Some((i, hop)) if leaves => {
                    let now = local(hop.from, at);
                    if let Some(word) = agents[hop.from].words(now).pop() {
                        flying.insert(i, (word, bound[hop.from].unwrap_or(0)));
                    }
                }
                Some((i, hop)) => {
                    let Some((word, sender)) = flying.remove(&i) else { continue };
                    let known = agents[hop.to].get(DrillId(1)).is_some();
                    agents[hop.to].begin(local(hop.to, at), plan(1, 0, length), word).unwrap();
                    if !known {
                        bound[hop.to] = Some(sender + hop.takes);
                    }
                }
            }
        }
        let end = 30 * S + 8 * S + 15 * S + AGENTS as u64 * 8 * S + 30 * S;
        for (agent, drills) in agents.iter_mut().enumerate() {
            drills.expire(local(agent, end));
            prop_assert!(drills.running(&ledger()).is_none());
        }
    }

    /// The same words in any order leave the same drill running.
    #[test]
    fn the_order_of_words_does_not_matter(
        words in proptest::collection::vec((0..4u64, any::<bool>()), 1..12)
            .prop_flat_map(|words| (Just(words.clone()), Just(words).prop_shuffle())),
    ) {
        let run = |words: &[(u64, bool)]| {
            let mut drills = Drills::default();
            for (id, begins) in words {
                if *begins {
                    begin(&mut drills, 0, plan(*id, id * 7 % 3, 10), 10 * S).unwrap();
                } else {
                    drills.end(Time(0), DrillId(*id), "enough".into(), said(Duration::ZERO));
                }
            }
            drills.running(&ledger()).map(|h| h.plan.id)
        };
        let (given, shuffled) = words;
        // An end of the one that goes on frees the place only for drills that are still to come; so an order
        // matters between different drills. Held against each other is what every order must agree on:
        // nothing runs that was ended, and one at most.
        for order in [&given, &shuffled] {
            if let Some(id) = run(order) {
                prop_assert!(!given.contains(&(id.0, false)), "{id} runs though it was ended");
                prop_assert!(given.contains(&(id.0, true)));
            }
        }
        if given.iter().all(|(_, begins)| *begins) {
            prop_assert_eq!(run(&given), run(&shuffled));
        }
    }
}
