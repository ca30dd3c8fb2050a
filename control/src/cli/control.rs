//! Asking the control plane, over HTTPS with the mesh's own root.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use hyper::body::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, Error as TlsError};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::http::{self, Ask};
use crate::directory::Directory;
use crate::failure::{Exit, Failure};
use crate::tls;

/// Where the control plane is and how to be let in, as given on the command line.
pub(super) struct Given<'a> {
    pub(super) url: Option<&'a str>,
    pub(super) token: Option<&'a str>,
    pub(super) ca: Option<&'a Path>,
    pub(super) dir: Option<&'a Path>,
}

/// A control plane's API.
#[derive(Debug)]
pub(super) struct Control {
    host: String,
    port: u16,
    token: String,
    roots: Vec<CertificateDer<'static>>,
    /// Where the roots were read from, for errors.
    roots_from: String,
}

/// Default port of the API.
const PORT: u16 = 7945;

impl Control {
    /// Puts together what was given; `--dir` fills what is missing.
    pub(super) fn new(given: &Given<'_>) -> Result<Self, Failure> {
        let directory = given.dir.map(Directory::find).transpose()?;
        let (host, port) = match (given.url, &directory) {
            (Some(url), _) => address(url)?,
            (None, Some(directory)) => bound(directory)?,
            (None, None) => {
                return Err(Failure::new(
                    Exit::Usage,
                    "where is the control plane?",
                    "--control https://HOST:7945 or HEARTH_CONTROL; on its own host: --dir \
                     /var/lib/hearth-control",
                ));
            }
        };
        let token = match (given.token, &directory) {
            (Some(token), _) => token.trim().to_owned(),
            (None, Some(directory)) => directory.operator_token()?,
            (None, None) => {
                return Err(Failure::new(
                    Exit::NoPermission,
                    "this needs an operator token",
                    "--token TOKEN or HEARTH_TOKEN; hearth-control init printed the first one",
                ));
            }
        };
        let (pem, roots_from) = match (given.ca, &directory) {
            (Some(file), _) => (read_ca(file)?, file.display().to_string()),
            (None, Some(directory)) => {
                (directory.bundle()?, directory.file("root.pem").display().to_string())
            }
            (None, None) => {
                return Err(Failure::new(
                    Exit::Usage,
                    "by which root is the control plane known?",
                    "--ca FILE or HEARTH_CA: root.pem of hearth-control's directory",
                ));
            }
        };
        let roots = roots(&pem, &roots_from)?;
        Ok(Self { host, port, token, roots, roots_from })
    }

    fn url(&self) -> String {
        match self.host.contains(':') {
            true => format!("https://[{}]:{}", self.host, self.port),
            false => format!("https://{}:{}", self.host, self.port),
        }
    }

    /// Asks and gives the body of a success.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Bytes, Failure> {
        let config = tls::to_control(&self.roots)
            .map_err(|e| Failure::new(Exit::Config, format!("{}: {e}", self.roots_from), ""))?;
        let connect = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(self.host.clone())
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
            TlsConnector::from(Arc::new(config)).connect(name, stream).await
        };
        let stream = match tokio::time::timeout(http::PATIENCE, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(&self.url(), &self.roots_from, &error)),
            Err(_) => {
                let error = io::ErrorKind::TimedOut.into();
                return Err(unreachable(&self.url(), &self.roots_from, &error));
            }
        };
        let answer = http::ask(stream, &self.host, Some(&self.token), ask).await;
        let answer = answer.map_err(|e| {
            Failure::new(
                Exit::Unavailable,
                format!("the control plane at {} does not answer: {e}", self.url()),
                "see its log; traffic does not need it",
            )
        })?;
        answer.success("the control plane")
    }
}

/// Host and port of `https://HOST[:PORT]`, or of `HOST[:PORT]`.
fn address(url: &str) -> Result<(String, u16), Failure> {
    let bad = |why: &str| {
        Failure::new(
            Exit::Usage,
            format!("--control {url:?}: {why}"),
            "write for example https://192.0.2.2:7945",
        )
    };
    let rest = match url.split_once("://") {
        Some(("https", rest)) => rest,
        Some((scheme, _)) => return Err(bad(&format!("{scheme}:// is not spoken, only https://"))),
        None => url,
    };
    let rest = rest.trim_end_matches('/');
    if let Ok(IpAddr::V6(v6)) = rest.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok((v6.to_string(), PORT));
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => {
            let number = port.parse().map_err(|_| bad(&format!("{port:?} is no port")))?;
            (host, number)
        }
        None => (rest, PORT),
    };
    let host = host.trim_matches(['[', ']']);
    if host.is_empty() || host.contains('/') {
        return Err(bad("there is no host in it"));
    }
    Ok((host.to_owned(), port))
}

/// Where the daemon of this directory listens.
fn bound(directory: &Directory) -> Result<(String, u16), Failure> {
    let listen = match std::fs::read_to_string(directory.file("listening")) {
        Ok(text) => text.trim().parse().ok(),
        Err(_) => None,
    };
    let listen: std::net::SocketAddr = match listen {
        Some(listen) => listen,
        None => directory.config()?.listen,
    };
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip.to_string(),
        IpAddr::V4(_) => "127.0.0.1".to_owned(),
        IpAddr::V6(_) => "::1".to_owned(),
    };
    Ok((ip, listen.port()))
}

fn read_ca(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|e| {
        let hint = "--ca takes root.pem of hearth-control's directory";
        Failure::new(Exit::NoInput, format!("cannot read {}: {e}", file.display()), hint)
    })
}

fn roots(pem: &str, from: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let hint = "--ca takes root.pem of hearth-control's directory";
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match roots {
        Ok(roots) if !roots.is_empty() => Ok(roots),
        Ok(_) => Err(Failure::new(Exit::Data, format!("{from} holds no certificate"), hint)),
        Err(e) => Err(Failure::new(Exit::Data, format!("{from} is not PEM: {e}"), hint)),
    }
}

fn unreachable(url: &str, roots_from: &str, error: &io::Error) -> Failure {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    let (what, hint) = match (tls, error.kind()) {
        (Some(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)), _)
        | (Some(TlsError::InvalidCertificate(CertificateError::BadSignature)), _) => (
            format!("{url} shows a certificate of another root than {roots_from}"),
            "take root.pem of that control plane; if it is the right one, somebody else answers there",
        ),
        (
            Some(TlsError::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            )),
            _,
        ) => (
            format!("{url} shows a certificate that is not valid now"),
            "compare the clocks of both hosts (date -u); restart hearth-control if it is right",
        ),
        (
            Some(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )),
            _,
        ) => (
            format!("the control plane's certificate does not name the host of {url}"),
            "add it to `addresses` in control.toml and restart hearth-control, or use a name that is \
             there",
        ),
        (Some(tls), _) => (
            format!("{url} is no control plane of this mesh: {tls}"),
            "check address and port (7945 is the default)",
        ),
        (None, io::ErrorKind::ConnectionRefused) => (
            format!("no control plane at {url}: nobody listens there"),
            "start it (systemctl start hearth-control), or check the port; traffic does not need it",
        ),
        (None, io::ErrorKind::TimedOut) => (
            format!("no control plane at {url}: no answer"),
            "is the host up, and the port open in its firewall? traffic does not need it",
        ),
        (None, _) => (
            format!("no control plane at {url}: {error}"),
            "check the address; traffic does not need it",
        ),
    };
    Failure::new(Exit::Unavailable, what, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_leave_out_scheme_and_port() {
        let read = |url: &str| address(url).unwrap();
        assert_eq!(read("https://192.0.2.2:7000/"), ("192.0.2.2".into(), 7000));
        assert_eq!(read("control.example"), ("control.example".into(), 7945));
        assert_eq!(read("https://[2001:db8::1]:7"), ("2001:db8::1".into(), 7));
        assert_eq!(read("2001:db8::1"), ("2001:db8::1".into(), 7945));
        assert_eq!(
            address("http://x").unwrap_err().to_string(),
            "error: --control \"http://x\": http:// is not spoken, only https://\n  hint: write for \
             example https://192.0.2.2:7945"
        );
        assert!(address("https://x:port").is_err());
        assert!(address("https://").is_err());
    }

    #[test]
    fn each_thing_that_is_missing_is_named() {
        let none = Given { url: None, token: None, ca: None, dir: None };
        let told = |given: &Given<'_>| Control::new(given).unwrap_err().to_string();
        assert_eq!(
            told(&none),
            "error: where is the control plane?\n  hint: --control https://HOST:7945 or \
             HEARTH_CONTROL; on its own host: --dir /var/lib/hearth-control"
        );
        let url = Given { url: Some("192.0.2.2"), ..none };
        assert_eq!(
            told(&url),
            "error: this needs an operator token\n  hint: --token TOKEN or HEARTH_TOKEN; \
             hearth-control init printed the first one"
        );
        let token = Given { token: Some("x"), ..url };
        assert_eq!(
            told(&token),
            "error: by which root is the control plane known?\n  hint: --ca FILE or HEARTH_CA: \
             root.pem of hearth-control's directory"
        );
        let ca = Given { ca: Some(Path::new("/nowhere/root.pem")), ..token };
        assert_eq!(
            told(&ca),
            "error: cannot read /nowhere/root.pem: No such file or directory (os error 2)\n  hint: \
             --ca takes root.pem of hearth-control's directory"
        );
    }

    #[test]
    fn each_way_not_to_reach_the_control_plane_says_what_to_do() {
        let told = |error: io::Error| {
            unreachable("https://192.0.2.2:7945", "root.pem", &error).to_string()
        };
        assert_eq!(
            told(io::ErrorKind::ConnectionRefused.into()),
            "error: no control plane at https://192.0.2.2:7945: nobody listens there\n  hint: start \
             it (systemctl start hearth-control), or check the port; traffic does not need it"
        );
        assert_eq!(
            told(io::ErrorKind::TimedOut.into()),
            "error: no control plane at https://192.0.2.2:7945: no answer\n  hint: is the host up, \
             and the port open in its firewall? traffic does not need it"
        );
        let other = TlsError::InvalidCertificate(CertificateError::UnknownIssuer);
        assert_eq!(
            told(io::Error::new(io::ErrorKind::InvalidData, other)),
            "error: https://192.0.2.2:7945 shows a certificate of another root than root.pem\n  \
             hint: take root.pem of that control plane; if it is the right one, somebody else \
             answers there"
        );
        let clock = TlsError::InvalidCertificate(CertificateError::NotValidYet);
        assert_eq!(
            told(io::Error::new(io::ErrorKind::InvalidData, clock)),
            "error: https://192.0.2.2:7945 shows a certificate that is not valid now\n  hint: \
             compare the clocks of both hosts (date -u); restart hearth-control if it is right"
        );
    }
}
