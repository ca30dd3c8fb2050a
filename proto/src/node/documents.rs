//! Mesh documents on a node: verified, newest kept, passed on, put in force.

use crate::document::{Content, DocumentKind, DocumentRefused, SignedDocument};
use crate::evidence::NodeEvidence;
use crate::ids::{Identity, NodeName};
use crate::time::Time;
use crate::wire::{DocumentsAck, Message};

use super::gossip::PUSH_FANOUT;
use super::{Event, Node};

impl Node {
    /// Takes documents in and says which versions are in force afterwards.
    pub(super) fn take_documents(
        &mut self,
        _now: Time,
        from: &Identity,
        documents: Vec<SignedDocument>,
    ) -> Message {
        let mut refused = Vec::new();
        let mut fresh = Vec::new();
        for signed in documents {
            let held = self.documents.get(&signed.kind).map_or(0, |(s, _)| s.version);
            if signed.version <= held {
                continue;
            }
            match signed.open(&*self.keyring) {
                Ok(document) => {
                    fresh.push(signed.clone());
                    self.documents.insert(signed.kind, (signed, document));
                }
                Err(e) => {
                    refused.push(e.to_string());
                    self.refuse("document", reason(&e), from.clone(), e.to_string());
                }
            }
        }
        for signed in &fresh {
            self.enforce(signed.kind);
        }
        if !fresh.is_empty() {
            self.events.push_back(Event::SaveDocuments);
            let except = match from {
                Identity::Node(name) => name.clone(),
                Identity::Control(_) => self.config.name.clone(),
            };
            for peer in self.some_alive(PUSH_FANOUT, &except) {
                self.send(&peer, Message::Documents(fresh.clone()));
            }
        }
        let lives = |name: &NodeName| self.nodes.get(name).is_some_and(NodeEvidence::lives);
        let members = self
            .table
            .iter()
            .filter(|(name, _)| lives(name) || **name == self.config.name)
            .map(|(name, e)| (name.clone(), e.advert.address, e.advert.policy_version))
            .collect();
        let versions = self.documents.iter().map(|(k, (s, _))| (*k, s.version)).collect();
        Message::DocumentsAck(DocumentsAck { versions, members, refused })
    }

    fn enforce(&mut self, kind: DocumentKind) {
        let Some((signed, document)) = self.documents.get(&kind) else { return };
        if kind != DocumentKind::Policy {
            self.quarantine.clear();
        }
        match &document.content {
            Content::Policy(policy) => {
                self.policy = policy.clone();
                self.policy_version = signed.version;
                self.stale_services.extend(self.services.keys().cloned());
                self.stale_advert = true;
                self.seats.stale = true;
                self.stale_services.extend(self.own.keys().map(|id| id.service.clone()));
            }
            Content::Trust(roots) => self.events.push_back(Event::Trust(roots.clone())),
            Content::Revocations(revoked) => {
                let before = std::mem::replace(&mut self.revoked, revoked.clone());
                // A node that came back with a newer certificate stays back, until it is revoked anew.
                for name in self.revoked.keys().chain(before.keys()) {
                    if self.revoked.get(name) != before.get(name)
                        && let Some(e) = self.nodes.get_mut(name)
                    {
                        e.revoked = self.revoked.contains_key(name);
                    }
                }
                for node in self.revoked.clone().into_keys() {
                    self.touch_node(&node);
                    let fresh = self.revoked.get(&node) != before.get(&node);
                    if fresh {
                        self.outbox.push_back(super::Transmit::Cut { node });
                    }
                }
                for node in before.keys() {
                    self.touch_node(node);
                }
                self.events.push_back(Event::Revoked(self.revoked.clone()));
            }
        }
    }

    /// Sends a peer the documents it lacks; shows it our digest if it holds newer ones.
    pub(super) fn compare_documents(&mut self, peer: &NodeName, theirs: &[(DocumentKind, u64)]) {
        let version_of = |kind: &DocumentKind| {
            theirs.iter().find(|(k, _)| k == kind).map_or(0, |(_, version)| *version)
        };
        let owed: Vec<SignedDocument> = self
            .documents
            .iter()
            .filter(|(kind, (s, _))| s.version > version_of(kind))
            .map(|(_, (s, _))| s.clone())
            .collect();
        if !owed.is_empty() {
            self.send(peer, Message::Documents(owed));
        }
        let newer = theirs.iter().any(|(kind, version)| {
            self.documents.get(kind).map_or(0, |(s, _)| s.version) < *version
        });
        if newer {
            self.send(peer, Message::Digest(self.digest()));
        }
    }
}

fn reason(e: &DocumentRefused) -> &'static str {
    match e {
        DocumentRefused::TooLarge(..) => "too_large",
        DocumentRefused::Untrusted(..) => "untrusted",
        DocumentRefused::Malformed(..) => "malformed",
        DocumentRefused::Contradiction(..) => "contradiction",
    }
}
