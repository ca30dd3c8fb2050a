//! A node's part in exclusive services: its seats among their owners, and what follows for its endpoints.
//!
//! Decides which endpoint of ours would serve, and in which order the owners claim. Who holds the lease is
//! [`crate::exclusive`]'s business. An endpoint of an exclusive service is `serving` only while this node
//! holds the lease *for it*: a hot one that is well stands by meanwhile, a warm one is activated when the
//! lease is won, so that its application runs nowhere twice.

use std::collections::BTreeMap;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::advert::extension::{self, LeaseAdvert};
use crate::advert::{Condition, Role};
use crate::exclusive::{Book, Candidacy, Electorate, Out, Seat, Status, Timing, core::Core};
use crate::failover::rendezvous;
use crate::ids::{EndpointId, NodeName, ServiceName};
use crate::lifecycle::{DRAIN, Event as Life};
use crate::policy::{Failback, Mode, Policy};
use crate::route::{Candidate, HeldLease};
use crate::time::Time;
use crate::view::LeaseView;
use crate::wire::{Lease, Message};

use super::{Event, Node};

/// Our seats, and what must survive a restart of them.
#[derive(Default, Clone, Debug, Serialize, Deserialize)]
pub(super) struct Seats {
    by_service: BTreeMap<ServiceName, Seat>,
    /// Promises of all services ever voted in, those without a seat now included.
    books: BTreeMap<ServiceName, Book>,
    /// Counts the changes of `books`; which of them each seat waits for.
    serial: u64,
    waiting: Vec<(u64, ServiceName, u64)>,
    /// The leases we hold, with the endpoint each is for.
    held: BTreeMap<ServiceName, HeldLease>,
    /// Since when somebody of the declared role could take a lease back from us.
    preferred: BTreeMap<ServiceName, (NodeName, Time)>,
    /// The leases that go back, and when: their endpoints finish what they have until then.
    parting: BTreeMap<ServiceName, Time>,
    pub(super) stale: bool,
}

impl Seats {
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.by_service.values().map(Seat::poll_timeout).min()
    }

    /// The leases we hold.
    pub(super) fn held(&self) -> &BTreeMap<ServiceName, HeldLease> {
        &self.held
    }

    /// Whether only a lease lets anybody serve. A node that has lost its policy and not its promises (`version` is
    /// 0 then) takes the mode to be in force: others have not lost it.
    fn is_exclusive(&self, (version, policy): (u64, &Policy), service: &ServiceName) -> bool {
        let mode = policy.services.get(service).map(|p| p.mode);
        mode == Some(Mode::Exclusive) || version == 0 && self.books.contains_key(service)
    }

    /// What an endpoint of ours is in that would be in `condition` in any other mode.
    pub(super) fn gated(
        &self,
        policy: (u64, &Policy),
        id: &EndpointId,
        condition: Condition,
    ) -> Condition {
        let held = self.held.get(&id.service).is_some_and(|h| h.endpoint == *id);
        match condition {
            Condition::Serving if held && self.parting.contains_key(&id.service) => {
                Condition::Draining
            }
            Condition::Serving if !held && self.is_exclusive(policy, &id.service) => {
                Condition::Standby
            }
            condition => condition,
        }
    }
}

impl Node {
    /// Takes in the promises that were on disk, before anything else. Without them this node votes in no
    /// exclusive service until the longest lease it may have granted is over.
    pub fn restore_promises(&mut self, now: Time, books: Vec<(ServiceName, Book)>) {
        self.seats.books = books.into_iter().collect();
        self.seats.stale = true;
        self.stale_advert = true;
        self.settle(now);
    }

    /// The promises up to this number, of [`Event::SavePromises`], are durably on disk.
    pub fn handle_promises_saved(&mut self, now: Time, serial: u64) {
        let (done, rest) =
            std::mem::take(&mut self.seats.waiting).into_iter().partition(|(s, _, _)| *s <= serial);
        self.seats.waiting = rest;
        let done: Vec<(u64, ServiceName, u64)> = done;
        for (_, service, of_seat) in done {
            if let Some(seat) = self.seats.by_service.get_mut(&service) {
                seat.saved(now, of_seat);
            }
        }
        self.settle(now);
    }

    /// The lease of `service`, if this node holds it.
    pub fn lease(&self, service: &ServiceName) -> Option<&HeldLease> {
        self.seats.held.get(service)
    }

    /// Where our seat among the owners of `service` stands.
    pub fn seat_status(&self, service: &ServiceName, now: Time) -> Option<Status> {
        self.seats.by_service.get(service).map(|seat| seat.status(now))
    }

    /// All our seats, for people.
    pub fn leases_view(&self, now: Time) -> Vec<LeaseView> {
        let seats = self.seats.by_service.iter().map(|(service, seat)| {
            let status = seat.status(now);
            LeaseView {
                service: service.clone(),
                seat: status.word().to_owned(),
                term: self.lease(service).map(|held| held.term),
                sentence: status.to_string(),
            }
        });
        seats.collect()
    }

    pub(super) fn take_lease(&mut self, now: Time, from: &NodeName, lease: Lease) {
        if let Some(seat) = self.seats.by_service.get_mut(&lease.service) {
            seat.handle(now, from, lease.body);
        }
    }

    pub(super) fn tick_seats(&mut self, now: Time) {
        for seat in self.seats.by_service.values_mut().filter(|s| s.poll_timeout() <= now) {
            seat.handle_timeout(now);
        }
    }

    /// Brings the seats in line with the policy.
    pub(super) fn set_seats(&mut self, now: Time) {
        if !std::mem::take(&mut self.seats.stale) {
            return;
        }
        let me = self.config.name.clone();
        let wanted: BTreeMap<ServiceName, (Electorate, Timing)> = self
            .policy
            .services
            .iter()
            .filter(|(_, p)| p.mode == Mode::Exclusive)
            .filter_map(|(name, p)| Some((name, p.exclusive.as_ref()?)))
            .map(|(name, e)| (name.clone(), (Electorate::of(e), Timing::of(e.lease.0))))
            .filter(|(_, (electorate, _))| electorate.voters().contains(&me))
            .collect();
        let gone: Vec<ServiceName> =
            self.seats.by_service.keys().filter(|s| !wanted.contains_key(*s)).cloned().collect();
        for service in gone {
            if let Some(seat) = self.seats.by_service.get_mut(&service) {
                seat.hand_over(now, None);
            }
            self.drain_seat(now, &service);
            self.seats.by_service.remove(&service);
        }
        for (service, (electorate, timing)) in wanted {
            self.stale_services.insert(service.clone());
            if let Some(seat) = self.seats.by_service.get_mut(&service) {
                seat.set_electorate(now, electorate, timing);
                continue;
            }
            let book = self.seats.books.get(&service).cloned();
            let memory = (book, Some(self.config.clock));
            let generation = self.config.generation;
            let core = Core::new(me.clone(), generation, electorate, timing, memory, now);
            let seed = self.rng.random();
            self.seats.by_service.insert(service, Seat::new(core, seed, now));
        }
    }

    /// Does what the seats want.
    pub(super) fn drain_seats(&mut self, now: Time) {
        for service in self.seats.by_service.keys().cloned().collect::<Vec<_>>() {
            self.drain_seat(now, &service);
        }
    }

    fn drain_seat(&mut self, now: Time, service: &ServiceName) {
        while let Some(out) = self.seats.by_service.get_mut(service).and_then(Seat::poll) {
            match out {
                Out::Send { to, body } => {
                    let message = Message::Lease(Lease { service: service.clone(), body });
                    self.send(&to, message);
                }
                Out::Save { serial, book } => {
                    self.seats.serial += 1;
                    self.seats.books.insert(service.clone(), book);
                    // A later write makes an earlier one superfluous.
                    self.seats.waiting.retain(|(_, of, _)| of != service);
                    self.seats.waiting.push((self.seats.serial, service.clone(), serial));
                    let books = self.seats.books.clone().into_iter().collect();
                    self.events.push_back(Event::SavePromises { serial: self.seats.serial, books });
                }
                Out::Won { term } => self.won(now, service, term),
                Out::Lost { term, why } => self.lost(now, service, term, why.word()),
            }
        }
        let until = self.seats.by_service.get(service).and_then(|s| s.holding(now)).map(|(_, t)| t);
        if let (Some(held), Some(until)) = (self.seats.held.get_mut(service), until)
            && held.until != until
        {
            held.until = until;
            self.stale_services.insert(service.clone());
        }
    }

    fn won(&mut self, now: Time, service: &ServiceName, term: u64) {
        self.stale_services.insert(service.clone());
        let until = self.seats.by_service.get(service).and_then(|s| s.holding(now)).map(|(_, t)| t);
        let (Some(until), Some(endpoint)) = (until, self.contender(service, now)) else {
            return;
        };
        self.events.push_back(Event::Lease {
            service: service.clone(),
            term,
            held: Ok(endpoint.clone()),
        });
        self.seats
            .held
            .insert(service.clone(), HeldLease { endpoint: endpoint.clone(), term, until });
        self.stale_advert = true;
        match self.own.get(&endpoint).map(|own| own.config.role) {
            Some(Role::Warm { .. }) => self.drive(now, &endpoint, &Life::Called(None)),
            _ => self.tell_condition(&endpoint, Condition::Standby, Condition::Serving),
        }
    }

    fn lost(&mut self, now: Time, service: &ServiceName, term: u64, why: &'static str) {
        self.events.push_back(Event::Lease { service: service.clone(), term, held: Err(why) });
        self.stale_advert = true;
        self.stale_services.insert(service.clone());
        if let Some(HeldLease { endpoint, .. }) = self.seats.held.get(service).cloned() {
            match self.own.get(&endpoint).map(|own| own.config.role) {
                // Down at once: whoever follows may have the lease already.
                Some(Role::Warm { .. }) => self.drive(now, &endpoint, &Life::Fenced),
                _ => self.tell_condition(&endpoint, Condition::Serving, Condition::Standby),
            }
        }
        self.seats.held.remove(service);
        self.seats.preferred.remove(service);
        self.seats.parting.remove(service);
    }

    /// Tells what an endpoint that is well does by the lease alone: a hot one begins or ceases to serve with
    /// it, any finishes what it has before it goes back.
    fn tell_condition(&mut self, endpoint: &EndpointId, from: Condition, to: Condition) {
        let well = self.own.get(endpoint).is_some_and(|o| o.life.condition() == Condition::Serving);
        if well {
            self.events.push_back(Event::Condition {
                endpoint: endpoint.clone(),
                from: from.word(),
                to: to.word(),
                activation: None,
            });
        }
    }

    /// What an endpoint of ours is in: in mode exclusive it serves only under the lease.
    pub(super) fn gated(&self, id: &EndpointId, condition: Condition) -> Condition {
        self.seats.gated((self.policy_version, &self.policy), id, condition)
    }

    /// What our advert says of the leases we hold.
    pub(super) fn add_leases(&self, bytes: &mut Vec<u8>) {
        let held = self.seats.held.iter().map(|(service, h)| LeaseAdvert {
            service: service.clone(),
            instance: h.endpoint.instance,
            term: h.term,
        });
        extension::add_leases(bytes, &held.collect::<Vec<_>>());
    }

    /// The endpoint of ours that serves under the lease, or would: the first that can, in the agreed order.
    fn contender(&self, service: &ServiceName, now: Time) -> Option<EndpointId> {
        if let Some(held) = self.seats.held.get(service) {
            return self.is_able(&held.endpoint, true, now).then(|| held.endpoint.clone());
        }
        let ours = self.own.iter().filter(|(id, _)| id.service == *service);
        ours.filter(|(id, _)| self.is_able(id, false, now))
            .min_by_key(|(id, own)| order(own.config.role, id))
            .map(|(id, _)| id.clone())
    }

    fn is_able(&self, id: &EndpointId, held: bool, now: Time) -> bool {
        self.own.get(id).is_some_and(|own| match (own.config.role, own.life.condition()) {
            (_, Condition::Serving) => true,
            (Role::Warm { .. }, Condition::Standby | Condition::Activating) => !self.draining,
            // It finishes what it has, and gives the lease back then.
            (_, Condition::Draining) => held && now < own.life.since() + DRAIN,
            _ => false,
        })
    }

    /// Has our endpoints of an exclusive service follow its lease. Says whether the service is one.
    pub(super) fn follow_lease(&mut self, now: Time, service: &ServiceName) -> bool {
        if !self.seats.is_exclusive((self.policy_version, &self.policy), service) {
            return false;
        }
        self.align(now, service);
        let policy = self.policy.service(service);
        let contender = self.contender(service, now);
        let rank = contender.as_ref().map(|id| self.rank(service, id));
        let back = self.hand_back(now, service, policy.failback);
        let draining = self.seats.held.get(service).and_then(|h| self.own.get(&h.endpoint));
        let draining = draining.filter(|own| own.life.condition() == Condition::Draining);
        let release = draining.map(|own| own.life.since() + DRAIN).filter(|at| *at > now);
        if let Some(seat) = self.seats.by_service.get_mut(service) {
            seat.set_candidacy(now, rank.map_or(Candidacy::Out, Candidacy::In));
            if let Back::Now(next) = &back {
                seat.hand_over(now, Some(next.clone()));
            }
        }
        let again = match back {
            Back::At(at) => Some(at),
            _ => None,
        };
        if let (Some(at), Some(state)) =
            (again.into_iter().chain(release).min(), self.services.get_mut(service))
        {
            state.recheck = Some(state.recheck.map_or(at, |r| r.min(at)));
        }
        self.drain_seat(now, service);
        true
    }

    /// Brings our warm endpoints in line with the lease: whoever it is held for is called, whatever an earlier
    /// start, an earlier policy or a drain made of it, and the application of no other runs.
    fn align(&mut self, now: Time, service: &ServiceName) {
        let held = self.seats.held.get(service).map(|held| held.endpoint.clone());
        let ours = self.own.iter().filter(|(id, _)| id.service == *service);
        let warm = ours.filter(|(_, own)| own.config.role != Role::Hot);
        for id in warm.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            if held.as_ref() != Some(&id) {
                if self.own.get(&id).is_some_and(|own| own.life.may_run()) {
                    self.drive(now, &id, &Life::Fenced);
                }
            } else if self.stands_by(&id) {
                self.drive(now, &id, &Life::Called(None));
            }
        }
    }

    /// How many owners come before us in the agreed order, of those that could serve.
    fn rank(&self, service: &ServiceName, ours: &EndpointId) -> u32 {
        let role = self.own.get(ours).map_or(Role::Hot, |own| own.config.role);
        let mine = order(role, ours);
        let before: std::collections::BTreeSet<&NodeName> = self
            .others_able(service)
            .filter(|c| order(c.role, &c.id) < mine)
            .map(|c| &c.id.node)
            .collect();
        u32::try_from(before.len()).unwrap_or(u32::MAX)
    }

    /// Endpoints of other owners that could serve, as far as we see.
    fn others_able(&self, service: &ServiceName) -> impl Iterator<Item = &Candidate> {
        let owners = self.policy.services.get(service).and_then(|p| p.exclusive.as_ref());
        let candidates = self.services.get(service).map(|s| &s.route.candidates);
        candidates.into_iter().flatten().filter(move |c| {
            c.id.node != self.config.name
                && owners.is_some_and(|e| e.owners.contains(&c.id.node))
                && matches!(c.condition, Condition::Standby | Condition::Serving)
                && c.standing
                    .why()
                    .is_none_or(|why| matches!(why, crate::evidence::Why::Condition(_)))
        })
    }

    /// Whether the lease goes back to the declared roles: from a warm endpoint to a hot one that has been
    /// able to take it for the policy's hold. The warm one takes nothing new for a moment before.
    fn hand_back(&mut self, now: Time, service: &ServiceName, failback: Failback) -> Back {
        let heir = self.heir(now, service, failback);
        let Some((hot, _)) = heir.as_ref().filter(|(_, at)| *at <= now) else {
            if self.seats.parting.remove(service).is_some() {
                self.tell_parting(service, Condition::Draining, Condition::Serving);
            }
            return heir.map_or(Back::Never, |(_, at)| Back::At(at));
        };
        let until = match self.seats.parting.get(service) {
            Some(until) => *until,
            None => {
                self.seats.parting.insert(service.clone(), now + DRAIN);
                self.tell_parting(service, Condition::Serving, Condition::Draining);
                now + DRAIN
            }
        };
        if until > now { Back::At(until) } else { Back::Now(hot.clone()) }
    }

    fn tell_parting(&mut self, service: &ServiceName, from: Condition, to: Condition) {
        self.stale_advert = true;
        self.stale_services.insert(service.clone());
        if let Some(endpoint) = self.seats.held.get(service).map(|held| held.endpoint.clone()) {
            self.tell_condition(&endpoint, from, to);
        }
    }

    /// Whom of the declared role a lease of ours goes back to, and when its hold is over.
    fn heir(
        &mut self,
        now: Time,
        service: &ServiceName,
        failback: Failback,
    ) -> Option<(NodeName, Time)> {
        let Failback::After(hold) = failback else { return None };
        let held = self.seats.held.get(service).and_then(|h| self.own.get(&h.endpoint));
        let by_warm = held.is_some_and(|own| own.config.role != Role::Hot);
        let hot = self
            .others_able(service)
            .filter(|c| by_warm && c.role == Role::Hot)
            .min_by_key(|c| order(c.role, &c.id))
            .map(|c| c.id.node.clone());
        let Some(hot) = hot else {
            self.seats.preferred.remove(service);
            return None;
        };
        let known =
            self.seats.preferred.entry(service.clone()).or_insert_with(|| (hot.clone(), now));
        if known.0 != hot {
            *known = (hot.clone(), now);
        }
        Some((hot, known.1 + hold.0))
    }

    /// The term that an advert claims for an endpoint.
    pub(super) fn claimed_term(leases: &[LeaseAdvert], id: &EndpointId) -> Option<u64> {
        let of = |l: &&LeaseAdvert| l.service == id.service && l.instance == id.instance;
        leases.iter().find(of).map(|l| l.term)
    }
}

/// When a lease goes back.
enum Back {
    Never,
    At(Time),
    Now(NodeName),
}

/// The agreed order of the endpoints of an exclusive service: hot ones first, by rendezvous, then warm ones
/// by priority.
fn order(role: Role, id: &EndpointId) -> (u8, u16, u64, EndpointId) {
    match role {
        Role::Hot => (0, 0, !rendezvous(id), id.clone()),
        Role::Warm { priority } => (1, priority, !rendezvous(id), id.clone()),
    }
}
