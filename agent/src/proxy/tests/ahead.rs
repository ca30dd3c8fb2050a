//! Who is called up is connected with before anybody has a request for it.

use hearth_proto::advert::{Condition, Role};
use hearth_proto::evidence::{Standing, Why};
use hearth_proto::route::Choice;

use super::mesh::{App, Host, get, plain};
use crate::identity::authority::Authority;
use crate::link::LinkHealth;
use crate::link::tests::{healthy, name};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_being_activated_is_connected_with_before_a_request_goes_there() {
    let authority = Authority::new("mesh.example");
    let (app_b, app_c) = (App::start("b").await, App::start("c").await);
    let a = Host::start(&authority, "a", None).await;
    let b = Host::start(&authority, "b", Some(app_b.address)).await;
    let c = Host::start(&authority, "c", Some(app_c.address)).await;
    let activating = || {
        a.route(&[("b", b.agent.address), ("c", c.agent.address)], plain());
        let mut candidates = a.candidates();
        candidates[1].role = Role::Warm { priority: 0 };
        candidates[1].condition = Condition::Activating;
        candidates[1].standing = Standing::Out(Why::Condition(Condition::Activating));
        a.put(candidates, plain(), |_| Choice::Serve(vec![0]));
    };
    // Nobody here has called the service: nothing is dialled for it.
    activating();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(*a.agent.links.health(&name("c")).borrow(), LinkHealth::Down);
    assert_eq!(get(a.upstream, "/").await.status, 200);
    activating();
    healthy(&a.agent, &name("c"), LinkHealth::Up).await;
    assert_eq!(app_c.seen(), 0);
}
