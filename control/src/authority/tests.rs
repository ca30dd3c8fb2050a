use std::net::Ipv4Addr;

use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use x509_parser::extensions::GeneralName;

use super::*;

const NOW: Wall = Wall(1_795_426_568_000_000);

fn domain() -> TrustDomain {
    TrustDomain::parse("mesh.example").unwrap()
}

fn authority() -> Authority {
    let (key, root) = new_root(&domain(), NOW).unwrap();
    Authority::open(&key, &root, NODE_LIFE).unwrap()
}

fn web_1() -> NodeName {
    NodeName::parse("web-1").unwrap()
}

/// A request that asks for everything it must not get.
fn greedy_csr(key: &KeyPair) -> String {
    let mut params = CertificateParams::new(["control.example".to_owned()]).unwrap();
    params.subject_alt_names.push(uri("spiffe://mesh.example/control/control-1").unwrap());
    params.subject_alt_names.push(uri("spiffe://mesh.example/node/web-2").unwrap());
    params.distinguished_name.push(DnType::CommonName, "root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn names(der: &[u8]) -> Vec<String> {
    let (_, c) = x509_parser::parse_x509_certificate(der).unwrap();
    let san = c.subject_alternative_name().unwrap().unwrap();
    san.value
        .general_names
        .iter()
        .map(|name| match name {
            GeneralName::URI(uri) => format!("uri {uri}"),
            GeneralName::DNSName(name) => format!("dns {name}"),
            GeneralName::IPAddress(ip) => format!("ip {ip:?}"),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn of_a_greedy_request_only_the_key_is_used() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let issued = authority.issue_node(&greedy_csr(&key), &web_1(), NOW).unwrap();
    assert_eq!(names(&issued.der), ["uri spiffe://mesh.example/node/web-1"]);

    let (_, c) = x509_parser::parse_x509_certificate(&issued.der).unwrap();
    assert_eq!(c.public_key().raw, key.subject_public_key_info());
    assert_eq!(c.subject().to_string(), "CN=web-1");
    let constraints = c.basic_constraints().unwrap().expect("basic constraints are said");
    assert!(constraints.critical && !constraints.value.ca);
    let usage = c.key_usage().unwrap().unwrap();
    assert_eq!(usage.value.flags, 1, "digitalSignature and nothing else");
    let extended = c.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && extended.server_auth && !extended.any);
    assert_eq!(c.raw_serial_as_string().replace(':', ""), issued.serial);
    let (_, root) = x509_parser::parse_x509_certificate(authority.root()).unwrap();
    c.verify_signature(Some(root.public_key())).unwrap();
    assert_eq!(identity::of(&issued.der, &domain()), Ok(Identity::Node(web_1())));
}

#[test]
fn a_node_certificate_lives_a_day_and_began_five_minutes_ago() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let issued = authority.issue_node(&greedy_csr(&key), &web_1(), NOW).unwrap();
    let (from, to) = identity::validity(&issued.der).unwrap();
    assert_eq!(moment::between(from, NOW), BACKDATE);
    assert_eq!(moment::between(NOW, to), NODE_LIFE);
    assert_eq!(issued.expires, to);
}

#[test]
fn two_certificates_never_share_a_serial_number() {
    let authority = authority();
    let csr = greedy_csr(&KeyPair::generate().unwrap());
    let serial = || authority.issue_node(&csr, &web_1(), NOW).unwrap().serial;
    assert_ne!(serial(), serial());
}

#[test]
fn the_root_is_an_authority_of_its_domain_and_nobodys_identity() {
    let authority = authority();
    let (_, root) = x509_parser::parse_x509_certificate(authority.root()).unwrap();
    assert!(root.is_ca());
    assert_eq!(root.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
    assert_eq!(names(authority.root()), ["uri spiffe://mesh.example"]);
    assert_eq!(identity::domain_of(authority.root()), Ok(domain()));
    assert_eq!(identity::of(authority.root(), &domain()), Err(NamelessCertificate::Authority));
}

#[test]
fn the_control_certificate_has_one_uri_and_the_addresses() {
    let addresses =
        [Address::Ip(Ipv4Addr::LOCALHOST.into()), Address::parse("control.example").unwrap()];
    let name = NodeName::parse("control-1").unwrap();
    let made = authority().issue_control(&name, &addresses, NOW).unwrap();
    assert_eq!(
        names(&made.certificate.der),
        ["uri spiffe://mesh.example/control/control-1", "ip [127, 0, 0, 1]", "dns control.example"]
    );
    let found = identity::of(&made.certificate.der, &domain());
    assert_eq!(found, Ok(Identity::Control(name)));
}

#[test]
fn a_request_that_is_not_good_is_refused_with_its_reason() {
    let authority = authority();
    let told = |csr: &str| authority.issue_node(csr, &web_1(), NOW).unwrap_err().to_string();
    assert_eq!(
        told("hello"),
        "the certificate request cannot be read: it is not PEM with a CERTIFICATE REQUEST"
    );
    assert_eq!(
        told(authority.bundle_pem()),
        "the certificate request cannot be read: it is not PEM with a CERTIFICATE REQUEST"
    );
    assert_eq!(
        told("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n"),
        "the certificate request cannot be read: it is not PKCS #10"
    );
    assert_eq!(
        told(&"x".repeat(MAX_CSR + 1)),
        "the certificate request cannot be read: it has 16385 bytes, at most 16384 are allowed"
    );
    for kind in [&PKCS_ED25519, &PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(kind).unwrap();
        assert_eq!(
            told(&greedy_csr(&key)),
            "the certificate request has a key of another kind than ECDSA P-256"
        );
    }
}

#[test]
fn a_request_for_somebody_elses_key_is_refused() {
    let authority = authority();
    let (own, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let csr = greedy_csr(&own);
    let der = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).unwrap().to_vec();
    let at = |needle: &[u8]| der.windows(needle.len()).position(|w| w == needle).unwrap();
    let place = at(own.public_key_raw());
    let mut forged = der.clone();
    forged[place..place + own.public_key_raw().len()].copy_from_slice(other.public_key_raw());
    use base64::Engine;
    let pem = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        base64::engine::general_purpose::STANDARD.encode(&forged)
    );
    assert_eq!(authority.issue_node(&pem, &web_1(), NOW).unwrap_err(), AuthorityError::NotItsKey);
}

#[test]
fn a_root_with_another_key_is_not_taken_up() {
    let (_, root) = new_root(&domain(), NOW).unwrap();
    let (key, _) = new_root(&domain(), NOW).unwrap();
    let refused = Authority::open(&key, &root, NODE_LIFE).map(|_| ()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the root certificate or its key cannot be read: the key is not the certificate's"
    );
}
