//! Drills on a node: begun and ended on command, passed on, counted, and turned into losses for routes.
//!
//! Who may: whoever may use the admin socket of a member. Members believe each other's words on drills, as
//! they are signed, bounded in length, one per service, forbidden where the policy says so, and give back
//! by themselves what they took.

use std::time::Duration;

use rand::RngExt;

use crate::advert::{Condition, Role};
use crate::drill::{
    Change, DrillId, DrillRefused, Held, Lose, MAX_LENGTH, MIN_LENGTH, Plan, Said, Word,
};
use crate::evidence::{CONFIRM_SILENCE, Standing, Why};
use crate::ids::{Identity, NodeName, ServiceName};
use crate::policy;
use crate::record::Record;
use crate::time::{Span, Time};
use crate::view::{DrillPart, DrillView};
use crate::wire::Message;

use super::{Event, Node, gossip::PUSH_FANOUT};

/// While a drill runs its words go to some members so often: who joins or missed them learns of it.
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// … to so many.
const TELL_TO: usize = 2;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DrillAsk {
    /// Of which service.
    pub service: ServiceName,
    /// What is to be lost.
    pub lose: Lose,
    /// For how long.
    pub length: Span,
    /// The share of failed requests above which it ends, in ten-thousandths.
    pub abort_above: Option<u32>,
    /// Also where nobody would be left.
    pub force: bool,
}

impl Node {
    /// Begins a drill, here and everywhere.
    pub fn start_drill(&mut self, now: Time, ask: DrillAsk) -> Result<DrillId, DrillRefused> {
        self.begin(now);
        let DrillAsk { service, lose, length, abort_above, force } = ask;
        let id = DrillId(self.rng.random());
        if !(MIN_LENGTH..=MAX_LENGTH).contains(&length.0) {
            return Err(DrillRefused::Length(length));
        }
        let (by, started) = (self.config.name.clone(), self.config.clock.wall(now));
        let plan = Plan { id, service, lose, length, abort_above, force, by, started };
        self.may_drill(&plan)?;
        if let Some(held) = self.drills.running(&plan.service) {
            return Err(DrillRefused::Busy(plan.service, held.plan.id));
        }
        self.leaves_somebody(&plan)?;
        let word = Word::Begin(plan.clone());
        let mut said = Said::sign(&word, self.config.name.clone(), &*self.keyring)?;
        said.left = length;
        let change = self.drills.begin(now, plan, said.clone())?;
        self.drill_changed(change);
        self.tell_drills(PUSH_FANOUT, &[said]);
        self.settle(now);
        Ok(id)
    }

    /// Ends a drill before its time, everywhere. `false`: none of that name runs here.
    pub fn stop_drill(&mut self, now: Time, id: DrillId, why: &str) -> bool {
        self.begin(now);
        let runs = self.drills.get(id).is_some_and(|held| held.over.is_none());
        if runs {
            self.end_drill(now, id, why.to_owned());
            self.settle(now);
        }
        runs
    }

    /// Takes in what the requests of this agent's clients came to since the last call: how many, and how
    /// many failed. Ends a drill whose stated bound is broken.
    pub fn handle_toll(&mut self, now: Time, tolls: &[(ServiceName, u64, u64)]) {
        self.begin(now);
        for (service, requests, failed) in tolls {
            if let Some((id, why)) = self.drills.toll(service, *requests, *failed) {
                let why = format!("aborted by {}: {why}", self.config.name);
                self.end_drill(now, id, why);
            }
        }
        self.settle(now);
    }

    fn end_drill(&mut self, now: Time, id: DrillId, why: String) {
        let word = Word::End { id, why: why.clone() };
        // Cannot fail for a word of a few bytes; should it, the drill ends here, and elsewhere by itself.
        let empty: std::sync::Arc<[u8]> = std::sync::Arc::from([]);
        let unsigned = Said {
            author: self.config.name.clone(),
            body: empty.clone(),
            certificate: empty.clone(),
            signature: empty,
            left: Span(Duration::ZERO),
        };
        let said = Said::sign(&word, self.config.name.clone(), &*self.keyring).unwrap_or(unsigned);
        let change = self.drills.end(now, id, why, said.clone());
        self.drill_changed(change);
        self.tell_drills(PUSH_FANOUT, &[said]);
    }

    /// Words of a peer. What is news is passed on.
    pub(super) fn take_drills(&mut self, now: Time, from: &NodeName, words: Vec<Said>) {
        let mut fresh = Vec::new();
        for said in words.into_iter().take(crate::drill::MAX_HELD * 2) {
            match self.take_drill(now, &said) {
                Ok(true) => fresh.push(said),
                Ok(false) => {}
                Err(e) => {
                    let (reason, from) = (e.reason(), Identity::Node(from.clone()));
                    self.refuse("drill", reason, from, e.to_string());
                }
            }
        }
        if !fresh.is_empty() {
            self.tell_drills(PUSH_FANOUT, &fresh);
        }
    }

    fn take_drill(&mut self, now: Time, said: &Said) -> Result<bool, DrillRefused> {
        let word = said.peek()?;
        if !self.drills.is_news(&word) {
            if let Word::Begin(plan) = word {
                self.drills.shorten(now, plan.id, said.left.0);
            }
            return Ok(false);
        }
        said.verify(&*self.keyring)?;
        let change = match word {
            Word::Begin(plan) => {
                self.may_drill(&plan)?;
                self.drills.begin(now, plan, said.clone())?
            }
            Word::End { id, why } => self.drills.end(now, id, why, said.clone()),
        };
        self.drill_changed(change);
        Ok(true)
    }

    fn may_drill(&self, plan: &Plan) -> Result<(), DrillRefused> {
        match self.policy.service(&plan.service).drills {
            policy::Drills::On => Ok(()),
            policy::Drills::Off => Err(DrillRefused::Forbidden(plan.service.clone())),
        }
    }

    /// Refuses a plan that finds nothing to lose, or leaves nobody to serve, as seen from here.
    fn leaves_somebody(&self, plan: &Plan) -> Result<(), DrillRefused> {
        let (service, lose) = (plan.service.clone(), plan.lose.clone());
        let nothing = || DrillRefused::Nothing(service.clone(), lose.clone());
        let state = self.services.get(&plan.service).ok_or_else(nothing)?;
        let (taken, left): (Vec<_>, Vec<_>) = state
            .route
            .candidates
            .iter()
            .partition(|c| plan.lose.takes(&c.id.node, self.zone_of(&c.id.node)));
        if taken.is_empty() {
            return Err(nothing());
        }
        let serves = left.iter().any(|c| c.standing == Standing::Ready);
        let can_be_called = state.route.policy.mode == policy::Mode::HotWarm
            && left.iter().any(|c| {
                let fit = matches!(
                    c.standing,
                    Standing::Out(Why::Condition(Condition::Standby | Condition::Activating))
                );
                c.role != Role::Hot && fit
            });
        if plan.force || serves || can_be_called {
            return Ok(());
        }
        let left: Vec<String> = left.iter().map(|c| c.id.to_string()).collect();
        let left = if left.is_empty() { "nobody".to_owned() } else { left.join(", ") };
        Err(DrillRefused::LastCapacity(service, lose, left))
    }

    fn zone_of(&self, node: &NodeName) -> &str {
        self.table.get(node).map_or("", |entry| entry.advert.zone.as_str())
    }

    fn drill_changed(&mut self, change: Change) {
        if let Change::Of(service) = change {
            self.stale_services.insert(service);
        }
    }

    fn tell_drills(&mut self, to: usize, words: &[Said]) {
        let me = self.config.name.clone();
        for peer in self.some_alive(to, &me) {
            self.send(&peer, Message::Drill(words.to_vec()));
        }
    }

    pub(super) fn tick_drills(&mut self, now: Time) {
        let over = self.drills.expire(now);
        self.stale_services.extend(over);
        let running = self.drills.iter().filter(|h| h.over.is_none()).map(|h| &h.plan.service);
        let forbidden = |s: &&ServiceName| self.policy.service(s).drills == policy::Drills::Off;
        for service in running.filter(forbidden).cloned().collect::<Vec<_>>() {
            self.drills.forbid(now, &service);
            self.stale_services.insert(service);
        }
        if now < self.drills_at {
            return;
        }
        let words = self.drills.words(now);
        if !words.is_empty() {
            self.tell_drills(TELL_TO, &words);
        }
        self.drills_at = now + TELL_AGAIN;
    }

    /// When [`Self::tick_drills`] has something to do; `None` while there is no drill.
    pub(super) fn drills_due(&self) -> Option<Time> {
        let tell = self.drills.has_words(self.drills_at).then_some(self.drills_at);
        self.drills.due().into_iter().chain(tell).min()
    }

    /// The drill that takes the endpoints of `service` on `node` for lost.
    pub(super) fn drilled(&self, service: &ServiceName, node: &NodeName) -> Option<&Held> {
        let held = self.drills.running(service)?;
        held.plan.lose.takes(node, self.zone_of(node)).then_some(held)
    }

    // ---- reports ---------------------------------------------------------------------------------

    /// All drills known here, the newest first.
    pub fn drill_views(&self, now: Time) -> Vec<DrillView> {
        let mut views: Vec<DrillView> =
            self.drills.iter().map(|held| self.drill_view(held, now)).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.started));
        views
    }

    fn drill_view(&self, held: &Held, now: Time) -> DrillView {
        let plan = &held.plan;
        let wall = |t: Time| self.config.clock.wall(t);
        let of_it: Vec<&Record> =
            self.incidents.iter().filter(|r| r.drill == Some(plan.id)).collect();
        let first = |of: &dyn Fn(&Record) -> Option<Time>| {
            of_it.iter().filter_map(|r| of(r)).min().map(wall)
        };
        let last = |of: &dyn Fn(&Record) -> Option<Time>| {
            let all: Option<Vec<Time>> = of_it.iter().map(|r| of(r)).collect();
            all.and_then(|all| all.into_iter().max()).map(wall)
        };
        let called = of_it.iter().filter_map(|r| r.activated.as_ref()).map(ToString::to_string);
        DrillView {
            id: plan.id.to_string(),
            service: plan.service.clone(),
            lose: plan.lose.to_string(),
            by: plan.by.clone(),
            started: plan.started,
            length_s: plan.length.0.as_secs_f64(),
            left_s: held.over.as_ref().map_or(held.until.since(now).as_secs_f64(), |_| 0.0),
            abort_above_percent: plan.abort_above.map(|n| f64::from(n) / 100.0),
            running: held.over.is_none(),
            why_over: held.over.as_ref().map(|(_, why)| why.clone()),
            part: DrillPart {
                node: self.config.name.clone(),
                learnt: wall(held.learnt),
                lost: of_it.iter().map(|r| r.key.lost.to_string()).collect(),
                detected: first(&|r| Some(r.opened)),
                shifted: first(&|r| r.shifted),
                called: called.collect(),
                activated: of_it.iter().filter_map(|r| r.served).max().map(wall),
                stable: last(&|r| r.stable),
                over: held.over.as_ref().map(|(at, _)| wall(*at)),
                back: last(&|r| r.recovered),
                requests: held.requests,
                failed: held.failed,
                incidents: of_it.iter().map(|r| r.key.to_string()).collect(),
            },
        }
    }

    /// What a drill makes of a standing: doubtful at once, out when a silence would be confirmed. What is
    /// out for a reason of its own stays so.
    pub(super) fn drill_standing(&self, held: &Held, standing: Standing, now: Time) -> Standing {
        let why = Why::Drill { id: held.plan.id, until: held.until };
        match standing {
            Standing::Out(_) => standing,
            _ if now < held.learnt + CONFIRM_SILENCE => Standing::Doubtful(why),
            _ => Standing::Out(why),
        }
    }

    /// Notes that a drill begins or ends, for who follows the events.
    pub(super) fn note_drills(&mut self) {
        let running: Vec<DrillId> =
            self.drills.iter().filter(|h| h.over.is_none()).map(|h| h.plan.id).collect();
        if running == self.drills_running {
            return;
        }
        let before = std::mem::replace(&mut self.drills_running, running);
        for held in self.drills.iter() {
            let (was, is) = (before.contains(&held.plan.id), held.over.is_none());
            if was == is {
                continue;
            }
            let (id, service) = (held.plan.id, held.plan.service.clone());
            self.events.push_back(match &held.over {
                None => Event::DrillBegan { id, service, lose: held.plan.lose.to_string() },
                Some((_, why)) => Event::DrillOver { id, service, why: why.clone() },
            });
        }
    }
}
