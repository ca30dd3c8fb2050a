//! Faults, and what else is done to a world from outside: documents, forgeries.

use hearth_proto::advert::SignedAdvert;
use hearth_proto::document::{Content, Document, SignedDocument};
use hearth_proto::ids::{EndpointId, Identity, NodeName};
use hearth_proto::time::Wall;
use hearth_proto::wire::Message;

use super::application::{App, Gray};
use super::host::Life;
use super::keyring::{Keys, Revoked, Signed};
use super::mesh::node_name;
use super::world::World;

/// What befalls a mesh.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The host is gone, with its applications.
    Crash(usize),
    /// Its agent is gone; applications that it activated go on.
    Kill(usize),
    /// It starts again, from its disk or wiped.
    Boot(usize, bool),
    /// It is stopped.
    Pause(usize),
    /// It goes on.
    Resume(usize),
    /// Nothing passes from the first to the second group.
    Block(Vec<usize>, Vec<usize>),
    /// It passes again.
    Free(Vec<usize>, Vec<usize>),
    /// This share of packets is lost.
    Loss(f64),
    /// The application behind an endpoint is gone, or back.
    App(EndpointId, bool),
    /// The application takes requests and answers none, or answers again.
    Hang(EndpointId, bool),
    /// The application answers badly, or well again.
    Gray(EndpointId, Gray),
    /// This share of what comes from or goes to a host is lost.
    Lossy(usize, f64),
    /// The host leaves in good order.
    Leave(usize),
    /// This share of hooks fails.
    Hooks(f64),
    /// A member sends records in others' names.
    Forge(usize, usize),
}

impl World {
    /// Does what a fault says.
    pub(super) fn inflict(&mut self, fault: &Fault) {
        self.checks.faults += 1;
        let now = self.now;
        match fault {
            Fault::Crash(host) => self.crash(*host),
            Fault::Kill(host) => self.kill(*host),
            Fault::Boot(host, wipe) => self.boot(*host, *wipe),
            Fault::Pause(host) => self.pause(*host),
            Fault::Resume(host) => self.resume(*host),
            Fault::Block(from, to) | Fault::Free(from, to) => {
                let on = matches!(fault, Fault::Block(..));
                self.tell(|| format!("{from:?} → {to:?}: blocked {on}"));
                for (a, b) in from.iter().flat_map(|a| to.iter().map(move |b| (*a, *b))) {
                    if a != b {
                        self.net.block(a, b, on, now);
                    }
                }
            }
            Fault::Loss(share) => {
                self.tell(|| format!("loss of {share:.3}"));
                self.net.loss = *share;
                self.checks.loss_ended = now;
            }
            Fault::App(endpoint, up) => self.set_app(endpoint, *up),
            Fault::Hang(endpoint, on) => {
                self.tell(|| format!("the application of {endpoint} hangs: {on}"));
                if let Some(app) = self.app(endpoint) {
                    app.hung = *on;
                    app.changed = now;
                }
            }
            Fault::Gray(endpoint, gray) => {
                self.tell(|| format!("the application of {endpoint} is {gray:?}"));
                if let Some(app) = self.app(endpoint) {
                    app.gray = *gray;
                    app.changed = now;
                }
            }
            Fault::Lossy(host, share) => {
                self.tell(|| format!("of host {host}'s packets {share:.2} are lost"));
                self.net.lose(*host, *share);
                self.checks.loss_ended = now;
            }
            Fault::Leave(host) => {
                if self.hosts[*host].life == Life::Running {
                    self.checks.leaving(*host);
                    self.tell(|| format!("host {host} leaves"));
                    self.leave(*host);
                }
            }
            Fault::Hooks(share) => {
                self.tell(|| format!("hooks fail: {share:.2}"));
                self.hook_failure = *share;
            }
            Fault::Forge(by, victim) => self.forge(*by, *victim),
        }
    }

    fn set_app(&mut self, endpoint: &EndpointId, up: bool) {
        self.tell(|| format!("the application of {endpoint} is up: {up}"));
        let now = self.now;
        if let Some(app) = self.app(endpoint) {
            app.up = up;
            app.activated &= up;
            app.changed = now;
        }
    }

    fn app(&mut self, endpoint: &EndpointId) -> Option<&mut App> {
        let host = self.index(&endpoint.node)?;
        self.hosts[host].apps.get_mut(endpoint)
    }

    /// `by` sends every neighbour a record of `victim` that it made itself.
    fn forge(&mut self, by: usize, victim: usize) {
        self.tell(|| format!("host {by} forges records of host {victim}"));
        let Some(node) = &self.hosts[by].node else { return };
        let Some(real) = node.table().get(&node_name(victim)) else { return };
        let mut advert = (*real.advert).clone();
        advert.version.revision += 1_000;
        advert.left = true;
        let mine = Identity::Node(node_name(by));
        let keys = Keys::new(self.seed, mine, Wall(0), Revoked::default(), Signed::default());
        let Ok(mut forged) = SignedAdvert::sign(&advert, &keys) else { return };
        let mut plain = real.signed.clone();
        plain.version.revision += 2_000;
        let from = Identity::Node(node_name(by));
        for victim_certificate in [false, true] {
            if victim_certificate {
                forged.certificate = plain.certificate.clone();
            }
            let records = vec![forged.clone(), plain.clone()];
            for host in 0..self.hosts.len() {
                if host != by && self.hosts[host].life == Life::Running {
                    let message = Message::Adverts(records.clone());
                    self.step(host, |node, now| node.handle_message(now, &from, message));
                }
            }
        }
    }

    /// Hands one agent a document as the control plane does.
    pub fn give(&mut self, host: usize, version: u64, content: Content) {
        #[expect(clippy::expect_used, reason = "a label, and a document of a few bytes")]
        let signed = {
            let control = NodeName::parse("control-1").expect("a label");
            let who = Identity::Control(control.clone());
            let (none, log) = (Revoked::default(), Signed::default());
            let keys = Keys::new(self.seed, who, Wall(0), none, log);
            let source = String::new();
            let document = Document { version, issued: Wall(self.now), source, content };
            SignedDocument::sign(&document, control, &keys).expect("small")
        };
        let from = Identity::Control(signed.signer.clone());
        let message = Message::Documents(vec![signed]);
        self.step(host, |node, now| node.handle_message(now, &from, message));
    }
}
