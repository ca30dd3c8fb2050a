//! Agents that only answer: to the push over QUIC, to `hearth` over a socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hearth_proto::api::Enrolment;
use hearth_proto::document::{DocumentKind, SignedDocument};
use hearth_proto::wire::{ALPN_MESH, DocumentsAck, MAX_MESSAGE, Message};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, TokioRuntime};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;

use crate::client::{NodeKey, certificate};

#[derive(Default)]
struct State {
    version: AtomicU64,
    received: AtomicU64,
}

/// Takes documents and says so. Its certificate is asked of the control plane like any agent's.
pub(crate) struct FakeAgent {
    socket: UdpSocket,
    state: Arc<State>,
}

impl FakeAgent {
    /// Has an address, answers nothing yet.
    pub(crate) fn bind() -> Self {
        Self { socket: UdpSocket::bind("127.0.0.1:0").unwrap(), state: Arc::default() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// The policy version it was given last.
    pub(crate) fn policy_version(&self) -> u64 {
        self.state.version.load(Ordering::SeqCst)
    }

    /// How many messages it was given.
    pub(crate) fn received(&self) -> u64 {
        self.state.received.load(Ordering::SeqCst)
    }

    pub(crate) fn forget(&self) {
        self.state.version.store(0, Ordering::SeqCst);
    }

    /// Answers from now on, with the certificate it joined with.
    pub(crate) fn serve(&self, key: &NodeKey, enrolment: &Enrolment) {
        self.serve_as(key, &enrolment.certificate_pem, &enrolment.bundle_pem);
    }

    pub(crate) fn serve_as(&self, key: &NodeKey, certificate_pem: &str, bundle_pem: &str) {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(bundle_pem)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate(certificate_pem)], key.der())
            .unwrap();
        tls.alpn_protocols = vec![ALPN_MESH.to_vec()];
        let config = QuicServerConfig::try_from(tls).unwrap();
        let (socket, state) = (self.socket.try_clone().unwrap(), self.state.clone());
        let address = self.address();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let config = quinn::ServerConfig::with_crypto(Arc::new(config));
                let endpoint = Endpoint::new(
                    EndpointConfig::default(),
                    Some(config),
                    socket,
                    Arc::new(TokioRuntime),
                )
                .unwrap();
                while let Some(incoming) = endpoint.accept().await {
                    // A push that is refused or broken off is the test's to notice.
                    let _ = answer(incoming, &state, address).await;
                }
            });
        });
    }
}

async fn answer(
    incoming: quinn::Incoming,
    state: &State,
    address: SocketAddr,
) -> Result<(), Box<dyn std::error::Error>> {
    let connection = incoming.await?;
    let (mut send, mut receive) = connection.accept_bi().await?;
    let message = receive.read_to_end(MAX_MESSAGE).await?;
    state.received.fetch_add(1, Ordering::SeqCst);
    let Some(Message::Documents(documents)) = Message::decode(&message)? else {
        return Err("not documents".into());
    };
    let policy = |d: &&SignedDocument| d.kind == DocumentKind::Policy;
    if let Some(document) = documents.iter().find(policy) {
        state.version.store(document.version, Ordering::SeqCst);
    }
    let version = state.version.load(Ordering::SeqCst);
    let ack = DocumentsAck {
        versions: vec![(DocumentKind::Policy, version), (DocumentKind::Trust, 1)],
        members: vec![(hearth_proto::ids::NodeName::parse("web-1")?, address, version)],
        refused: Vec::new(),
    };
    send.write_all(&Message::DocumentsAck(ack).encode()?).await?;
    send.finish()?;
    connection.closed().await;
    Ok(())
}

/// Answers every request on a unix socket with `json`.
pub(crate) fn answer_on_socket(path: &str, json: &str) {
    let listener = UnixListener::bind(path).unwrap();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{json}",
        json.len()
    );
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}
