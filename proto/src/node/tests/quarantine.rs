//! A record that one node refuses and others hold.

use super::*;

/// Trusts everybody but `ghost`.
struct Wary(Hash);

impl Keyring for Wary {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message)
    }
    fn certificate(&self) -> Arc<[u8]> {
        self.0.certificate()
    }
    fn verify(
        &self,
        signer: &Identity,
        certificate: &[u8],
        message: &[u8],
        signature: &[u8],
        lasting: bool,
    ) -> Result<(), Untrusted> {
        if *signer == Identity::Node(name("ghost")) {
            return Err(Untrusted::Certificate("expired".into()));
        }
        self.0.verify(signer, certificate, message, signature, lasting)
    }
}

#[test]
fn a_refused_record_that_others_hold_is_asked_for_ever_more_rarely_and_nobody_hurries_for_it() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    lab.node("c1").keyring = Box::new(Wary(Hash(Identity::Node(name("c1")))));
    let (now, before) = (lab.now, lab.sent.len());
    let ghost = record("ghost", Version { generation: Generation(1), revision: 1 });
    lab.node("h2").handle_message(now, &Identity::Node(name("h1")), Message::Adverts(vec![ghost]));
    lab.run(Duration::from_secs(120));
    assert!(lab.nodes[&name("h1")].table().get(&name("ghost")).is_some());
    assert!(lab.nodes[&name("c1")].table().get(&name("ghost")).is_none());
    let ours = || lab.sent[before..].iter().filter(|(from, _)| *from == name("c1"));
    let count = |is: &dyn Fn(&Message) -> bool| {
        ours()
            .filter(|(_, t)| matches!(t, Transmit::Message { message, .. } if is(message)))
            .count()
    };
    let asked = count(&|m| matches!(m, Message::Want(w) if w.contains(&name("ghost"))));
    assert!(
        (2..=7).contains(&asked),
        "asked {asked} times; pauses of 2, 4, … 64 s leave room for 7"
    );
    let digests = count(&|m| matches!(m, Message::Digest(_)));
    assert!(digests <= 120, "{digests} digests in 120 s, of which a period has 2 s");
}
