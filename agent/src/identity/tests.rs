//! Credentials between two real TLS endpoints, and everything that must not pass.

use super::authority::Authority;

#[test]
fn an_authority_for_tests_issues_working_credentials() {
    let a = Authority::new("mesh.example");
    assert_eq!(a.node("web-1").node().as_str(), "web-1");
}
