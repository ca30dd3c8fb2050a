//! How old what is known may be.

use super::*;

fn age(lab: &Lab, of: &str) -> f64 {
    let views = lab.nodes[&name("c1")].members_view(lab.now);
    views.iter().find(|view| view.node == name(of)).unwrap().record_age_s
}

#[test]
fn a_record_that_never_changes_is_as_fresh_as_the_last_comparison_that_found_it_alike() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "h3"]);
    let before = lab.nodes[&name("c1")].table().version(&name("h2"));
    // Heard of by nobody's link but compared with others.
    lab.run(Duration::from_secs(600));
    assert_eq!(lab.nodes[&name("c1")].table().version(&name("h2")), before);
    for host in ["h1", "h2", "h3"] {
        assert!(age(&lab, host) < 60.0, "{host}: {}", age(&lab, host));
    }
    assert!(lab.nodes[&name("c1")].census(lab.now).oldest_record < Duration::from_secs(60));
}

#[test]
fn a_host_that_hears_nobody_sees_its_table_age() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    lab.gone.extend(["h1", "h2"].map(name));
    let fresh = age(&lab, "h1");
    lab.run(Duration::from_secs(100));
    assert!((age(&lab, "h1") - fresh - 100.0).abs() < 1.0, "{fresh}, {}", age(&lab, "h1"));
}

#[test]
fn a_branch_in_which_somebody_holds_something_else_is_not_confirmed() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    lab.run(Duration::from_secs(30));
    let now = lab.now + Duration::from_secs(300);
    let node = lab.node("c1");
    let mut branches = node.table().tree().branches();
    let differs = crate::digest::leaf(&name("h1")) / crate::digest::FAN;
    branches[differs] ^= 1;
    let said =
        Message::Branches(crate::wire::Branches { of: crate::digest::Replica::Table, branches });
    node.handle_message(now, &Identity::Node(name("h2")), said);
    let views = node.members_view(now);
    let age = |of: &str| views.iter().find(|view| view.node == name(of)).unwrap().record_age_s;
    assert_ne!(differs, crate::digest::leaf(&name("h2")) / crate::digest::FAN, "of another branch");
    assert!(age("h1") > 200.0, "{}", age("h1"));
    assert!(age("h2") < 1.0, "{}", age("h2"));
}
