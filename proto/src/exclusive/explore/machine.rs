//! What one owner does, worked out once for each state it can be in and each thing that can happen to it: the
//! [`Core`] itself is run, and what came of it is kept under numbers. States of three owners are made of few
//! states of one, so that going from one of them to the next is looking up.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use super::{Broken, NOW, PROMISE, units};
use crate::exclusive::Timing;
use crate::exclusive::claim::{Poll, Stand};
use crate::exclusive::core::{Core, Memory, Out};
use crate::exclusive::electorate::Electorate;
use crate::exclusive::message::{Body, Refusal, Round, Vote};
use crate::exclusive::promise::{Book, Promise};
use crate::ids::{Generation, NodeName};
use crate::time::{Span, Time};

/// A value, by its number in a [`Pool`].
pub(super) type Id = u32;

/// Values that come again and again, each kept once. Told apart by a hash of 64 bits: of a million values, two are
/// taken for one once in 37 million runs.
struct Pool<T> {
    ids: BTreeMap<u64, Id>,
    items: Vec<T>,
}

impl<T: Hash> Pool<T> {
    fn new() -> Self {
        Self { ids: BTreeMap::new(), items: Vec::new() }
    }

    fn id(&mut self, item: T) -> Id {
        let mut hasher = Xxh3::new();
        item.hash(&mut hasher);
        *self.ids.entry(hasher.digest()).or_insert_with(|| {
            self.items.push(item);
            Id::try_from(self.items.len() - 1).expect("few values")
        })
    }

    fn get(&self, id: Id) -> &T {
        &self.items[id as usize]
    }
}

/// What can happen to one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    Hear(Id),
    /// What it wrote is on disk.
    Saved(Id),
    Ask,
    Claim {
        floor: u64,
    },
    Renew,
    Release,
    /// The second electorate is in force.
    Follow,
    /// A tick of its clock.
    Pass(u64),
    Restart(Option<Id>),
}

/// What comes of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Step {
    pub(super) core: Id,
    pub(super) sends: Vec<Id>,
    pub(super) write: Option<Id>,
    pub(super) won: Vec<u64>,
}

/// What others need to know of an owner's state.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub(super) holds: bool,
    pub(super) blank: bool,
    /// The attempt whose answers it hears, and the question.
    pub(super) open: Option<Round>,
    asked: Option<Round>,
    /// Of its electorate.
    pub(super) number: u64,
}

/// A message on its way.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Letter {
    from: u8,
    to: u8,
    body: Body,
}

pub(super) struct Machine {
    broken: Broken,
    names: Vec<NodeName>,
    timing: Timing,
    electorates: [Electorate; 2],
    cores: Pool<Core>,
    views: Vec<View>,
    books: Pool<Book>,
    writes: Pool<(u64, Id)>,
    letters: Pool<Letter>,
    /// By the state before.
    steps: Vec<BTreeMap<Event, Step>>,
}

impl Machine {
    pub(super) fn new(broken: Broken) -> Self {
        let names: Vec<NodeName> =
            ["a", "b", "c"].iter().map(|n| NodeName::parse(n).unwrap()).collect();
        let promise = units(PROMISE);
        let hold = if broken == Broken::IgnoresDrift { promise } else { promise * 9 / 11 };
        let longest = if broken == Broken::VotesBlank { Duration::ZERO } else { promise };
        let first = Electorate::new(1, names.clone(), []);
        let former = (broken != Broken::ForgetsFormer).then(|| names.clone());
        let second = Electorate::new(2, [names[2].clone()], former);
        Self {
            broken,
            names,
            timing: Timing { promise, hold, longest },
            electorates: [first, second],
            cores: Pool::new(),
            views: Vec::new(),
            books: Pool::new(),
            writes: Pool::new(),
            letters: Pool::new(),
            steps: Vec::new(),
        }
    }

    /// The owner `node` at its first start, and the book it has.
    pub(super) fn first(&mut self, node: usize) -> (Id, Id) {
        let book = Book::fresh(&self.electorates[0], &self.timing);
        let core = self.core(node, 1, 1, Some(book.clone()));
        (self.settle(core), self.books.id(book))
    }

    pub(super) fn view(&self, core: Id) -> &View {
        &self.views[core as usize]
    }

    pub(super) fn receiver(&self, letter: Id) -> usize {
        usize::from(self.letters.get(letter).to)
    }

    /// Whether who is so hears it: an answer to a question that is closed is not heard.
    pub(super) fn hears(&self, view: &View, letter: Id) -> bool {
        match &self.letters.get(letter).body {
            Body::Grant(g) => view.open == Some(g.round),
            Body::Refuse(r) => view.open == Some(r.round),
            Body::Tell(t) => view.asked == Some(t.round),
            _ => true,
        }
    }

    /// The book that was written.
    pub(super) fn written(&self, write: Id) -> Id {
        self.writes.get(write).1
    }

    /// What comes of `event` for the owner `node` in the state `core`, which names it.
    pub(super) fn step(&mut self, node: usize, core: Id, event: Event) -> &Step {
        if !self.steps[core as usize].contains_key(&event) {
            let step = self.work_out(node, core, event);
            self.steps[core as usize].insert(event, step);
        }
        &self.steps[core as usize][&event]
    }

    fn work_out(&mut self, node: usize, core: Id, event: Event) -> Step {
        let mut core = self.cores.get(core).clone();
        match event {
            Event::Hear(letter) => {
                let Letter { from, body, .. } = self.letters.get(letter).clone();
                core.handle(NOW, &self.names[usize::from(from)], body);
            }
            Event::Saved(write) => core.saved(NOW, self.writes.get(write).0),
            Event::Ask => core.ask(NOW),
            Event::Claim { floor } => core.claim(NOW, floor),
            Event::Renew => core.renew(NOW),
            Event::Release => core.release(NOW, None),
            Event::Follow => core.set_electorate(NOW, self.electorates[1].clone(), self.timing),
            Event::Pass(units) => normalise(&mut core, units),
            Event::Restart(book) => {
                let book = book.map(|id| self.books.get(id).clone()).map(|mut book| {
                    if self.broken == Broken::ForgetsPromise {
                        book.holder = None;
                    }
                    book
                });
                let generation = core.claimant.generation.0 + 1;
                core = self.core(node, generation, core.electorate.number(), book);
            }
        }
        let mut step = Step::default();
        self.drain(node, &mut core, &mut step);
        step.core = self.settle(core);
        step
    }

    fn core(&self, node: usize, generation: u64, number: u64, book: Option<Book>) -> Core {
        let electorate =
            self.electorates.iter().find(|e| e.number() == number).expect("one of two");
        let (me, generation) = (self.names[node].clone(), Generation(generation));
        Core::new(me, generation, electorate.clone(), self.timing, (book, None), NOW)
    }

    fn drain(&mut self, node: usize, core: &mut Core, step: &mut Step) {
        let number = |n: usize| u8::try_from(n).expect("three owners");
        while let Some(out) = core.poll() {
            match out {
                Out::Send { to, body } => {
                    let to = self.names.iter().position(|n| *n == to).unwrap();
                    if let Some(body) = relevant(body) {
                        let letter = Letter { from: number(node), to: number(to), body };
                        step.sends.push(self.letters.id(letter));
                    }
                }
                Out::Save { serial, .. } if self.broken == Broken::AnswersEarly => {
                    // On its way to the disk, which it never reaches.
                    core.saved(NOW, serial);
                }
                Out::Save { serial, book } => {
                    let book = self.books.id(book);
                    step.write = Some(self.writes.id((serial, book)));
                }
                Out::Won { term } => step.won.push(term),
                Out::Lost { .. } => {}
            }
        }
    }

    /// The number of a state, without what no core can tell apart.
    fn settle(&mut self, mut core: Core) -> Id {
        normalise(&mut core, 0);
        let id = self.cores.id(core);
        if self.views.len() < self.cores.items.len() {
            self.views.push(view(self.cores.get(id)));
            self.steps.push(BTreeMap::new());
        }
        id
    }
}

fn view(core: &Core) -> View {
    let (blank, asked) = match &core.memory {
        Memory::Whole(_) => (false, None),
        Memory::Blank(blank) => (true, blank.asked.map(|(round, _)| round)),
    };
    View {
        holds: core.holding(NOW).is_some(),
        blank,
        open: core.claimant.poll().map(|p| p.round),
        asked,
        number: core.electorate.number(),
    }
}

/// Without what nobody decides by; `None` where nothing remains.
fn relevant(body: Body) -> Option<Body> {
    match body {
        // Only `explain` looks at them.
        Body::Refuse(ref r) if !matches!(r.why, Refusal::Term { .. }) => None,
        Body::Tell(mut tell) => {
            if let Vote::Promised { left, .. } = &mut tell.vote {
                *left = Span(Duration::ZERO);
            }
            Some(Body::Tell(tell))
        }
        body => Some(body),
    }
}

/// Lets `passed` pass for a core, with its clock at [`NOW`] before and after, and makes equal what no core
/// can tell apart.
fn normalise(core: &mut Core, passed: u64) {
    let ahead = |t: Time| Time(t.0.saturating_sub(passed).max(NOW.0));
    let hold = core.timing.hold;
    let sent = |poll: &mut Poll| poll.sent = (poll.sent - units(passed)).max(NOW - hold);
    match &mut core.claimant.stand {
        Stand::Idle => {}
        Stand::Asking { .. } => core.claimant.stand = Stand::Idle,
        Stand::Claiming(poll) => sent(poll),
        Stand::Holding { since, until, renewal, .. } => {
            (*since, *until) = (NOW, ahead(*until));
            renewal.iter_mut().for_each(sent);
        }
    }
    core.expire(NOW);
    core.out.clear();
    if !matches!(core.claimant.stand, Stand::Holding { .. }) {
        core.claimant.failed = None;
    } else if let Some(poll) = &mut core.claimant.failed {
        sent(poll);
    }
    match &mut core.memory {
        Memory::Whole(voter) => {
            if let Promise::Until(until) = &mut voter.promise {
                *until = ahead(*until);
            }
        }
        Memory::Blank(blank) => {
            let late = blank.asked.is_some_and(|(_, at)| at >= blank.since + core.timing.longest);
            blank.since = (blank.since - units(passed)).max(NOW - core.timing.longest);
            if let Some((_, at)) = &mut blank.asked {
                *at = if late { NOW } else { Time(0) };
            }
            if let Some((_, since)) = &mut blank.all_blank {
                *since = *since - units(passed);
            }
        }
    }
}
