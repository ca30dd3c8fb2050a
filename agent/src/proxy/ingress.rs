//! Clients outside the mesh: which of our services their requests are for, and what of them is believed.
//!
//! Decides by host and path, the most specific route first. A path is compared in the canonical form in
//! which it goes on, so that no two readings of it lead to two places. What a client says of whom it
//! forwards for is believed only of those the configuration trusts; from everybody else it is removed. Owns
//! the certificate it shows.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::ids::ServiceName;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::Inner;
use super::answer::Failure;
use super::outbound::{Door, authority, serve};
use super::target::canonical;
use crate::config::{HostPattern, Ingress, IngressRoute, IngressTls, Network};
use crate::pipe::Pipe;

/// A client that has not finished its handshake in so long is given up.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// What proxies say of whom they forward for: RFC 7239, and what was in use before.
const HEARSAY: [HeaderName; 6] = [
    http::header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    FORWARDED_PROTO,
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-real-ip"),
];

/// Why an ingress cannot show its certificate.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// A file cannot be read.
    #[error(
        "cannot read {} for the ingress {listen}: {why}\n  hint: it must be PEM, readable by the user the \
         agent runs as", path.display()
    )]
    Read {
        /// The port.
        listen: SocketAddr,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Key and certificate cannot be used.
    #[error(
        "cannot use {} with its key for the ingress {listen}: {why}\n  hint: the key must be the \
         certificate's own, the certificate the first of its file", path.display()
    )]
    Unusable {
        /// The port.
        listen: SocketAddr,
        /// The certificate.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// An ingress in use.
pub struct Gate {
    listen: SocketAddr,
    routes: Vec<IngressRoute>,
    trust: Vec<Network>,
    tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate({})", self.listen)
    }
}

/// Two gates are the same only if they are one: what their files held is part of them.
impl PartialEq for Gate {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Gate {}

impl Gate {
    /// Reads what the configuration names.
    pub fn new(ingress: &Ingress) -> Result<Self, GateError> {
        let tls = ingress.tls.as_ref().map(|tls| acceptor(ingress.listen, tls)).transpose()?;
        let mut routes = ingress.routes.clone();
        // Longest path first, so that the first route that fits a host best is the most specific one.
        routes.sort_by_key(|route| std::cmp::Reverse(route.path.len()));
        Ok(Self { listen: ingress.listen, routes, trust: ingress.trust.clone(), tls })
    }

    /// The port.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Serves a client's connection.
    pub(crate) async fn serve(
        self: Arc<Self>,
        inner: &Arc<Inner>,
        stream: TcpStream,
        client: SocketAddr,
        door: &Arc<Door>,
    ) {
        let pipe = match &self.tls {
            None => Pipe::Tcp(stream),
            Some(acceptor) => match timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => Pipe::Tunnel(Box::new(stream)),
                Ok(Err(error)) => {
                    return tracing::debug!(%client, %error, "handshake at the ingress failed");
                }
                Err(_) => return tracing::debug!(%client, "handshake at the ingress timed out"),
            },
        };
        serve(inner, pipe, client, door).await;
    }

    /// Takes a request in: whose it is, and nothing in it that its sender is not to be believed.
    pub(crate) fn receive<B>(
        &self,
        request: &mut Request<B>,
        client: IpAddr,
    ) -> Result<ServiceName, Failure> {
        let host = authority(request);
        let raw = request.uri().path_and_query().map_or("/", |p| p.as_str());
        // What `OPTIONS *` is about is no path; it goes where the root does.
        let target = match raw {
            "*" => std::borrow::Cow::Borrowed("/"),
            raw => canonical(raw).map_err(|bad| Failure::BadRequest(bad.to_string()))?,
        };
        let path = target.split_once('?').map_or(&*target, |(path, _query)| path);
        let service = self.route(&host, path).cloned();
        self.believe(request.headers_mut(), client);
        service.ok_or(Failure::NoRoute(host))
    }

    fn route(&self, host: &str, path: &str) -> Option<&ServiceName> {
        let host = bare(host);
        let best = |wanted: &dyn Fn(&HostPattern) -> bool| {
            let fits = |r: &&IngressRoute| r.hosts.iter().any(wanted) && is_below(path, &r.path);
            self.routes.iter().find(fits).map(|route| &route.service)
        };
        // The host decides before the path does, the longest name first.
        best(&|p| matches!(p, HostPattern::Exact(name) if *name == host))
            .or_else(|| {
                let mut rest = host.as_str();
                while let Some(dot) = rest.get(1..).and_then(|r| r.find('.')) {
                    rest = &rest[dot + 1..];
                    let below = |p: &HostPattern| matches!(p, HostPattern::Below(n) if n == rest);
                    if let Some(found) = best(&below) {
                        return Some(found);
                    }
                }
                None
            })
            .or_else(|| best(&|p| *p == HostPattern::Any))
    }

    fn believe(&self, headers: &mut HeaderMap, client: IpAddr) {
        if !self.trust.iter().any(|network| network.contains(client)) {
            HEARSAY.iter().for_each(|name| drop(headers.remove(name)));
        }
        let proto = if self.tls.is_some() { "https" } else { "http" };
        headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static(proto));
    }
}

/// The host without port and final dot, lower case.
fn bare(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Whether `path` is `beginning` or within it, in whole segments.
fn is_below(path: &str, beginning: &str) -> bool {
    let whole = beginning.strip_suffix('/').unwrap_or(beginning);
    path.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        && (path.len() >= beginning.len() || whole.is_empty())
}

fn acceptor(listen: SocketAddr, tls: &IngressTls) -> Result<TlsAcceptor, GateError> {
    let read = |path: &Path, why: String| GateError::Read { listen, path: path.to_owned(), why };
    let unusable = |why: String| {
        let path = tls.certificate.clone();
        GateError::Unusable { listen, path, why }
    };
    let chain = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| read(&tls.certificate, e.to_string()))?;
    if chain.is_empty() {
        return Err(read(&tls.certificate, "it holds no certificate".into()));
    }
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| read(&tls.key, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| unusable(e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| unusable(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests;
