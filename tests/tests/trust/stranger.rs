//! Dials the mesh port without a certificate, as anybody may who can send a packet there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::wire;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

/// Dials, tries to speak, and returns how it ended. With TLS 1.3 the client believes for a moment that
/// it is in: refused it is all the same.
pub(crate) async fn dial_without_certificate(to: SocketAddr, alpn: &[u8]) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let connection = match endpoint.connect_with(config, to, "hearth").unwrap().await {
        Ok(connection) => connection,
        Err(error) => return error.to_string(),
    };
    if let Ok(mut stream) = connection.open_uni().await {
        let hello = wire::Message::Want(Vec::new()).encode().unwrap();
        // Whether it is taken is what the end of the connection tells.
        let _ = stream.write_all(&hello).await;
        let _ = stream.finish();
    }
    let end = tokio::time::timeout(Duration::from_secs(5), connection.closed()).await;
    end.map_or_else(|_| "still connected".to_owned(), |error| error.to_string())
}

/// Believes any server: what is tested is whether the server believes us.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
