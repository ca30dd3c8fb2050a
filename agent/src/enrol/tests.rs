//! Joining and renewing against a control API on loopback, and the text of each failure.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hearth_proto::ids::Identity;
use hearth_proto::view::ErrorView;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::disk::tests::Scratch;
use crate::identity::authority::{Authority, Leaf};
use crate::identity::peer_identity;

/// A control API as the agent sees one.
struct Control {
    at: HostPort,
    task: JoinHandle<()>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the control API does with a request: path, body, who showed a certificate.
type Behaviour = dyn Fn(&str, &[u8], Option<Identity>) -> (u16, String) + Send + Sync;

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn token_for(root: &[u8]) -> JoinToken {
    let hash = URL_SAFE_NO_PAD.encode(pinned::hash(root));
    let secret = URL_SAFE_NO_PAD.encode([7; 32]);
    JoinToken::parse(&format!(" hearth1.{hash}.{secret}\n")).unwrap()
}

async fn control(authority: &Authority, behaviour: Arc<Behaviour>) -> Control {
    let identity = Identity::Control(name("control-1"));
    control_as(authority, &Leaf::of(&identity, &authority.domain), behaviour).await
}

async fn control_as(authority: &Authority, leaf: &Leaf, behaviour: Arc<Behaviour>) -> Control {
    let (key, certificate) = authority.issue(leaf);
    let chain = certificates("test", &format!("{certificate}{}", authority.bundle_pem())).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.root().into()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        roots.into(),
        crate::identity::provider(),
    );
    let config = rustls::ServerConfig::builder_with_provider(crate::identity::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = HostPort::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    let domain = authority.domain.clone();
    let task = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(tls) = acceptor.accept(tcp).await else { continue };
            let who = tls.get_ref().1.peer_certificates().map(<[_]>::to_vec);
            let who = who.and_then(|chain| peer_identity(&chain, &domain).ok());
            let behaviour = behaviour.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (behaviour, who) = (behaviour.clone(), who.clone());
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await?.to_bytes();
                    let (status, answer) = behaviour(&path, &body, who);
                    let response = http::Response::builder().status(status);
                    let body = Full::new(Bytes::from(answer));
                    Ok::<_, hyper::Error>(response.body(body).unwrap())
                }
            });
            let served = hyper::server::conn::http1::Builder::new();
            let _ = served.serve_connection(TokioIo::new(tls), service).await;
        }
    });
    Control { at, task }
}

/// Signs whatever is asked, for `who`, with `off` added to its clock.
fn signing(authority: &Arc<Authority>, who: &'static str, off: i64) -> Arc<Behaviour> {
    let authority = authority.clone();
    Arc::new(move |path, body, _| {
        let csr = match path {
            "/v1/join" => serde_json::from_slice::<JoinRequest>(body).unwrap().csr_pem,
            _ => serde_json::from_slice::<RenewRequest>(body).unwrap().csr_pem,
        };
        let key = rcgen::CertificateSigningRequestParams::from_pem(&csr).unwrap().public_key;
        let leaf = Leaf::of(&Identity::Node(name(who)), &authority.domain);
        let now = WallClock::system().now().0.saturating_add_signed(off * 1_000_000);
        let answer = Enrolment {
            trust_domain: authority.domain.clone(),
            certificate_pem: authority.certify(&leaf, &key),
            bundle_pem: authority.bundle_pem(),
            documents: Vec::new(),
            now: Wall(now),
        };
        (200, serde_json::to_string(&answer).unwrap())
    })
}

fn refusing(status: u16, error: &'static str, hint: &'static str) -> Arc<Behaviour> {
    Arc::new(move |_, _, _| {
        let view = ErrorView { error: error.into(), hint: hint.into() };
        (status, serde_json::to_string(&view).unwrap())
    })
}

async fn try_join(
    scratch: &Scratch,
    control: &HostPort,
    token: &JoinToken,
    clock: WallClock,
) -> Result<Enrolled, EnrolError> {
    let web = name("web-1");
    let state_dir = scratch.0.join("state");
    let who = Candidate {
        name: &web,
        state_dir: &state_dir,
        control,
        mesh_address: "127.0.0.1:7940".parse().unwrap(),
        clock,
    };
    let joined = tokio::time::timeout(Duration::from_secs(10), join(&who, token)).await;
    joined.expect("joining hangs")
}

/// The text of a failed join, with the place of the control API made comparable.
async fn failure(control: &HostPort, token: &JoinToken) -> String {
    let scratch = Scratch::new();
    let result = try_join(&scratch, control, token, WallClock::system()).await;
    result.unwrap_err().to_string().replace(&control.to_string(), "CONTROL")
}

#[tokio::test]
async fn a_node_joins_with_its_token_and_renews_with_its_certificate() {
    let authority = Arc::new(Authority::new("mesh.example"));
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (sign, log) = (signing(&authority, "web-1", 0), seen.clone());
    let behaviour: Arc<Behaviour> = Arc::new(move |path, body, who| {
        log.lock().unwrap().push((path.to_owned(), who.clone()));
        sign(path, body, who)
    });
    let control = control(&authority, behaviour).await;
    let scratch = Scratch::new();
    let token = token_for(&authority.root());
    let joined = try_join(&scratch, &control.at, &token, WallClock::system()).await.unwrap();
    let credentials = joined.credentials;
    assert_eq!(credentials.node(), &name("web-1"));
    assert!(!scratch.0.join("state/identity/pending-key.pem").exists());
    let before = credentials.keyring().certificate();
    renew(&credentials, &control.at, "127.0.0.1:7940".parse().unwrap()).await.unwrap();
    let after = credentials.keyring().certificate();
    assert_ne!(before, after);
    let kept = Credentials::load(&scratch.0.join("state")).unwrap().unwrap();
    assert_eq!(kept.keyring().certificate(), after);
    assert_eq!(
        *seen.lock().unwrap(),
        [
            ("/v1/join".to_owned(), None),
            ("/v1/renew".to_owned(), Some(Identity::Node(name("web-1"))))
        ]
    );
}

#[tokio::test]
async fn what_the_control_plane_refuses_is_told_in_its_words_with_what_to_do() {
    let authority = Authority::new("mesh.example");
    let token = token_for(&authority.root());
    for (status, error, hint, expected) in [
        (
            401,
            "the join token is not known",
            "",
            "the control plane at CONTROL does not let this node join: the join token is not known\n  \
             hint: a token works once and for a limited time; make a new one on the control host: hearth \
             token create NODE",
        ),
        (
            401,
            "the join token expired 2 h ago",
            "make a new one: hearth token create web-1",
            "the control plane at CONTROL does not let this node join: the join token expired 2 h ago\n  \
             hint: make a new one: hearth token create web-1",
        ),
        (
            403,
            "the join token is for web-2, not for web-1",
            "",
            "the control plane at CONTROL does not let this node join: the join token is for web-2, not \
             for web-1\n  hint: a token is bound to one node's name; make one for this node: hearth \
             token create NODE",
        ),
    ] {
        let control = control(&authority, refusing(status, error, hint)).await;
        assert_eq!(failure(&control.at, &token).await, expected);
    }
    let garbage = control(&authority, Arc::new(|_, _, _| (200, "<html>".into()))).await;
    let told = failure(&garbage.at, &token).await;
    assert!(
        told.starts_with("the answer of the control plane at CONTROL cannot be used: "),
        "{told}"
    );
}

#[tokio::test]
async fn a_control_plane_with_another_root_is_not_told_the_token() {
    let (ours, other) = (Authority::new("mesh.example"), Authority::new("mesh.example"));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let behaviour: Arc<Behaviour> = Arc::new(move |_, _, _| {
        count.fetch_add(1, Ordering::SeqCst);
        (200, String::new())
    });
    let control = control(&other, behaviour).await;
    let token = token_for(&ours.root());
    let expected = pinned::short(&token.root);
    assert_eq!(
        failure(&control.at, &token).await,
        format!(
            "CONTROL is not the control plane this token is of: it shows no root certificate with the \
             SHA-256 {expected}\n  hint: check join.control; if the authority was made anew \
             (hearth-control init), make a new token there. If neither, somebody stands in between"
        )
    );
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_node_that_poses_as_the_control_plane_is_refused() {
    let authority = Authority::new("mesh.example");
    let node = Leaf::of(&Identity::Node(name("web-2")), &authority.domain);
    let impostor = control_as(&authority, &node, refusing(200, "", "")).await;
    let told = failure(&impostor.at, &token_for(&authority.root())).await;
    assert!(
        told.starts_with(
            "no trusted connection to the control plane at CONTROL: the peer is node/web-2, but the \
             control plane was expected\n  hint: "
        ),
        "{told}"
    );
}

#[tokio::test]
async fn an_unreachable_control_plane_says_where_and_why() {
    let authority = Authority::new("mesh.example");
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = HostPort::parse(&port.to_string()).unwrap();
    assert_eq!(
        failure(&nobody, &token_for(&authority.root())).await,
        "cannot reach the control plane at CONTROL: Connection refused (os error 111)\n  hint: is \
         \"hearth-control serve\" running there, and may this host reach it over TCP? A node that has \
         joined needs it only to renew"
    );
}

#[tokio::test]
async fn a_clock_two_hours_off_is_told_and_the_identity_kept() {
    let authority = Arc::new(Authority::new("mesh.example"));
    let control = control(&authority, signing(&authority, "web-1", 0)).await;
    let scratch = Scratch::new();
    let token = token_for(&authority.root());
    let ahead = WallClock::new(|| Wall(WallClock::system().now().0 + 7_200_000_000));
    let told = try_join(&scratch, &control.at, &token, ahead).await.unwrap_err().to_string();
    let told = told.replace(&control.at.to_string(), "CONTROL");
    let begin = "this host's clock is 2 h ahead of the control plane's at CONTROL: here it is 2";
    let end = "Z; other agents would refuse this node's certificate\n  hint: set the clock right (is a \
               time service such as chrony or systemd-timesyncd running, here and there?) and start the \
               agent again; no new token is needed";
    assert!(told.starts_with(begin) && told.ends_with(end), "{told}");
    assert!(Credentials::load(&scratch.0.join("state")).unwrap().is_some());

    // Far enough behind, and the control plane's own certificate is not valid yet by our clock.
    let behind = WallClock::new(|| Wall(WallClock::system().now().0 - 7_200_000_000));
    let scratch = Scratch::new();
    let told = try_join(&scratch, &control.at, &token, behind).await.unwrap_err().to_string();
    assert!(told.contains("this host's clock may be off: our time is 2"), "{told}");
    assert!(told.ends_with(
        "hint: compare this host's clock with the control plane's and set the wrong one right"
    ));
}

#[tokio::test]
async fn an_answer_for_another_node_is_not_taken() {
    let authority = Arc::new(Authority::new("mesh.example"));
    let control = control(&authority, signing(&authority, "web-9", 0)).await;
    let scratch = Scratch::new();
    let token = token_for(&authority.root());
    let result = try_join(&scratch, &control.at, &token, WallClock::system()).await;
    let told = result.unwrap_err().to_string();
    assert!(
        told.contains("the certificate is for web-9 of mesh.example, asked was web-1"),
        "{told}"
    );
    assert!(Credentials::load(&scratch.0.join("state")).unwrap().is_none());
}

#[test]
fn a_damaged_token_is_told_from_a_used_one_and_never_quoted() {
    for (text, expected) in [
        ("", "the join token is empty"),
        ("secret", "the join token is not of the form hearth1.HASH.SECRET; was it copied whole?"),
        ("hearth9.a.b", "the join token does not begin with \"hearth1.\""),
        ("hearth1.secret.b", "the join token has a damaged HASH; was it copied whole?"),
    ] {
        let told = JoinToken::parse(text).unwrap_err().to_string();
        assert!(told.starts_with(expected) && !told.contains("secret."), "{told}");
        assert!(
            told.ends_with("hint: make a new one on the control host: hearth token create NODE")
        );
    }
    assert_eq!(
        Token::File("/nowhere/token".into()).read().unwrap_err().to_string(),
        "cannot read the join token from /nowhere/token: No such file or directory (os error 2)\n  \
         hint: write the output of \"hearth token create NODE\" there, readable by the user the agent \
         runs as"
    );
}

#[tokio::test]
async fn renewal_goes_on_after_failures_and_publishes() {
    let authority = Arc::new(Authority::new("mesh.example"));
    let attempts = Arc::new(AtomicUsize::new(0));
    let (sign, count) = (signing(&authority, "web-1", 0), attempts.clone());
    let behaviour: Arc<Behaviour> = Arc::new(move |path, body, who| {
        if count.fetch_add(1, Ordering::SeqCst) < 2 {
            return (503, String::new());
        }
        sign(path, body, who)
    });
    let control = control(&authority, behaviour).await;
    // Most of this certificate's life is over.
    let mut leaf = Leaf::of(&Identity::Node(name("web-1")), &authority.domain);
    leaf.from = std::time::SystemTime::now() - Duration::from_secs(200_000);
    let (key, certificate) = authority.issue(&leaf);
    let credentials =
        Credentials::from_pem(&key, &certificate, &authority.bundle_pem(), WallClock::system())
            .unwrap();
    let before = credentials.keyring().certificate();
    let (events, mut inbox) = mpsc::channel(4);
    let short = Duration::from_millis(10);
    let renewal = Renewal {
        credentials: credentials.clone(),
        control: control.at.clone(),
        mesh_address: "127.0.0.1:7940".parse().unwrap(),
        events,
        pace: Pace { look: short, first: short, longest: short },
    };
    let task = tokio::spawn(renewal.run());
    let mut failures = 0;
    loop {
        let event = tokio::time::timeout(Duration::from_secs(10), inbox.recv()).await;
        match event.expect("no event within 10 s").expect("the task ended") {
            RenewalEvent::Failed { error, .. } => {
                assert!(error.is_temporary(), "{error}");
                failures += 1;
            }
            RenewalEvent::Renewed { expires, .. } => {
                assert_eq!(expires, credentials.expires());
                break;
            }
        }
    }
    assert_eq!(failures, 2);
    assert_ne!(credentials.keyring().certificate(), before);
    drop(inbox);
    let ended = tokio::time::timeout(Duration::from_secs(10), task).await;
    ended.expect("the task outlives its listener").unwrap();
}

#[tokio::test]
async fn a_renewal_after_the_certificate_ran_out_says_that_it_takes_a_new_token() {
    let authority = Arc::new(Authority::new("mesh.example"));
    let control = control(&authority, signing(&authority, "web-1", 0)).await;
    let mut leaf = Leaf::of(&Identity::Node(name("web-1")), &authority.domain);
    leaf.to = std::time::SystemTime::now() - Duration::from_secs(60);
    let (key, certificate) = authority.issue(&leaf);
    let credentials =
        Credentials::from_pem(&key, &certificate, &authority.bundle_pem(), WallClock::system())
            .unwrap();
    let result = renew(&credentials, &control.at, "127.0.0.1:7940".parse().unwrap()).await;
    let told = result.unwrap_err().to_string();
    assert!(told.contains("it refused this node's certificate (received fatal alert: "), "{told}");
    assert!(told.ends_with("join with a new token (hearth token create NODE)"), "{told}");
}

#[test]
fn an_identity_of_another_name_is_told_with_both_ways_out() {
    let credentials = Authority::new("mesh.example").node("web-1");
    assert!(same_name(&credentials, &name("web-1")).is_ok());
    assert_eq!(
        same_name(&credentials, &name("web-2")).unwrap_err().to_string(),
        "this node is web-1, the configuration says web-2\n  hint: correct `name`, or move the identity \
         directory away and join with a token for web-2 (hearth token create web-2)"
    );
}
