//! Survivors of known capacity: what they can do they go on doing, whatever is asked of them.
//!
//! A request takes [`SERVICE_MS`] of an application, and the policy lets [`AT_ONCE`] of them in at a time: an
//! endpoint can do [`EACH`] a second and no more. Both are large against what a busy machine adds.

use std::time::Duration;

use hearth_tests::lab::entry::in_lab;
use hearth_tests::lab::mesh::{Mesh, MeshSpec};
use hearth_tests::lab::wait::wait_for;
use hearth_tests::lab::web::Kind;
use hearth_tests::load::{LoadSpec, Sample};
use hearth_tests::strike::{Run, SOON};

use super::left;

const SERVICE_MS: u32 = 300;
const AT_ONCE: u32 = 30;
const EACH: u32 = AT_ONCE * 1000 / SERVICE_MS;
/// Nine tenths of what two can do.
const RATE: u32 = 2 * EACH * 9 / 10;
/// Figures are of so long a time.
const WINDOW: Duration = Duration::from_secs(10);
/// What is left of the capacity under load.
const GOODPUT: f64 = 0.95;

fn policy() -> String {
    format!("[services.ledger]\nmode = \"hot-hot\"\nramp = \"off\"\nmax_requests = {AT_ONCE}\n")
}

/// What became of the load in a stretch of time.
struct Goodput {
    per_second: f64,
    shed: usize,
}

/// The load of a [`WINDOW`] from now on. Whoever was not served was turned away in good order.
fn goodput(run: &Run, what: &str) -> Goodput {
    let mark = run.load.mark();
    run.sent_more((RATE * u32::try_from(WINDOW.as_secs()).unwrap()) as usize);
    let until = run.load.mark();
    let samples = run.load.samples();
    let ended: Vec<&Sample> =
        samples.iter().filter(|s| s.ended() >= mark && s.ended() < until).collect();
    let good = ended.iter().filter(|s| s.error.is_none());
    let slowest = good.clone().map(|s| s.latency).max().unwrap_or_default();
    #[allow(clippy::cast_precision_loss)]
    let per_second = good.count() as f64 / (until - mark).as_secs_f64();
    let goodput = Goodput { per_second, shed: none_but_shed(&ended, what) };
    println!(
        "{what}: {RATE}/s sent, {per_second:.1}/s served, {} shed, slowest {:.0} ms",
        goodput.shed,
        slowest.as_secs_f64() * 1000.0
    );
    goodput
}

/// How many were turned away, with a word when to come again. None may have failed otherwise.
fn none_but_shed(samples: &[&Sample], what: &str) -> usize {
    let failed: Vec<_> = samples.iter().filter(|s| s.error.is_some()).collect();
    let other: Vec<_> =
        failed.iter().filter(|s| s.status != 503 || s.retry_after.is_none()).collect();
    assert!(other.is_empty(), "{what}: {other:?}");
    failed.len()
}

/// One more host is lost; what is in flight settles.
fn lose(run: &Run, n: usize) {
    run.mesh.hot[n].host.black_hole().unwrap();
    left(&run.mesh, &run.mesh.hot[..=n]);
    run.sent_more(RATE as usize);
}

#[test]
fn survivors_serve_what_they_can_and_turn_the_rest_away_in_good_order() {
    in_lab(|lab| {
        let spec = MeshSpec { warm: 0, kind: Kind::App, policy: policy(), ..MeshSpec::default() };
        let load = LoadSpec {
            path: format!("/slow?ms={SERVICE_MS}"),
            rate: RATE,
            deadline: Duration::from_secs(15),
            ..LoadSpec::new(Mesh::entry())
        };
        let run = Run::under(Mesh::start(lab, &spec).unwrap(), load);
        let (rate, each) = (f64::from(RATE), f64::from(EACH));
        let start = run.load.mark();

        let three = goodput(&run, "three endpoints");
        assert_eq!(three.shed, 0);
        lose(&run, 0);
        let two = goodput(&run, "two of three, at 90 % of what they can do");
        assert!(two.per_second >= GOODPUT * rate, "{}/s", two.per_second);
        lose(&run, 1);
        let one = goodput(&run, "one of three, at 180 % of what it can do");
        assert!(one.per_second >= GOODPUT * each, "{}/s", one.per_second);
        assert!(one.shed > 0, "an endpoint did more than it can");

        run.mesh.hot.iter().for_each(|node| node.host.heal().unwrap());
        run.mesh.steady(SOON).unwrap();
        wait_for("nobody to be turned away any more", SOON, || {
            let lately = run.load.lately(Duration::from_secs(2));
            if lately.failed == 0 { Ok(()) } else { Err(format!("{lately:?}")) }
        })
        .unwrap();
        let samples = run.load.samples();
        let all: Vec<&Sample> = samples.iter().filter(|s| s.ended() >= start).collect();
        println!("{} of {} turned away in all", none_but_shed(&all, "all in all"), all.len());
    });
}
