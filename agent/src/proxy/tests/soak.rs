//! Load over a real mesh of three, faults included. Not part of the ordinary run: it takes a while.
//! `cargo test -p hearth-agent --lib soak -- --ignored --nocapture`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hearth_proto::policy::ServicePolicy;

use super::mesh::{App, Host, client, relayed};
use crate::identity::authority::Authority;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes ten seconds of full load"]
async fn under_full_load_no_request_fails_and_the_cut_of_a_path_is_noticed() {
    let authority = Authority::new("mesh.example");
    let (app_b, app_c) = (App::start("b").await, App::start("c").await);
    let a = Host::start(&authority, "a", None).await;
    let (b, relay) = relayed(&authority, "b", &app_b).await;
    let c = Host::start(&authority, "c", Some(app_c.address)).await;
    let to = [("b", relay.address), ("c", c.agent.address)];
    a.route(&to, ServicePolicy::default());
    let (sent, failed, slowest) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let end = Instant::now() + Duration::from_secs(10);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (sent, failed, slowest) = (sent.clone(), failed.clone(), slowest.clone());
        let uri: http::Uri = format!("http://{}/", a.upstream).parse().unwrap();
        tasks.spawn(async move {
            let client = client();
            while Instant::now() < end {
                let started = Instant::now();
                let ok = client.get(uri.clone()).await.is_ok_and(|r| r.status() == 200);
                sent.fetch_add(1, Ordering::Relaxed);
                failed.fetch_add(usize::from(!ok), Ordering::Relaxed);
                let ms = usize::try_from(started.elapsed().as_millis()).unwrap();
                slowest.fetch_max(ms, Ordering::Relaxed);
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let silences = a.agent.metrics.silences.get();
    println!(
        "after 5 s: sent {} failed {} slowest {} ms, silences {silences}",
        sent.load(Ordering::Relaxed),
        failed.load(Ordering::Relaxed),
        slowest.swap(0, Ordering::Relaxed)
    );
    relay.cut();
    let cut = Instant::now();
    while a.agent.links.views().iter().all(|v| v.state == "up") {
        assert!(cut.elapsed() < Duration::from_secs(2), "the cut was not noticed");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("cut noticed after {:?}", cut.elapsed());
    a.route(&to[1..], ServicePolicy::default());
    tasks.join_all().await;
    println!(
        "at the end: sent {} failed {} slowest since the cut {} ms, retries: silent {}, hedge {}",
        sent.load(Ordering::Relaxed),
        failed.load(Ordering::Relaxed),
        slowest.load(Ordering::Relaxed),
        a.retries("silent"),
        a.retries("hedge"),
    );
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    drop(b);
}
