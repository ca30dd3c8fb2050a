//! What this agent asks its peers for an operator: their part of an incident, of a drill.
//!
//! A question goes to members over the mesh, answers come back by themselves or not at all: whoever is lost,
//! or of a version that does not know the question, is silent, and is waited for no longer than
//! [`PATIENCE`]. The core is not concerned. Everything is bounded: questions at once, members asked, the size
//! of an answer, and how often this agent answers others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hearth_proto::ids::NodeName;
use hearth_proto::view::{Part, parts};
use hearth_proto::wire::{Answer, Ask};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::driver::{Command, Gone, Handle};

/// How long answers are waited for.
pub const PATIENCE: Duration = Duration::from_millis(1_500);
/// Members asked at once.
pub const MAX_ASKED: usize = 256;
/// Questions under way at once.
const MAX_QUESTIONS: usize = 16;
/// Largest answer.
pub const MAX_ANSWER: usize = 256 * 1024;
/// Answers given per second, to all peers together.
const MAX_ANSWERS: u32 = 64;

type Heard = (NodeName, Vec<u8>);

/// Questions under way. Clones are handles.
#[derive(Clone, Default)]
pub struct Questions(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    asked: BTreeMap<u64, Asked>,
    next: u64,
}

struct Asked {
    whom: BTreeSet<NodeName>,
    to: mpsc::Sender<Heard>,
}

impl Questions {
    /// An answer came. What nobody asked for, or is too large, is dropped.
    pub fn answered(&self, from: &NodeName, answer: Answer) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(asked) = open.asked.get_mut(&answer.nonce) else { return };
        if answer.body.len() <= MAX_ANSWER && asked.whom.remove(from) {
            // There is room for one of each.
            let _ = asked.to.try_send((from.clone(), answer.body));
        }
    }

    fn open(&self, whom: &[NodeName]) -> Option<(u64, mpsc::Receiver<Heard>)> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.asked.len() >= MAX_QUESTIONS {
            return None;
        }
        open.next += 1;
        let nonce = open.next;
        let (to, from) = mpsc::channel(whom.len().max(1));
        open.asked.insert(nonce, Asked { whom: whom.iter().cloned().collect(), to });
        Some((nonce, from))
    }

    fn close(&self, nonce: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).asked.remove(&nonce);
    }

    /// Asks the living members, and says what each answered. The number is of those that were not asked.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        handle: &Handle,
        what: String,
    ) -> Result<(Vec<Part<T>>, usize), Gone> {
        let mut whom = handle.read(|node, _| node.alive_members()).await?;
        let not_asked = whom.len().saturating_sub(MAX_ASKED);
        whom.truncate(MAX_ASKED);
        let mut answers = BTreeMap::new();
        if let Some((nonce, mut heard)) = self.open(&whom) {
            let ask = Ask { nonce, what };
            handle.command(Command::Ask { ask, to: whom.clone() }).await?;
            let end = tokio::time::Instant::now() + PATIENCE;
            while answers.len() < whom.len() {
                match tokio::time::timeout_at(end, heard.recv()).await {
                    Ok(Some((from, body))) => {
                        // What cannot be read is of a later version: as good as none.
                        let view = serde_json::from_slice(&body).ok();
                        answers.insert(from, view);
                    }
                    Ok(None) | Err(_) => break,
                }
            }
            self.close(nonce);
        }
        Ok((parts(&whom, answers), not_asked))
    }
}

/// Holds back a peer that asks without end.
pub struct Throttle {
    since: Instant,
    given: u32,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { since: Instant::now(), given: 0 }
    }
}

impl Throttle {
    /// Whether one more answer may be given now.
    pub fn allows(&mut self) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            *self = Self::default();
        }
        self.given += 1;
        self.given <= MAX_ANSWERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: &str) -> NodeName {
        NodeName::parse(n).unwrap()
    }

    #[test]
    fn only_who_was_asked_is_heard_and_only_once() {
        let questions = Questions::default();
        let (nonce, mut heard) = questions.open(&[name("a"), name("b")]).unwrap();
        let say = |from: &str, nonce: u64, body: &[u8]| {
            questions.answered(&name(from), Answer { nonce, body: body.to_vec() });
        };
        say("c", nonce, b"1");
        say("a", nonce + 1, b"2");
        say("a", nonce, &vec![0; MAX_ANSWER + 1]);
        say("b", nonce, b"3");
        say("b", nonce, b"4");
        assert_eq!(heard.try_recv().unwrap(), (name("b"), b"3".to_vec()));
        assert!(heard.try_recv().is_err());
        questions.close(nonce);
        say("a", nonce, b"5");
        assert!(heard.try_recv().is_err());
    }

    #[test]
    fn questions_at_once_and_answers_per_second_are_bounded() {
        let questions = Questions::default();
        let open: Vec<_> = (0..MAX_QUESTIONS + 1).map(|_| questions.open(&[])).collect();
        assert!(open[MAX_QUESTIONS - 1].is_some() && open[MAX_QUESTIONS].is_none());
        let mut throttle = Throttle::default();
        let given = (0..1_000).filter(|_| throttle.allows()).count();
        assert!(given < 1_000);
    }
}
