//! The API as a node sees it: HTTPS with or without a certificate of its own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::daemon::Daemon;

/// A node's key.
pub(crate) struct NodeKey(KeyPair);

impl NodeKey {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate().unwrap())
    }

    pub(crate) fn csr(&self) -> String {
        CertificateParams::default().serialize_request(&self.0).unwrap().pem().unwrap()
    }

    /// A certificate it signed itself.
    pub(crate) fn own_certificate(&self) -> String {
        CertificateParams::new(["web-1".to_owned()]).unwrap().self_signed(&self.0).unwrap().pem()
    }

    pub(crate) fn der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.0.serialize_pem().as_bytes()).unwrap()
    }
}

pub(crate) fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// What was answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
}

/// The API of a daemon.
pub(crate) struct Api {
    address: SocketAddr,
    root: CertificateDer<'static>,
    client: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl Api {
    pub(crate) fn of(daemon: &Daemon) -> Self {
        let pem = std::fs::read_to_string(format!("{}/root.pem", daemon.dir())).unwrap();
        let root = certificate(&pem);
        Self { address: daemon.address(), root, client: None, chain: Mutex::default() }
    }

    /// The same with a client certificate.
    pub(crate) fn as_node(&self, key: &NodeKey, certificate_pem: &str) -> Self {
        Self {
            address: self.address,
            root: self.root.clone(),
            client: Some((certificate(certificate_pem), key.der())),
            chain: Mutex::default(),
        }
    }

    /// The certificates the server sends.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.post("/", &());
        self.chain.lock().unwrap().clone()
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &impl Serialize) -> Answer {
        self.try_post(path, body).unwrap()
    }

    pub(crate) fn try_post(&self, path: &str, body: &impl Serialize) -> std::io::Result<Answer> {
        self.exchange(path, serde_json::to_vec(body).unwrap())
    }

    #[track_caller]
    pub(crate) fn post_bytes(&self, path: &str, body: Vec<u8>) -> Answer {
        self.exchange(path, body).unwrap()
    }

    fn exchange(&self, path: &str, body: Vec<u8>) -> std::io::Result<Answer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.exchange_async(path, body))
    }

    async fn exchange_async(&self, path: &str, body: Vec<u8>) -> std::io::Result<Answer> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        // An ordinary client: it checks the address against the names in the certificate.
        let config = match &self.client {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                config.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).unwrap()
            }
        };
        let stream = TcpStream::connect(self.address).await?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(self.address.ip().into(), stream).await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        *self.chain.lock().unwrap() = shown.iter().map(|c| c.clone().into_owned()).collect();
        let broken = std::io::Error::other::<hyper::Error>;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request =
            Request::post(path).header("host", "control").body(Full::new(Bytes::from(body)));
        let response = sender.send_request(request.unwrap()).await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        Ok(Answer { status, text: String::from_utf8_lossy(&body).into_owned() })
    }
}
