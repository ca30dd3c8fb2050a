//! Attacks on a real mesh: by a member who lies, by a stranger, by somebody with an old certificate or a
//! spent token. Each is refused, counted under its reason exactly as often as it was tried, logged as
//! JSON with that reason, and changes nothing; the legitimate traffic never notices.
//!
//! Agents, control plane and applications are real processes on the loopback: no link dies here, so a
//! namespace would add nothing.

#[path = "trust/mallory.rs"]
mod mallory;
#[path = "trust/mesh.rs"]
mod mesh;
#[path = "trust/stranger.rs"]
mod stranger;

use hearth_agent::identity::{Credentials, WallClock};
use hearth_agent::link::{LinkMetrics, Links, Runtimes};
use hearth_control::directory::Directory;
use hearth_control::moment;
use hearth_proto::advert::SignedAdvert;
use hearth_proto::api::ControlStatus;
use hearth_proto::document::{Content, Document, SignedDocument};
use hearth_proto::ids::{EndpointId, Generation, NodeName, ServiceName};
use hearth_proto::incident::IncidentKey;
use hearth_proto::member::{MemberId, MemberRecord};
use hearth_proto::policy::Policy;
use hearth_proto::time::Wall;
use hearth_proto::wire::{self, Hello, Members, Message, Wake};
use hearth_tests::lab::wait::wait_for;
use hearth_tests::loopback::{LocalAgent, counters, free_ports, risen};

use mallory::{Mallory, ask_to_join, node, runtime};
use mesh::{Disturbed, Mesh, Pictures, SOON, logged, staged};

/// Each attack is tried so often.
const TIMES: u64 = 3;

fn count(lines: usize) -> u64 {
    u64::try_from(lines).unwrap()
}

/// The log of an agent has the refusals of what mallory brought: `TIMES` with this reason.
fn told_of_mallory(agent: &LocalAgent, what: &str, reason: &str) {
    let fields = [("what", what), ("reason", reason), ("from", "node/mallory")];
    let lines = logged(&agent.process().stderr(), "refused", &fields);
    assert_eq!(count(lines.len()), TIMES, "{what}, {reason}: {lines:?}");
    let words = lines.iter().all(|line| {
        line["level"] == "WARN"
            && line["fields"]["detail"].as_str().is_some_and(|text| text.len() > reason.len())
    });
    assert!(words, "a refusal is logged without its reason in words: {lines:?}");
}

#[test]
fn a_record_forged_by_a_member_for_another_node_is_refused() {
    staged("forged", forged);
}

fn forged(mesh: &Mesh) -> Result<(), Disturbed> {
    let mallory = Mallory::join(mesh);
    let (before, refused) = (mesh.before(), mesh.refused());
    let table = mallory.table_of(("caller", &mesh.caller));
    let genuine = table.iter().find(|record| record.node.as_str() == "web-1").unwrap();

    // What would take web-1 out of service and have its callers dial mallory.
    let mut lie = genuine.open(&*mallory.credentials.keyring(), false).unwrap();
    lie.version.revision += 1;
    lie.address = mallory.address;
    lie.left = true;
    lie.endpoints.clear();
    let under_her_own_certificate = mallory.sign(&lie);
    let under_the_victims_certificate =
        SignedAdvert { certificate: genuine.certificate.clone(), ..mallory.sign(&lie) };
    let with_another_version = SignedAdvert { version: lie.version, ..genuine.clone() };
    for _ in 0..TIMES {
        for forged in
            [&under_her_own_certificate, &under_the_victims_certificate, &with_another_version]
        {
            mallory.send(("caller", &mesh.caller), &Message::Adverts(vec![forged.clone()]));
        }
    }

    let by = |reason: &str| format!("hearth_adverts_refused_total{{reason=\"{reason}\"}}");
    let reasons = ["other_identity", "signature", "contradiction"];
    let expected = reasons.map(by);
    mesh.refused_exactly(&refused, &expected.each_ref().map(|s| ("caller", s.as_str(), TIMES)));
    reasons.iter().for_each(|reason| told_of_mallory(&mesh.caller, "advert", reason));
    mesh.unchanged(&before)?;
    for agent in mesh.agents() {
        mesh.same(&before, &table, &mallory.table_of(agent))?;
    }
    mesh.traffic.more(20);

    // The same way, the same key, about herself: believed. So it is the lie that was refused above.
    let own = table.iter().find(|record| record.node.as_str() == "mallory").unwrap();
    let mut truth = own.open(&*mallory.credentials.keyring(), false).unwrap();
    truth.version.revision += 1;
    truth.zone = "elsewhere".to_owned();
    mallory.send(("caller", &mesh.caller), &Message::Adverts(vec![mallory.sign(&truth)]));
    wait_for("mallory's own record to be taken", SOON, || {
        let held = mallory.table_of(("caller", &mesh.caller));
        let held = held.iter().find(|record| record.node == own.node).unwrap().version;
        if held >= truth.version { Ok(()) } else { Err(held.to_string()) }
    })
    .unwrap();
    Ok(())
}

#[test]
fn a_certificate_used_under_another_name_gets_no_link() {
    staged("ghost", ghost);
}

fn ghost(mesh: &Mesh) -> Result<(), Disturbed> {
    let mallory = Mallory::join(mesh);
    let (before, refused) = (mesh.before(), mesh.refused());
    let dials = |agent: &LocalAgent| {
        let all = counters(&agent.page("/metrics").unwrap(), |name| name == "hearth_dials_total");
        all.get("hearth_dials_total{result=\"refused\"}").copied().unwrap_or(0)
    };
    let dialled = dials(&mesh.caller);

    // "There is a node called ghost, it lives here": said by push-pull, as members say of each other.
    let generation = Generation(mallory.credentials.clock().now().0 / 1_000);
    let ghost = MemberId::new(node("ghost"), generation, mallory.address);
    let members = vec![MemberRecord { id: ghost, incarnation: 0, state: 0 }];
    mallory.send(
        ("caller", &mesh.caller),
        &Message::Members(Members { reply: false, leaves: Vec::new(), members }),
    );

    // The hearsay makes ghost a suspect at most: nobody can link to it, so it goes down by itself.
    wait_for("ghost to be dialled, refused and held for down", SOON, || {
        let pictures = mesh.picture();
        let seen =
            |picture: &mesh::Picture| picture.members().get("ghost").copied() == Some("down");
        let now = format!("{:?}", pictures.values().map(|p| p.members()).collect::<Vec<_>>());
        match (pictures.values().all(seen), dials(&mesh.caller) > dialled) {
            (true, true) => Ok(()),
            _ => Err(now),
        }
    })
    .unwrap();

    // Each dial of ghost was refused for the certificate's name, and nothing else was.
    let series = "hearth_handshakes_refused_total{reason=\"other_identity\"}";
    let told = wait_for("each dial to be one refusal and one line of the log", SOON, || {
        let now = mesh.refused();
        let rose = mesh.agents().map(|(who, _)| risen(&refused[who], &now[who]));
        let others = rose.iter().flat_map(|counters| counters.keys()).any(|s| s != series);
        assert!(!others, "something else was refused: {rose:?}");
        let stderr = mesh.caller.process().stderr();
        let told = logged(&stderr, "handshake refused", &[("reason", "other_identity")]);
        let refused = rose[0].get(series).copied().unwrap_or(0);
        let figures = (refused, dials(&mesh.caller) - dialled, count(told.len()));
        if figures == (refused, refused, refused) { Ok(told) } else { Err(format!("{figures:?}")) }
    })
    .unwrap();
    let words = "the peer is node/mallory, but node/ghost was expected";
    assert!(told.iter().all(|line| line["fields"]["detail"] == words), "{told:?}");
    let after: Pictures =
        mesh.picture().into_iter().map(|(who, p)| (who, p.without("ghost"))).collect();
    // All but the hearsay itself.
    mesh.same(&before, before.pictures(), &after)?;
    mesh.traffic.more(50);
    Ok(())
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    staged("naked", naked);
}

fn naked(mesh: &Mesh) -> Result<(), Disturbed> {
    let (before, refused) = (mesh.before(), mesh.refused());
    let runtime = runtime();
    for alpn in [wire::ALPN_MESH, wire::ALPN_DATA] {
        for _ in 0..TIMES {
            let end = runtime.block_on(stranger::dial_without_certificate(mesh.hot.mesh, alpn));
            assert!(end.contains("certificate"), "it ended with: {end}");
        }
    }
    let series = "hearth_handshakes_refused_total{reason=\"no_certificate\"}";
    mesh.refused_exactly(&refused, &[("web-1", series, 2 * TIMES)]);
    let stderr = mesh.hot.process().stderr();
    let told = logged(&stderr, "handshake refused", &[("reason", "no_certificate")]);
    assert_eq!(count(told.len()), 2 * TIMES, "{told:?}");
    let addressed = told.iter().all(|line| {
        line["fields"]["remote"].as_str().is_some_and(|from| from.starts_with("127.0.0.1:"))
    });
    assert!(addressed, "{told:?}");
    mesh.unchanged(&before)?;
    mesh.traffic.more(20);
    Ok(())
}

#[test]
fn a_client_with_an_expired_certificate_is_refused() {
    staged("expired", expired);
}

fn expired(mesh: &Mesh) -> Result<(), Disturbed> {
    let (before, refused) = (mesh.before(), mesh.refused());
    let runtime = runtime();
    let _context = runtime.enter();
    let series = "hearth_handshakes_refused_total{reason=\"expired\"}";
    for attempt in 1..=TIMES {
        // Each time from the start: links that are dialling already would not dial twice.
        let [address] = free_ports();
        let hello = Hello { generation: Generation(1), address, protocol: (1, 1) };
        let (events, mut happened) = tokio::sync::mpsc::channel(16);
        let old = certificate_of_two_days_ago(mesh, "web-2");
        let (metrics, here) = (LinkMetrics::default(), Runtimes::current());
        let links = Links::bind(address, old, hello, events, metrics, here).unwrap();
        links.dial_seed(mesh.hot.mesh);
        wait_for("the refusal to be counted", SOON, || {
            let now = mesh.refused()["web-1"].get(series).copied().unwrap_or(0);
            if now == attempt { Ok(()) } else { Err(format!("{now}, expected {attempt}")) }
        })
        .unwrap();
        runtime.block_on(links.close());
        assert!(happened.try_recv().is_err(), "no link may have come up");
    }
    mesh.refused_exactly(&refused, &[("web-1", series, TIMES)]);
    let told = logged(&mesh.hot.process().stderr(), "handshake refused", &[("reason", "expired")]);
    assert_eq!(count(told.len()), TIMES, "{told:?}");
    let words = |line: &serde_json::Value| {
        let text = line["fields"]["detail"].as_str().unwrap_or_default();
        text.starts_with("the certificate of node/web-2 expired 24 h ago")
            && text.contains("clock may be off")
    };
    assert!(told.iter().all(words), "{told:?}");
    mesh.unchanged(&before)?;
    mesh.traffic.more(20);
    Ok(())
}

/// A certificate that the authority really issued, two days ago, for one day.
fn certificate_of_two_days_ago(mesh: &Mesh, name: &str) -> Credentials {
    let (_, authority) = Directory::find(mesh.control.dir()).unwrap().authority().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::new(Vec::new()).unwrap().serialize_request(&key);
    let then = Wall(moment::now().0 - 2 * 86_400_000_000);
    let issued = authority.issue_node(&request.unwrap().pem().unwrap(), &node(name), then).unwrap();
    let key = key.serialize_pem();
    Credentials::from_pem(&key, &issued.pem, authority.bundle_pem(), WallClock::system()).unwrap()
}

#[test]
fn a_join_token_that_was_used_or_is_for_another_name_lets_nobody_in() {
    staged("token", token);
}

fn token(mesh: &Mesh) -> Result<(), Disturbed> {
    // Mallory's own join spends her token; she is a member, and her token is worth nothing any more.
    let runtime = runtime();
    let [address] = free_ports();
    let spent = mesh.control.token(&mesh.place, "web-2").unwrap();
    let dir = |name: &str| mesh.place.path(name);
    ask_to_join(&runtime, mesh, "web-2", &spent, address, &dir("web-2.state")).unwrap();
    let others = mesh.control.token(&mesh.place, "web-3").unwrap();
    let (before, refused) = (mesh.before(), mesh.refused());
    let known = known_to_control(mesh);

    let attempts = [("web-2", &spent, "replayed"), ("mallory", &others, "other_name")];
    for (name, token, reason) in attempts {
        for attempt in 0..TIMES {
            let state = dir(&format!("{reason}-{attempt}"));
            let told = ask_to_join(&runtime, mesh, name, token, address, &state).unwrap_err();
            let told = told.to_string();
            assert!(told.contains("does not let this node join"), "{told}");
            assert!(told.contains(&format!("hearth token create {name}")), "{told}");
            assert!(Credentials::load(&state).unwrap().is_none(), "an identity was left");
        }
    }

    let series = attempts
        .map(|(.., reason)| format!("hearth_control_joins_total{{result=\"token_{reason}\"}}"));
    mesh.refused_exactly(&refused, &series.each_ref().map(|s| ("control", s.as_str(), TIMES)));
    let stderr = mesh.control.process().stderr();
    for (name, _, reason) in attempts {
        let reason = format!("token_{reason}");
        let fields = [("reason", reason.as_str()), ("node", name), ("remote", "127.0.0.1")];
        let lines = logged(&stderr, "join_refused", &fields);
        assert_eq!(count(lines.len()), TIMES, "{lines:?}");
        assert!(lines.iter().all(|line| line["fields"]["audit"] == true), "{lines:?}");
        let secrets = [&spent, &others].map(|token| token.rsplit('.').next().unwrap());
        assert!(!secrets.iter().any(|secret| stderr.contains(secret)), "a secret was logged");
    }
    mesh.unchanged(&before)?;
    assert_eq!(known_to_control(mesh), known);
    mesh.traffic.more(20);
    // A token that somebody tried under another name is still good for the one it was made for.
    ask_to_join(&runtime, mesh, "web-3", &others, address, &dir("web-3.state")).unwrap();
    Ok(())
}

/// Nodes that the control plane knows, as it tells its operator.
fn known_to_control(mesh: &Mesh) -> Vec<NodeName> {
    let dir = mesh.control.dir().display().to_string();
    let done = mesh.place.hearth(&["--dir", &dir, "-o", "json", "policy", "status"]).unwrap();
    let status: ControlStatus = serde_json::from_str(&done.stdout).unwrap();
    status.nodes.into_iter().map(|(node, _)| node).collect()
}

#[test]
fn a_document_the_control_plane_did_not_sign_is_refused() {
    staged("document", document);
}

fn document(mesh: &Mesh) -> Result<(), Disturbed> {
    let mallory = Mallory::join(mesh);
    let (before, refused) = (mesh.before(), mesh.refused());
    let table = mallory.table_of(("caller", &mesh.caller));
    let keyring = mallory.credentials.keyring();
    let sign = |signer: &str, content: Content| {
        let document =
            Document { version: 1_000, issued: moment::now(), source: String::new(), content };
        SignedDocument::sign(&document, node(signer), &*keyring).unwrap()
    };
    // She would lift the policy, withdraw web-1, and make a root of her own the mesh's only one.
    let withdrawn = [(node("web-1"), moment::now())].into_iter().collect();
    let forged = [
        sign("control-1", Content::Policy(Policy::default())),
        sign("control-1", Content::Revocations(withdrawn)),
        sign("mallory", Content::Trust(vec![b"a root".to_vec()])),
    ];
    for document in &forged {
        mallory.send(("caller", &mesh.caller), &Message::Documents(vec![document.clone()]));
    }
    let series = "hearth_documents_refused_total{reason=\"untrusted\"}";
    mesh.refused_exactly(&refused, &[("caller", series, count(forged.len()))]);
    told_of_mallory(&mesh.caller, "document", "untrusted");
    mesh.unchanged(&before)?;
    for agent in mesh.agents() {
        mesh.same(&before, &table, &mallory.table_of(agent))?;
    }
    mesh.traffic.more(20);
    Ok(())
}

#[test]
fn a_wake_by_a_caller_the_policy_does_not_allow_wakes_nobody() {
    staged("wake", wake);
}

fn wake(mesh: &Mesh) -> Result<(), Disturbed> {
    let mallory = Mallory::join(mesh);
    let (before, refused) = (mesh.before(), mesh.refused());
    let table = mallory.table_of(("warm-1", &mesh.warm));
    let service = ServiceName::parse("ledger").unwrap();
    let endpoint =
        |name: &str| EndpointId { service: service.clone(), node: node(name), instance: 0 };
    let lost = table.iter().find(|record| record.node.as_str() == "web-1").unwrap();
    let wake = Message::Wake(Wake {
        endpoint: endpoint("warm-1"),
        incident: IncidentKey { lost: endpoint("web-1"), version: lost.version },
        parent_span: 7,
        urgent: true,
    });
    for _ in 0..TIMES {
        mallory.send(("warm-1", &mesh.warm), &wake);
    }
    let series = "hearth_messages_refused_total{what=\"wake\",reason=\"not_allowed\"}";
    mesh.refused_exactly(&refused, &[("warm-1", series, TIMES)]);
    told_of_mallory(&mesh.warm, "wake", "not_allowed");
    mesh.unchanged(&before)?;
    for agent in mesh.agents() {
        mesh.same(&before, &table, &mallory.table_of(agent))?;
    }
    mesh.traffic.more(20);
    Ok(())
}
