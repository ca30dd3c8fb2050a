//! A host whose link comes and goes.

use std::time::Duration;

use hearth_proto::view::ExplainView;
use hearth_tests::lab::entry::in_lab;
use hearth_tests::lab::mesh::{Mesh, MeshSpec, Node, SERVICE, sketch};
use hearth_tests::load::LoadSpec;
use hearth_tests::strike::{FAILBACK, Run};

/// A hold shorter than the host is up: undamped, each flap would call somebody up anew.
const POLICY: &str =
    "[services.ledger]\nmode = \"hot-warm\"\nfailback = \"1s\"\ndamping = \"8s\"\n";
const DOWN: Duration = Duration::from_millis(1000);
const UP: Duration = Duration::from_millis(1500);
/// Half a minute of it.
const FLAPS: usize = 12;
/// Two flaps never damp; the third, within seven tenths of a half-life of each other, does. One more is allowed
/// for, should a busy machine be late with one of the first.
const TAKEN_BACK: usize = 3;
/// How often the caller's view is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What the caller's agent thought of the one that flaps, look by look.
#[derive(Debug, Default)]
struct Watch {
    picked: bool,
    /// Requests might go to it again.
    taken_back: usize,
    /// It served and did not count.
    damped: usize,
    /// In words, the last time.
    said: String,
    /// When it was taken back or left, and why.
    turns: Vec<String>,
}

impl Watch {
    fn look(&mut self, at: Duration, view: &ExplainView, id: &String) {
        let picked = view.route.picks.contains(id);
        self.taken_back += usize::from(picked && !self.picked);
        if picked != self.picked {
            let to = if picked { "taken back" } else { "left" };
            let said = view.sentences.iter().find(|s| s.starts_with(id.as_str()));
            let said = said.map_or("not said", String::as_str);
            self.turns.push(format!(
                "{:.2} s: {to}: {}: {said}",
                at.as_secs_f64(),
                view.route.reason
            ));
        }
        self.picked = picked;
        if view.route.damped > 0 {
            self.damped += 1;
            self.said = format!("{}: {}", view.route.reason, view.sentences.join(" "));
        }
    }

    /// Looks until this moment of the load's clock.
    fn until(&mut self, run: &Run, id: &String, end: Duration) {
        while run.load.mark() < end {
            self.look(run.load.mark(), &run.mesh.explain().unwrap(), id);
            std::thread::sleep(LOOK);
        }
    }
}

/// How often it was activated, as it says itself.
fn activations(node: &Node) -> u64 {
    let view = node.agent.explain(SERVICE).unwrap();
    let own = view.endpoints.into_iter().find(|e| e.endpoint == node.endpoint());
    own.and_then(|e| e.activations).map_or(0, |a| a.count + a.failures)
}

#[test]
fn an_endpoint_that_flaps_for_half_a_minute_is_not_taken_back_each_time_and_costs_nobody_a_request()
{
    in_lab(|lab| {
        let spec = MeshSpec { policy: POLICY.to_owned(), ..MeshSpec::default() };
        let run = Run::under(Mesh::start(lab, &spec).unwrap(), LoadSpec::new(Mesh::entry()));
        let flaps = &run.mesh.hot[0];
        let id = flaps.endpoint();
        let called_up = || run.mesh.warm.iter().map(activations).sum::<u64>();
        let before = called_up();
        let mark = run.load.mark();
        let mut watch = Watch { picked: true, ..Watch::default() };
        for _ in 0..FLAPS {
            let began = run.load.mark();
            flaps.host.black_hole().unwrap();
            watch.until(&run, &id, began + DOWN);
            flaps.host.heal().unwrap();
            watch.until(&run, &id, began + DOWN + UP);
        }
        let (phase, calls) = (run.load.since(mark), called_up() - before);
        println!(
            "{FLAPS} flaps: {} sent, {} failed, slowest {:.1} ms; taken back {} times, {calls} call-ups",
            phase.sent, phase.failed, phase.slowest_ms, watch.taken_back
        );
        println!("{}\ndamped in {} looks: {}", watch.turns.join("\n"), watch.damped, watch.said);
        assert_eq!(phase.failed, 0, "{phase:?}");
        assert!(watch.taken_back <= TAKEN_BACK, "{watch:?}");
        assert!(watch.said.contains("lost too often of late"), "{watch:?}");
        // One for each time that it counted again, and the first loss.
        assert!(calls <= 1 + TAKEN_BACK as u64, "{calls} call-ups in {FLAPS} flaps");

        let view = run.mesh.steady(FAILBACK).unwrap();
        assert_eq!(run.load.since(mark).failed, 0, "{}", sketch(&view));
        println!(
            "counts again {:.0} s after its first loss",
            (run.load.mark() - mark).as_secs_f64()
        );
    });
}
