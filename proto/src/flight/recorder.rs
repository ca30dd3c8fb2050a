//! A core whose every step is written down.

#![expect(clippy::needless_pass_by_value, reason = "each call has the form of the core\'s own")]

use std::collections::{BTreeSet, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use crate::advert::{Keyring, SignedAdvert, Untrusted};
use crate::document::SignedDocument;
use crate::drill::{DrillId, DrillRefused};
use crate::evidence::Outcome;
use crate::exclusive::Book;
use crate::ids::{EndpointId, Identity, NodeName, ServiceName};
use crate::node::{
    DrillAsk, EndpointConfig, Event, HookFailed, LinkInput, Node, RelayInput, RelayWish, Transmit,
};
use crate::outlier::Sample;
use crate::route::Snapshot;
use crate::time::Time;
use crate::view::FailbackView;
use crate::wire::{self, Message};

use super::decision;
use super::input::{Entry, Input, Step};

/// Entries that wait to be polled. A shell polls after every few steps; beyond this it is gone, and what is
/// not kept is told as a gap.
const MAX_TAPE: usize = 4096;

/// A [`Node`] and the tape of what happens to it. Reading is the node's own (`Deref`); what changes it goes
/// through here. Calling order as for the node, and [`Recorder::poll_entry`] among the outputs.
pub struct Recorder {
    node: Node,
    tape: Option<Tape>,
}

struct Tape {
    entries: VecDeque<Entry>,
    verdicts: Verdicts,
    /// The routes before the step.
    before: Arc<Snapshot>,
    /// The next step is to begin with a checkpoint.
    due: bool,
    dropped: u64,
}

type Verdicts = Arc<Mutex<Vec<Result<(), Untrusted>>>>;

impl Recorder {
    /// Records `node` from here on; its first entry is a checkpoint.
    pub fn new(mut node: Node) -> Self {
        let verdicts = Verdicts::default();
        node.listen(|inner| Box::new(Witness { inner, verdicts: verdicts.clone() }));
        let before = node.snapshot();
        let tape = Tape { entries: VecDeque::new(), verdicts, before, due: true, dropped: 0 };
        Self { node, tape: Some(tape) }
    }

    /// Records nothing.
    pub fn off(node: Node) -> Self {
        Self { node, tape: None }
    }

    /// The next entry of the tape.
    pub fn poll_entry(&mut self) -> Option<Entry> {
        self.tape.as_mut()?.entries.pop_front()
    }

    /// The next step begins with a checkpoint: whoever keeps the tape begins a new recording there.
    pub fn ask_checkpoint(&mut self) {
        if let Some(tape) = &mut self.tape {
            tape.due = true;
        }
    }

    /// So many polled entries were not kept. The gap is told, and a checkpoint bridges it.
    pub fn lost(&mut self, dropped: u64) {
        if let Some(tape) = &mut self.tape {
            tape.dropped += dropped;
            tape.due = true;
        }
    }

    fn step<R>(
        &mut self,
        now: Time,
        input: impl FnOnce() -> Input,
        act: impl FnOnce(&mut Node) -> R,
    ) -> R {
        let Some(tape) = &mut self.tape else { return act(&mut self.node) };
        if tape.entries.len() >= MAX_TAPE {
            tape.dropped += tape.entries.len() as u64;
            tape.entries.clear();
            tape.due = true;
        }
        if std::mem::take(&mut tape.due) {
            let dropped = std::mem::take(&mut tape.dropped);
            if dropped > 0 {
                tape.entries.push_back(Entry::Gap { dropped });
            }
            tape.entries.push_back(Entry::Checkpoint(Box::new(self.node.checkpoint(now))));
        }
        let input = input();
        let mark = self.node.mark();
        let result = act(&mut self.node);
        let decided = decision::lines(&self.node, mark, &tape.before);
        tape.before = self.node.snapshot();
        let verdicts =
            std::mem::take(&mut *tape.verdicts.lock().unwrap_or_else(PoisonError::into_inner));
        let hearsay = self.node.take_hearsay();
        tape.entries.push_back(Entry::Step(Step { now, input, verdicts, hearsay, decided }));
        result
    }

    // ---- the node's own surface -------------------------------------------------------------------

    /// [`Node::handle_datagram`]
    pub fn handle_datagram(&mut self, now: Time, from: &NodeName, datagram: &[u8]) {
        // What is skipped changes nothing.
        if wire::decode_swim(datagram).is_some() {
            let input = || Input::Heard(from.clone());
            self.step(now, input, |node| node.handle_datagram(now, from, datagram));
        }
    }

    /// [`Node::handle_message`]
    pub fn handle_message(
        &mut self,
        now: Time,
        from: &Identity,
        message: Message,
    ) -> Option<Message> {
        let recorded = self.tape.is_some().then(|| Input::message(from, &message));
        let input = || recorded.unwrap_or(Input::Timeout);
        self.step(now, input, |node| node.handle_message(now, from, message))
    }

    /// [`Node::handle_link`]
    pub fn handle_link(&mut self, now: Time, peer: &NodeName, link: LinkInput) {
        let input = || Input::Link { peer: peer.clone(), input: link.clone() };
        self.step(now, input, |node| node.handle_link(now, peer, link.clone()));
    }

    /// [`Node::handle_relay`]
    pub fn handle_relay(&mut self, now: Time, wish: &RelayWish, relay: &RelayInput) {
        let input = || Input::Relay { wish: wish.clone(), input: relay.clone() };
        self.step(now, input, |node| node.handle_relay(now, wish, relay));
    }

    /// [`Node::handle_outcome`]
    pub fn handle_outcome(&mut self, now: Time, endpoint: &EndpointId, outcome: Outcome) {
        let input = || Input::Outcome { endpoint: endpoint.clone(), outcome };
        self.step(now, input, |node| node.handle_outcome(now, endpoint, outcome));
    }

    /// [`Node::handle_samples`]
    pub fn handle_samples(&mut self, now: Time, samples: &[(EndpointId, Sample)]) {
        let input = || Input::Samples(samples.to_vec());
        self.step(now, input, |node| node.handle_samples(now, samples));
    }

    /// [`Node::handle_need`]
    pub fn handle_need(&mut self, now: Time, service: &ServiceName) {
        let input = || Input::Need(service.clone());
        self.step(now, input, |node| node.handle_need(now, service));
    }

    /// [`Node::handle_health`]
    pub fn handle_health(&mut self, now: Time, endpoint: &EndpointId, healthy: bool) {
        let input = || Input::Health { endpoint: endpoint.clone(), healthy };
        self.step(now, input, |node| node.handle_health(now, endpoint, healthy));
    }

    /// [`Node::handle_hook`]
    pub fn handle_hook(
        &mut self,
        now: Time,
        endpoint: &EndpointId,
        order: u64,
        result: Result<(), HookFailed>,
    ) {
        let input = || Input::Hook { endpoint: endpoint.clone(), order, result: result.clone() };
        self.step(now, input, |node| node.handle_hook(now, endpoint, order, result.clone()));
    }

    /// [`Node::handle_warmed`]
    pub fn handle_warmed(&mut self, now: Time, endpoint: &EndpointId, order: u64) {
        let input = || Input::Warmed { endpoint: endpoint.clone(), order };
        self.step(now, input, |node| node.handle_warmed(now, endpoint, order));
    }

    /// [`Node::failback`]
    pub fn failback(&mut self, now: Time, service: &ServiceName) -> FailbackView {
        let input = || Input::Failback(service.clone());
        self.step(now, input, |node| node.failback(now, service))
    }

    /// [`Node::handle_timeout`]
    pub fn handle_timeout(&mut self, now: Time) {
        self.step(now, || Input::Timeout, |node| node.handle_timeout(now));
    }

    /// [`Node::drain`]
    pub fn drain(&mut self, now: Time, on: bool) {
        self.step(now, || Input::Drain(on), |node| node.drain(now, on));
    }

    /// [`Node::leave`]
    pub fn leave(&mut self, now: Time) {
        self.step(now, || Input::Leave, |node| node.leave(now));
    }

    /// [`Node::restore`]
    pub fn restore(
        &mut self,
        now: Time,
        records: Vec<SignedAdvert>,
        documents: Vec<SignedDocument>,
    ) {
        let input = || Input::Restore { records: records.clone(), documents: documents.clone() };
        self.step(now, input, |node| node.restore(now, records.clone(), documents.clone()));
    }

    /// [`Node::restore_promises`]
    pub fn restore_promises(&mut self, now: Time, books: Vec<(ServiceName, Book)>) {
        let input = || Input::RestorePromises(books.clone());
        self.step(now, input, |node| node.restore_promises(now, books.clone()));
    }

    /// [`Node::handle_promises_saved`]
    pub fn handle_promises_saved(&mut self, now: Time, serial: u64) {
        let input = || Input::PromisesSaved(serial);
        self.step(now, input, |node| node.handle_promises_saved(now, serial));
    }

    /// [`Node::apply`]
    pub fn apply(
        &mut self,
        now: Time,
        endpoints: Vec<EndpointConfig>,
        interest: BTreeSet<ServiceName>,
    ) {
        let input = || Input::Apply { endpoints: endpoints.clone(), interest: interest.clone() };
        self.step(now, input, |node| node.apply(now, endpoints.clone(), interest.clone()));
    }

    /// [`Node::resign`]
    pub fn resign(&mut self, now: Time) {
        self.step(now, || Input::Resign, |node| node.resign(now));
    }

    /// [`Node::start_drill`]
    pub fn start_drill(&mut self, now: Time, ask: DrillAsk) -> Result<DrillId, DrillRefused> {
        let input = || Input::StartDrill(ask.clone());
        self.step(now, input, |node| node.start_drill(now, ask.clone()))
    }

    /// [`Node::stop_drill`]
    pub fn stop_drill(&mut self, now: Time, id: DrillId, why: &str) -> bool {
        let input = || Input::StopDrill { id, why: why.to_owned() };
        self.step(now, input, |node| node.stop_drill(now, id, why))
    }

    /// [`Node::handle_toll`]
    pub fn handle_toll(&mut self, now: Time, tolls: &[(ServiceName, u64, u64)]) {
        self.step(now, || Input::Toll(tolls.to_vec()), |node| node.handle_toll(now, tolls));
    }

    /// [`Node::poll_transmit`]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.node.poll_transmit()
    }

    /// [`Node::poll_event`]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.node.poll_event()
    }
}

impl Deref for Recorder {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.node
    }
}

/// A keyring whose verdicts are written down.
struct Witness {
    inner: Box<dyn Keyring>,
    verdicts: Verdicts,
}

impl Keyring for Witness {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.inner.sign(message)
    }

    fn certificate(&self) -> Arc<[u8]> {
        self.inner.certificate()
    }

    fn verify(
        &self,
        signer: &Identity,
        certificate: &[u8],
        message: &[u8],
        signature: &[u8],
        lasting: bool,
    ) -> Result<(), Untrusted> {
        let verdict = self.inner.verify(signer, certificate, message, signature, lasting);
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).push(verdict.clone());
        verdict
    }
}
