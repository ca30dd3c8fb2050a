//! Who a certificate says it is.
//!
//! One rule for everybody Hearth talks to: exactly one URI name, it is a SPIFFE id of this trust
//! domain, and the certificate is none of an authority. Does not decide whether the certificate is to
//! be believed: chain and validity are the TLS stack's business and come first.

use std::net::IpAddr;

use hearth_proto::ids::{Identity, IdentityError, TrustDomain};
use hearth_proto::time::Wall;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a certificate names nobody of this mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamelessCertificate {
    /// The bytes are no certificate.
    #[error("certificate cannot be read: {0}")]
    Unreadable(String),
    /// Not exactly one URI.
    #[error("certificate has {0} URI names, exactly one is allowed")]
    UriNames(usize),
    /// An authority's certificate is nobody's identity.
    #[error("certificate is an authority's (CA), not a node's")]
    Authority,
    /// Not an id of this mesh.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

fn read(der: &[u8]) -> Result<X509Certificate<'_>, NamelessCertificate> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(NamelessCertificate::Unreadable("bytes are left over".into())),
        Err(e) => Err(NamelessCertificate::Unreadable(e.to_string())),
    }
}

fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, NamelessCertificate> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| NamelessCertificate::Unreadable(e.to_string()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|san| &san.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [uri] => Ok(uri),
        _ => Err(NamelessCertificate::UriNames(uris.len())),
    }
}

/// The identity in an end entity's certificate.
pub fn of(der: &[u8], domain: &TrustDomain) -> Result<Identity, NamelessCertificate> {
    let certificate = read(der)?;
    if certificate.is_ca() {
        return Err(NamelessCertificate::Authority);
    }
    Ok(Identity::parse(only_uri(&certificate)?, domain)?)
}

/// The trust domain a certificate (a root's too) belongs to.
pub fn domain_of(der: &[u8]) -> Result<TrustDomain, NamelessCertificate> {
    let certificate = read(der)?;
    let uri = only_uri(&certificate)?;
    let rest =
        uri.strip_prefix("spiffe://").ok_or_else(|| IdentityError::NotSpiffe(uri.to_owned()))?;
    let domain = rest.split('/').next().unwrap_or_default();
    TrustDomain::parse(domain).map_err(|_| IdentityError::Path(uri.to_owned()).into())
}

/// The hosts (DNS names, IP addresses) a certificate names, sorted.
pub fn hosts(der: &[u8]) -> Result<Vec<String>, NamelessCertificate> {
    let certificate = read(der)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| NamelessCertificate::Unreadable(e.to_string()))?;
    let names = names.iter().flat_map(|san| &san.value.general_names);
    let mut hosts: Vec<String> = names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|ip| ip.to_string()),
            _ => None,
        })
        .collect();
    hosts.sort();
    Ok(hosts)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// From when to when a certificate is valid.
pub fn validity(der: &[u8]) -> Result<(Wall, Wall), NamelessCertificate> {
    let certificate = read(der)?;
    let wall = |seconds: i64| Wall(u64::try_from(seconds).unwrap_or(0) * 1_000_000);
    let v = certificate.validity();
    Ok((wall(v.not_before.timestamp()), wall(v.not_after.timestamp())))
}
