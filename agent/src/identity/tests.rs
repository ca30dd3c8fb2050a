//! Credentials between two real TLS endpoints, and everything that must not pass.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use hearth_proto::advert::Untrusted;
use hearth_proto::ids::Identity;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::authority::{Authority, Leaf};
use super::*;
use crate::disk::tests::Scratch;

const ALPN: &[u8] = b"hearth-mesh/1";
const HOUR: Duration = Duration::from_secs(3_600);

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn node(text: &str) -> Identity {
    Identity::Node(name(text))
}

/// The host's clock, set off by so many seconds.
fn clock_off_by(seconds: i64) -> WallClock {
    WallClock::new(move || {
        Wall(WallClock::system().now().0.saturating_add_signed(seconds * 1_000_000))
    })
}

/// What each side of a connection knows of the other, or its error.
type Sides = (Result<Identity, String>, Result<Identity, String>);

async fn connect(client: &Credentials, expected: Expected, server: &Credentials) -> Sides {
    let config = client.client_config(expected, ALPN);
    connect_with(config, client.trust_domain(), server).await
}

async fn connect_with(
    client: Arc<rustls::ClientConfig>,
    domain: &TrustDomain,
    server: &Credentials,
) -> Sides {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accept = async {
        let acceptor = TlsAcceptor::from(server.server_config(&[ALPN]));
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = acceptor.accept(tcp).await.map_err(|e| e.to_string())?;
        let who = peer_identity(tls.get_ref().1.peer_certificates().unwrap_or_default(), domain);
        tls.write_all(b"!").await.map_err(|e| e.to_string())?;
        tls.shutdown().await.map_err(|e| e.to_string())?;
        who.map_err(|e| e.to_string())
    };
    let dial = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let server_name = ServerName::try_from("hearth").unwrap();
        let connected = TlsConnector::from(client).connect(server_name, tcp).await;
        let mut tls = connected.map_err(|e| e.to_string())?;
        // With TLS 1.3 a server refuses the client's certificate after the client is through.
        tls.read_u8().await.map_err(|e| e.to_string())?;
        peer_identity(tls.get_ref().1.peer_certificates().unwrap_or_default(), domain)
            .map_err(|e| e.to_string())
    };
    tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(dial, accept) })
        .await
        .expect("the handshake hangs")
}

/// Collects the reasons of refused handshakes.
fn reasons(credentials: &Credentials) -> Arc<Mutex<Vec<&'static str>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    credentials.on_refusal(move |refusal| sink.lock().unwrap().push(refusal.reason()));
    seen
}

#[tokio::test]
async fn two_nodes_of_one_mesh_learn_each_others_names() {
    let authority = Authority::new("mesh.example");
    let (a, b) = (authority.node("web-1"), authority.node("web-2"));
    for expected in [Expected::Node(name("web-2")), Expected::AnyNode] {
        assert_eq!(connect(&a, expected, &b).await, (Ok(node("web-2")), Ok(node("web-1"))));
    }
}

#[tokio::test]
async fn a_dialler_refuses_who_it_did_not_mean() {
    let authority = Authority::new("mesh.example");
    let (a, b) = (authority.node("web-1"), authority.node("web-2"));
    let seen = reasons(&a);
    for (expected, words) in [
        (Expected::Node(name("web-3")), "the peer is node/web-2, but node/web-3 was expected"),
        (Expected::Control, "the peer is node/web-2, but the control plane was expected"),
    ] {
        let (dialler, listener) = connect(&a, expected, &b).await;
        let told = dialler.unwrap_err();
        assert!(told.contains(words), "{told}");
        assert!(listener.is_err());
    }
    assert_eq!(*seen.lock().unwrap(), ["other_identity", "other_identity"]);
}

#[tokio::test]
async fn a_listener_refuses_a_client_without_a_certificate() {
    let authority = Authority::new("mesh.example");
    let (a, b) = (authority.node("web-1"), authority.node("web-2"));
    let mut config = (*a.client_config(Expected::AnyNode, ALPN)).clone();
    config.client_auth_cert_resolver = Arc::new(Nothing);
    let (dialler, listener) = connect_with(Arc::new(config), a.trust_domain(), &b).await;
    assert!(dialler.is_err());
    assert!(listener.unwrap_err().contains("sent no certificates"));
}

#[tokio::test]
async fn a_listener_refuses_and_counts_each_kind_of_wrong_certificate() {
    let authority = Authority::new("mesh.example");
    let domain = &authority.domain;
    let right = |who: &str| Leaf::of(&node(who), domain);
    let now = SystemTime::now();
    let mut expired = right("web-1");
    (expired.from, expired.to) = (now - 5 * HOUR, now - 3 * HOUR);
    let mut early = right("web-1");
    (early.from, early.to) = (now + 3 * HOUR, now + 5 * HOUR);
    let mut two_names = right("web-1");
    two_names.uris.push(node("web-2").uri(domain));
    let mut other_domain = right("web-1");
    other_domain.uris = vec!["spiffe://other.example/node/web-1".into()];
    let mut an_authority = right("web-1");
    an_authority.ca = true;
    let server = authority.node("web-2");
    let seen = reasons(&server);
    for (leaf, reason, words) in [
        (expired, "expired", "the certificate of node/web-1 expired 3 h ago, or this host's clock"),
        (
            early,
            "not_yet_valid",
            "the certificate of node/web-1 is valid only in 3 h, or this host",
        ),
        (two_names, "names", "the certificate has 2 URI names; it must have exactly one"),
        (other_domain, "foreign", "is of another trust domain than mesh.example"),
        (an_authority, "authority", "the certificate is an authority's"),
    ] {
        let (key, certificate) = authority.issue(&leaf);
        let config = presenting(&key, &certificate);
        let (_, listener) = connect_with(config, domain, &server).await;
        let told = listener.unwrap_err();
        assert!(told.contains(words), "{reason}: {told}");
        assert_eq!(seen.lock().unwrap().pop(), Some(reason), "{told}");
    }
    let stranger = Authority::new("mesh.example").node("web-1");
    let (dialler, listener) = connect(&stranger, Expected::AnyNode, &server).await;
    assert!(dialler.unwrap_err().contains("does not chain to a root of this mesh's trust bundle"));
    assert!(listener.is_err());
}

/// Presents no certificate.
#[derive(Debug)]
struct Nothing;

impl rustls::client::ResolvesClientCert for Nothing {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A dialler that trusts anyone and presents what it is told to.
fn presenting(key: &str, certificate: &str) -> Arc<rustls::ClientConfig> {
    use rustls::pki_types::pem::PemObject;
    let authority = Authority::new("mesh.example");
    let mut config = (*authority.node("x").client_config(Expected::AnyNode, ALPN)).clone();
    let chain = certificates("the certificate", certificate).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let signer = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(chain, signer);
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    config.dangerous().set_certificate_verifier(Arc::new(Gullible));
    Arc::new(config)
}

#[derive(Debug)]
struct Gullible;

impl rustls::client::danger::ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        algorithms().supported_schemes()
    }
}

#[tokio::test]
async fn a_clock_two_hours_behind_is_said_to_be_possibly_off_with_both_times() {
    let authority = Authority::new("mesh.example");
    let late = authority.node_with("web-1", clock_off_by(-7_200));
    let (dialler, _) = connect(&late, Expected::AnyNode, &authority.node("web-2")).await;
    let told = dialler.unwrap_err();
    assert!(told.contains("this host's clock may be off: our time is 2"), "{told}");
    assert!(told.contains("Z, certificate valid from 2") && told.contains("Z to 2"), "{told}");
}

#[test]
fn the_text_about_validity_is_whole() {
    let refusal = Refusal::Validity {
        who: Identity::Node(name("web-1")),
        now: clock::from_seconds(1_767_225_600),
        from: clock::from_seconds(1_767_232_800),
        to: clock::from_seconds(1_767_319_200),
    };
    assert_eq!(
        refusal.to_string(),
        "the certificate of node/web-1 is valid only in 2 h, or this host's clock may be off: our time \
         is 2026-01-01T00:00:00Z, certificate valid from 2026-01-01T02:00:00Z to 2026-01-02T02:00:00Z"
    );
}

#[tokio::test]
async fn a_revocation_counts_from_the_next_handshake_and_spares_later_certificates() {
    let authority = Authority::new("mesh.example");
    let (a, b) = (authority.node("web-1"), authority.node("web-2"));
    assert!(connect(&a, Expected::AnyNode, &b).await.1.is_ok());
    let moment = b.clock().now();
    b.set_revoked(BTreeMap::from([(name("web-1"), moment)]));
    let told = connect(&a, Expected::AnyNode, &b).await.1.unwrap_err();
    assert!(told.contains("node/web-1 is revoked"), "{told}");
    let mut later = Leaf::of(&node("web-1"), &authority.domain);
    later.from = SystemTime::now() + Duration::from_secs(2);
    let (key, certificate) = authority.issue(&later);
    let b = authority.node_with("web-2", clock_off_by(60));
    b.set_revoked(BTreeMap::from([(name("web-1"), moment)]));
    let (_, listener) = connect_with(presenting(&key, &certificate), &authority.domain, &b).await;
    assert_eq!(listener, Ok(node("web-1")));
}

#[tokio::test]
async fn new_roots_and_a_renewed_certificate_count_without_rebuilding_anything() {
    let (old, new) = (Authority::new("mesh.example"), Authority::new("mesh.example"));
    let (a, b) = (old.node("web-1"), old.node("web-2"));
    let config = a.client_config(Expected::Node(name("web-2")), ALPN);
    let both = vec![old.root(), new.root()];
    a.set_trust(both.clone()).unwrap();
    b.set_trust(both).unwrap();
    let (key, certificate) = new.issue(&Leaf::of(&node("web-1"), &new.domain));
    let bundle = format!("{}{}", old.bundle_pem(), new.bundle_pem());
    a.replace(&key, &certificate, &bundle).unwrap();
    assert!(a.renew_at(0.0) > a.clock().now());
    let sides = connect_with(config.clone(), a.trust_domain(), &b).await;
    assert_eq!(sides, (Ok(node("web-2")), Ok(node("web-1"))));
    // The old root goes: b, still with its certificate, is out and knows that it must renew at once.
    a.set_trust(vec![new.root()]).unwrap();
    b.set_trust(vec![new.root()]).unwrap();
    assert!(connect_with(config, a.trust_domain(), &b).await.0.is_err());
    assert!(b.renew_at(1.0) <= b.clock().now());
    assert!(a.set_trust(Vec::new()).is_err(), "a bundle without roots would cut every link");
    assert!(a.set_trust(vec![b"nonsense".to_vec()]).is_err());
}

#[test]
fn what_does_not_validate_is_not_taken_and_the_old_stays() {
    let authority = Authority::new("mesh.example");
    let a = authority.node("web-1");
    let (before, bundle) = (a.expires(), authority.bundle_pem());
    let (key, certificate) = authority.issue(&Leaf::of(&node("web-1"), &authority.domain));
    let (other_key, of_another) = authority.issue(&Leaf::of(&node("web-2"), &authority.domain));
    let stranger = Authority::new("mesh.example");
    let (foreign_key, foreign) = stranger.issue(&Leaf::of(&node("web-1"), &stranger.domain));
    let mut expired = Leaf::of(&node("web-1"), &authority.domain);
    expired.to = SystemTime::now() - HOUR;
    expired.from = SystemTime::now() - 2 * HOUR;
    let (expired_key, expired) = authority.issue(&expired);
    let control = Identity::Control(name("control-1"));
    let (control_key, control) = authority.issue(&Leaf::of(&control, &authority.domain));
    for (key, certificate, bundle, words) in [
        (&other_key, &certificate, &bundle, "the certificate is for another key than ours"),
        (&other_key, &of_another, &bundle, "it is for web-2 of mesh.example, we are web-1"),
        (&foreign_key, &foreign, &bundle, "does not chain to a root"),
        (&expired_key, &expired, &bundle, "the certificate of node/web-1 expired"),
        (&control_key, &control, &bundle, "the certificate is of control/control-1, not of a node"),
        (&key, &certificate, &String::new(), "the trust bundle is not readable PEM"),
        (&String::from("x"), &certificate, &bundle, "the private key is not readable PEM"),
    ] {
        let told = a.replace(key, certificate, bundle).unwrap_err().to_string();
        assert!(told.contains(words) && told.contains("the old one stays in use"), "{told}");
        assert_eq!(a.expires(), before);
    }
    a.replace(&key, &certificate, &bundle).unwrap();
}

#[test]
fn renewal_is_due_from_half_of_the_life_and_up_to_a_tenth_later() {
    let authority = Authority::new("mesh.example");
    let a = authority.node("web-1");
    let life = 86_400_000_000;
    let from = a.expires().0 - life;
    assert_eq!(a.renew_at(0.0).0, from + life / 2);
    assert_eq!(a.renew_at(1.0).0, from + life * 6 / 10);
    assert_eq!(a.renew_at(f64::INFINITY), a.renew_at(1.0));
}

#[test]
fn a_signature_is_believed_of_its_owner_only() {
    let authority = Authority::new("mesh.example");
    let (a, b) = (authority.node("web-1").keyring(), authority.node("web-2").keyring());
    let signature = a.sign(b"advert");
    let certificate = a.certificate();
    let verify = |who: &Identity, message: &[u8], signature: &[u8]| {
        b.verify(who, &certificate, message, signature, false)
    };
    assert_eq!(verify(&node("web-1"), b"advert", &signature), Ok(()));
    // The second time the certificate's chain comes from memory.
    assert_eq!(verify(&node("web-1"), b"advert", &signature), Ok(()));
    assert_eq!(verify(&node("web-1"), b"forged", &signature), Err(Untrusted::Signature));
    assert_eq!(verify(&node("web-1"), b"advert", b""), Err(Untrusted::Signature));
    assert_eq!(
        verify(&node("web-2"), b"advert", &signature),
        Err(Untrusted::OtherIdentity { expected: node("web-2"), found: node("web-1") })
    );
    let stranger = Authority::new("mesh.example").node("web-1").keyring();
    let forged = stranger.sign(b"advert");
    let certificate = stranger.certificate();
    assert!(matches!(
        b.verify(&node("web-1"), &certificate, b"advert", &forged, true),
        Err(Untrusted::Certificate(_))
    ));
    assert!(matches!(
        b.verify(&node("web-1"), b"no certificate", b"advert", &forged, true),
        Err(Untrusted::Certificate(_))
    ));
}

#[test]
fn a_lasting_record_outlives_its_certificate_but_not_a_revocation() {
    let authority = Authority::new("mesh.example");
    let a = authority.node("web-1").keyring();
    let (signature, certificate) = (a.sign(b"advert"), a.certificate());
    for days_off in [-30, 30] {
        let later = authority.node_with("web-2", clock_off_by(days_off * 86_400));
        let keyring = later.keyring();
        let verify =
            |lasting| keyring.verify(&node("web-1"), &certificate, b"advert", &signature, lasting);
        assert_eq!(verify(true), Ok(()));
        assert!(matches!(verify(false), Err(Untrusted::Expired(_))), "{:?}", verify(false));
        let moment = Wall(later.clock().now().0.max(WallClock::system().now().0));
        later.set_revoked(BTreeMap::from([(name("web-1"), moment)]));
        assert_eq!(verify(true), Err(Untrusted::Revoked(node("web-1"))));
    }
}

#[test]
fn memory_of_certificates_does_not_outlive_the_bundle() {
    let (old, new) = (Authority::new("mesh.example"), Authority::new("mesh.example"));
    let a = old.node("web-1").keyring();
    let (signature, certificate) = (a.sign(b"advert"), a.certificate());
    let b = old.node("web-2");
    let keyring = b.keyring();
    let verify = || keyring.verify(&node("web-1"), &certificate, b"advert", &signature, false);
    assert_eq!(verify(), Ok(()));
    b.set_trust(vec![new.root()]).unwrap();
    assert!(matches!(verify(), Err(Untrusted::Certificate(_))));
    b.set_trust(vec![new.root(), old.root()]).unwrap();
    assert_eq!(verify(), Ok(()));
}

#[test]
fn a_renewal_between_signature_and_certificate_does_not_mix_them() {
    let authority = Authority::new("mesh.example");
    let a = authority.node("web-1");
    let (keyring, checker) = (a.keyring(), authority.node("web-2").keyring());
    let signature = keyring.sign(b"advert");
    let (key, certificate) = authority.issue(&Leaf::of(&node("web-1"), &authority.domain));
    a.replace(&key, &certificate, &authority.bundle_pem()).unwrap();
    let paired = keyring.certificate();
    assert_eq!(checker.verify(&node("web-1"), &paired, b"advert", &signature, false), Ok(()));
    assert_ne!(keyring.certificate(), paired, "the next one asked for is the new one");
}

#[test]
fn an_identity_survives_the_disk_and_its_files_are_private() {
    let scratch = Scratch::new();
    let state = scratch.0.join("state");
    assert!(Credentials::load(&state).unwrap().is_none());
    let authority = Authority::new("mesh.example");
    let (key, certificate) = authority.issue(&Leaf::of(&node("web-1"), &authority.domain));
    let store = IdentityStore::new(&state);
    store.write(&key, &certificate, &authority.bundle_pem()).unwrap();
    let a = Credentials::load(&state).unwrap().unwrap();
    assert_eq!((a.node(), a.trust_domain()), (&name("web-1"), &authority.domain));
    let (key, certificate) = authority.issue(&Leaf::of(&node("web-1"), &authority.domain));
    a.replace(&key, &certificate, &authority.bundle_pem()).unwrap();
    let again = Credentials::load(&state).unwrap().unwrap();
    assert_eq!(again.keyring().certificate(), a.keyring().certificate());
    let file = state.join("identity/identity.pem");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let f = file.display();
    assert_eq!(
        Credentials::load(&state).unwrap_err().to_string(),
        format!(
            "{f} may be used by others than its owner (mode 0640); it holds this node's key\n  hint: \
             chmod 0600 {f}   (and, if somebody may have read it: join again with a new token)"
        )
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&file, key).unwrap();
    assert!(
        Credentials::load(&state).unwrap_err().to_string().contains("lacks the key or the cert")
    );
}

#[test]
fn an_identity_that_ran_out_is_loaded_all_the_same() {
    let scratch = Scratch::new();
    let state = scratch.0.join("state");
    let authority = Authority::new("mesh.example");
    let (key, certificate) = authority.issue(&Leaf::of(&node("web-1"), &authority.domain));
    IdentityStore::new(&state).write(&key, &certificate, &authority.bundle_pem()).unwrap();
    let late = Credentials::load_with(&state, clock_off_by(30 * 86_400)).unwrap().unwrap();
    assert!(late.expires() < late.clock().now());
}
