//! That a pair does what it is compared for: the files come through unchanged, and nobody without the
//! right certificate is served, in either direction. A pair that fails here is not measured.
//!
//! Over TLS 1.3 a client may believe for a moment that it is in, so what counts is whether one byte of an
//! answer comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hearth_proto::wire::{ALPN_DATA, ALPN_MESH};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use super::authority::{Authority, Leaf, SERVER};
use super::error::BenchError;
use super::pair::Pair;
use super::peers::{self, Kind, Ports, Side, Subject};
use super::probe::fetch;
use super::speech::Speech;
use super::world::World;
use super::{LARGE, SMALL};
use crate::lab::wait::wait_for;
use crate::loopback::free_ports;

const PATIENCE: Duration = Duration::from_secs(3);

/// Checks a pair that is up.
///
/// # Errors
/// [`BenchError::NotComparable`] with what it let pass.
pub fn check(world: &World, subject: Subject, pair: &Pair) -> Result<(), BenchError> {
    let bad = BenchError::NotComparable;
    let large = fetch(pair.entry, LARGE, Duration::from_secs(20)).map_err(bad)?;
    if large != world.large {
        return Err(bad("the large file came through changed".to_owned()));
    }
    let Some(inbound) = pair.inbound else {
        return Ok(());
    };
    match subject.alpn() {
        None => mesh_port(world, inbound).map_err(bad),
        Some(alpn) => {
            inbound_refuses(&world.authority, inbound, alpn).map_err(bad)?;
            outbound_refuses(world, subject).and_then(|refused| refused.map_err(bad))
        }
    }
}

/// The application's sidecar answers the other one, and neither a client without a certificate nor one
/// with a stranger's.
fn inbound_refuses(authority: &Authority, to: SocketAddr, alpn: &str) -> Result<(), String> {
    match answered(to, alpn, Some(&authority.client)) {
        Ok(true) => {}
        other => return Err(format!("does not answer the right certificate: {other:?}")),
    }
    let cases = [("no", None), ("a stranger's", Some(&authority.stranger_client))];
    match cases.iter().find(|(_, leaf)| matches!(answered(to, alpn, *leaf), Ok(true))) {
        None => Ok(()),
        Some((which, _)) => Err(format!("answers a client that has {which} certificate")),
    }
}

/// Whether a TLS client with this certificate gets a byte of an answer. An error is the refusal, in words.
fn answered(to: SocketAddr, alpn: &str, leaf: Option<&Leaf>) -> Result<bool, String> {
    let mut stream = dial(to, alpn.as_bytes(), leaf)?;
    let hello = match alpn {
        // The preface and an empty SETTINGS frame.
        "h2" => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        _ => format!("GET {SMALL} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes(),
    };
    stream.write_all(&hello).map_err(|e| e.to_string())?;
    let mut first = [0; 64];
    let read = stream.read(&mut first).map_err(|e| e.to_string())?;
    // nginx completes the handshake and says no in HTTP: that is a refusal, too.
    let said_no = first[..read].starts_with(b"HTTP/1.1 400");
    Ok(read > 0 && !said_no)
}

type TlsStream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// A TLS client on a TCP connection; the handshake comes with its first read or write.
fn dial(to: SocketAddr, alpn: &[u8], leaf: Option<&Leaf>) -> Result<TlsStream, String> {
    let mut config = client(leaf)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::try_from(SERVER).map_err(|e| e.to_string())?;
    let tls = rustls::ClientConnection::new(Arc::new(config), name).map_err(|e| e.to_string())?;
    let tcp = TcpStream::connect_timeout(&to, PATIENCE).map_err(|e| e.to_string())?;
    tcp.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    Ok(rustls::StreamOwned::new(tls, tcp))
}

/// The caller's sidecar sends nothing to a server whose certificate a stranger made.
fn outbound_refuses(world: &World, subject: Subject) -> Result<Result<(), String>, BenchError> {
    let [a] = free_ports();
    let impostor = match Impostor::start(&world.authority.stranger_server, subject) {
        Ok(impostor) => impostor,
        Err(reason) => return Ok(Err(reason)),
    };
    let app = world.application(Speech::Http)?.address;
    let ports = Ports { a, b: impostor.address, app };
    let kind = Kind { subject, speech: Speech::Http };
    let started = peers::start(&world.place, &world.authority, kind, Side::Out, ports)?;
    let answer =
        wait_for("an answer about an impostor", Duration::from_secs(10), || {
            match fetch(a, SMALL, PATIENCE) {
                Err(seen) if !seen.contains("HTTP/1.1 5") => Err(seen),
                other => Ok(other),
            }
        })?;
    for process in started {
        process.kill()?;
    }
    Ok(match (answer, impostor.served()) {
        (Err(_), false) => Ok(()),
        (answer, served) => Err(format!(
            "calls a server with a stranger's certificate (it was sent a request: {served}; \
             the caller was told: {:?})",
            answer.map(|body| body.len())
        )),
    })
}

/// A server with the right name and the wrong authority.
struct Impostor {
    address: SocketAddr,
    served: Arc<AtomicBool>,
}

impl Impostor {
    fn start(leaf: &Leaf, subject: Subject) -> Result<Self, String> {
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|c| c.with_no_client_auth().with_single_cert(leaf.chain(), leaf.key()))
            .map_err(|e| e.to_string())?;
        config.alpn_protocols = vec![subject.alpn().unwrap_or_default().as_bytes().to_vec()];
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let served = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&served);
        // Ends with the program; nothing is served that would keep it busy.
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let _ = tcp.set_read_timeout(Some(PATIENCE));
                let Ok(tls) = rustls::ServerConnection::new(Arc::clone(&config)) else { continue };
                // Noted before the connection is closed: the caller acts on the close.
                let mut stream = rustls::StreamOwned::new(tls, tcp);
                let read = stream.read(&mut [0; 64]);
                if matches!(read, Ok(1..)) {
                    seen.store(true, Ordering::SeqCst);
                }
            }
        });
        Ok(Self { address, served })
    }

    fn served(&self) -> bool {
        self.served.load(Ordering::SeqCst)
    }
}

/// Hearth's mesh port: a client without the right certificate is thrown out, over QUIC and over TLS on
/// TCP, in both protocols.
fn mesh_port(world: &World, to: SocketAddr) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    // An agent told to do without lets nobody in there.
    let on_tcp = TcpStream::connect_timeout(&to, PATIENCE).is_ok();
    for leaf in [None, Some(&world.authority.stranger_client)] {
        for alpn in [ALPN_MESH, ALPN_DATA] {
            let which = if leaf.is_some() { "a stranger's" } else { "no" };
            let name = String::from_utf8_lossy(alpn);
            if !runtime.block_on(thrown_out(to, alpn, leaf))? {
                return Err(format!("keeps a QUIC client ({name}) that has {which} certificate"));
            }
            if on_tcp && !thrown_out_of_tcp(to, alpn, leaf)? {
                return Err(format!("keeps a TLS client ({name}) that has {which} certificate"));
            }
        }
    }
    Ok(())
}

async fn thrown_out(to: SocketAddr, alpn: &[u8], leaf: Option<&Leaf>) -> Result<bool, String> {
    let mut tls = client(leaf)?;
    tls.alpn_protocols = vec![alpn.to_vec()];
    let quic = QuicClientConfig::try_from(tls).map_err(|e| e.to_string())?;
    let endpoint =
        quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).map_err(|e| e.to_string())?;
    let config = quinn::ClientConfig::new(Arc::new(quic));
    let connecting = endpoint.connect_with(config, to, "hearth").map_err(|e| e.to_string())?;
    let Ok(connection) = connecting.await else {
        return Ok(true);
    };
    Ok(tokio::time::timeout(PATIENCE, connection.closed()).await.is_ok())
}

/// A server that says nothing until it is asked may keep whom it does not answer, so what counts is that
/// the connection ends.
fn thrown_out_of_tcp(to: SocketAddr, alpn: &[u8], leaf: Option<&Leaf>) -> Result<bool, String> {
    let mut stream = dial(to, alpn, leaf).map_err(|e| format!("TCP at {to}: {e}"))?;
    Ok(match stream.read(&mut [0; 64]) {
        Ok(read) => read == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    })
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A client that believes any server: what is tested is whether the server believes it.
fn client(leaf: Option<&Leaf>) -> Result<rustls::ClientConfig, String> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    match leaf {
        None => Ok(builder.with_no_client_auth()),
        Some(leaf) => {
            builder.with_client_auth_cert(leaf.chain(), leaf.key()).map_err(|e| e.to_string())
        }
    }
}

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
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loopback::Place;

    /// A sidecar as the bench sees it: TLS, and whoever is let in is answered.
    fn server(authority: &Authority, trusts: Option<&CertificateDer<'static>>) -> SocketAddr {
        let builder = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap();
        let builder = match trusts {
            None => builder.with_no_client_auth(),
            Some(root) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(root.clone()).unwrap();
                let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots),
                    provider(),
                );
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let leaf = &authority.server;
        let config = Arc::new(builder.with_single_cert(leaf.chain(), leaf.key()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = rustls::StreamOwned::new(tls, tcp);
                if stream.read(&mut [0; 256]).is_ok() {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                }
            }
        });
        address
    }

    fn authority(name: &str) -> (Place, Authority) {
        let place = Place::new(name).unwrap();
        let authority = Authority::new(&place).unwrap();
        (place, authority)
    }

    #[test]
    fn a_sidecar_that_answers_anybody_is_found_out_and_a_strict_one_passes() {
        let (_place, authority) = authority("refusal");
        let open = inbound_refuses(&authority, server(&authority, None), "http/1.1");
        assert!(open.unwrap_err().contains("no certificate"));
        let strict = server(&authority, Some(&authority.root));
        assert_eq!(inbound_refuses(&authority, strict, "http/1.1"), Ok(()));
    }

    #[test]
    fn a_sidecar_that_trusts_another_authority_is_found_out() {
        let (_place, authority) = authority("refusal-other");
        let wrong = server(&authority, Some(&authority.stranger_root));
        let refused = inbound_refuses(&authority, wrong, "http/1.1");
        assert!(refused.unwrap_err().contains("does not answer the right certificate"));
    }

    #[test]
    fn whoever_is_kept_on_tcp_was_not_thrown_out() {
        let (_place, authority) = authority("refusal-tcp");
        let kept = |server, leaf| thrown_out_of_tcp(server, b"any", leaf);
        let strict = server(&authority, Some(&authority.root));
        assert_eq!(kept(strict, None), Ok(true));
        assert_eq!(kept(strict, Some(&authority.stranger_client)), Ok(true));
        let open = server(&authority, None);
        assert_eq!(kept(open, None), Ok(false));
    }

    #[test]
    fn an_impostor_knows_when_it_was_sent_a_request() {
        let (_place, authority) = authority("impostor");
        let impostor = Impostor::start(&authority.stranger_server, Subject::NginxH1).unwrap();
        assert!(!impostor.served());
        // Believes any server: exactly what a sidecar must not do.
        let _ = answered(impostor.address, "http/1.1", Some(&authority.client));
        assert!(impostor.served());
    }
}
