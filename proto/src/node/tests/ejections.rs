//! Who is ejected for how it answers, how many at most, and how they return.

use super::*;
use crate::evidence::EJECT_BASE;
use crate::route::Share;

fn fails(lab: &mut Lab, node: &str, times: u32) {
    for _ in 0..times {
        let now = lab.now;
        lab.node("c1").handle_outcome(now, &at(node), Outcome::ServerError);
    }
}

fn is_ejected(lab: &Lab, node: &str) -> bool {
    matches!(lab.standing("c1", node), Standing::Out(Why::Ejected { .. }))
}

fn share(lab: &Lab, node: &str) -> Share {
    let snapshot = lab.nodes[&name("c1")].snapshot();
    let route = &snapshot.services[&ledger()];
    route.candidates.iter().find(|c| c.id == at(node)).unwrap().share
}

#[test]
fn at_most_half_of_those_that_should_serve_are_ejected_however_many_stand_by() {
    for (hosts, most) in [(2, 1), (3, 1), (4, 2), (5, 2)] {
        let hot = ["h1", "h2", "h3", "h4", "h5"][..hosts].to_vec();
        for warm in [vec![], vec!["w1", "w2", "w3"]] {
            let mut lab = Lab::new(&[vec!["c1"], hot.clone(), warm.clone()].concat());
            for host in &hot {
                fails(&mut lab, host, EJECT_AFTER * 3);
            }
            let out = hot.iter().filter(|host| is_ejected(&lab, host)).count();
            assert_eq!(out, most, "of {hosts}, with {} that stand by", warm.len());
        }
    }
}

#[test]
fn who_was_ejected_is_on_trial_until_it_answers() {
    let mut lab = Lab::new(&["c1", "h1", "h2", "h3"]);
    fails(&mut lab, "h1", EJECT_AFTER);
    assert!(is_ejected(&lab, "h1"));
    lab.run(EJECT_BASE.mul_f64(1.2));
    assert_eq!((lab.standing("c1", "h1"), share(&lab, "h1")), (Standing::Ready, Share::Trial));
    fails(&mut lab, "h1", 1);
    assert!(is_ejected(&lab, "h1"), "its first failure on trial");
    lab.run(EJECT_BASE.mul_f64(2.4));
    assert_eq!(share(&lab, "h1"), Share::Trial);
    let now = lab.now;
    lab.node("c1").handle_outcome(now, &at("h1"), Outcome::Answered { latency: ms(1) });
    lab.run(ms(1));
    assert_eq!(share(&lab, "h1"), Share::Full);
}

#[test]
fn the_last_one_left_is_tried_though_it_is_ejected() {
    let mut lab = Lab::new(&["c1", "h1", "h2"]);
    fails(&mut lab, "h1", EJECT_AFTER);
    lab.lose("h2");
    lab.run(Duration::from_millis(500));
    assert!(is_ejected(&lab, "h1"));
    assert!(matches!(lab.choice("c1"), Choice::Panic(v) if v.contains(&0)));
    let now = lab.now;
    lab.node("c1").handle_outcome(now, &at("h1"), Outcome::Answered { latency: ms(1) });
    lab.run(ms(1));
    assert_eq!(lab.choice("c1"), Choice::Serve(vec![0]));
}
