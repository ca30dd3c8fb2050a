//! An exclusive service on real processes: one host serves at a time, under terms that grow, whatever happens to it.
//!
//! Three owners, which call the service as well, and a caller that owns nothing. Each application notes under which
//! term each request came and when; over all hosts, in the order of these moments, terms never go down.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_proto::view::{ExplainView, LeaseView};
use hearth_tests::lab::Lab;
use hearth_tests::lab::entry::in_lab;
use hearth_tests::lab::mesh::{Mesh, MeshSpec, Node, SERVICE, sketch};
use hearth_tests::lab::wait::wait_for;
use hearth_tests::lab::web::Kind;
use hearth_tests::load::{Load, LoadSpec};
use hearth_tests::strike::SOON;

const LEASE: Duration = Duration::from_secs(3);
/// Longer than any lease that was granted before, by anybody's clock.
const PAST_THE_LEASE: Duration = Duration::from_secs(4);
/// A client that waits longer than its agent holds a request.
const PATIENT: Duration = Duration::from_secs(15);
const RATE: u32 = 100;

fn policy() -> String {
    format!(
        "[services.{SERVICE}]\nmode = \"exclusive\"\n\
         exclusive = {{ owners = [\"hot-1\", \"hot-2\", \"hot-3\"], lease = \"{}s\" }}\n",
        LEASE.as_secs()
    )
}

/// Who holds the lease, as the number of its host, and under which term.
type Holder = (usize, u64);

/// A mesh under the policy, and who holds the lease.
fn exclusive(lab: &Lab) -> (Mesh, Holder) {
    // A starved application is no subject here: its owner would give the lease back.
    let (calling, seldom_checked) = (true, true);
    let kind = Kind::App;
    let spec = MeshSpec { hot: 3, warm: 0, kind, calling, seldom_checked, ..MeshSpec::default() };
    let mesh = Mesh::start(lab, &spec).unwrap();
    mesh.apply(&policy()).unwrap();
    let holder = next_holder(&mesh, 0);
    (mesh, holder)
}

/// Waits until requests of the caller go to a holder whose term is above `term`.
fn next_holder(mesh: &Mesh, term: u64) -> Holder {
    let mut found = None;
    mesh.wait_view("another holder", SOON, |view| {
        found = holder_in(mesh, view).filter(|(_, now)| *now > term);
        found.is_some()
    })
    .unwrap();
    found.unwrap()
}

fn holder_in(mesh: &Mesh, view: &ExplainView) -> Option<Holder> {
    let [pick] = view.route.picks.as_slice() else { return None };
    let term = view.endpoints.iter().find(|e| e.endpoint == *pick)?.term?;
    let host = mesh.hot.iter().position(|node| node.endpoint() == *pick)?;
    Some((host, term))
}

/// The load of applications on a host.
fn calls_from(node: &Node) -> Load {
    let spec = LoadSpec { rate: RATE, deadline: PATIENT, ..LoadSpec::new(Mesh::entry()) };
    let load = Load::start(&node.host, spec).unwrap();
    answered(&load, node, 0, |_| true);
    load
}

/// Waits until some dozens of requests of `node`, sent after `mark`, were answered by whom `by` says.
fn answered(load: &Load, node: &Node, mark: u32, by: impl Fn(&str) -> bool) {
    let what = format!("requests of {} to be answered", node.host.name());
    wait_for(&what, SOON, || {
        let fits = |s: &&hearth_tests::load::Sample| s.number >= mark && by(&s.served_by);
        let samples = load.samples();
        let good = samples.iter().filter(fits).filter(|s| s.error.is_none()).count();
        if good >= 50 { Ok(()) } else { Err(format!("{good} of {}", samples.len())) }
    })
    .unwrap();
}

/// How many requests are on record.
fn sent(load: &Load) -> u32 {
    u32::try_from(load.samples().len()).unwrap()
}

/// Now, as the applications note it.
fn now_us() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// No term came after a greater one, and none at two hosts. Says from when to when each was seen.
fn terms_in_order(mesh: &Mesh) -> Vec<(u64, usize, u64, u64)> {
    let notes = mesh.hot.iter().enumerate().flat_map(|(host, node)| {
        node.app().terms().into_iter().map(move |(at, term)| (at, term, host))
    });
    let mut notes: Vec<(u64, u64, usize)> = notes.collect();
    notes.sort_unstable();
    let mut seen: Vec<(u64, usize, u64, u64)> = Vec::new();
    let mut hosts = BTreeMap::new();
    for (at, term, host) in notes {
        assert_eq!(*hosts.entry(term).or_insert(host), host, "term {term} at two hosts");
        match seen.last_mut() {
            Some(last) if last.0 == term => last.3 = at,
            Some(last) => {
                assert!(last.0 < term, "term {term} came {} us after term {}", at - last.3, last.0);
                seen.push((term, host, at, at));
            }
            None => seen.push((term, host, at, at)),
        }
    }
    for pair in seen.windows(2) {
        let gap = pair[1].2 - pair[0].3;
        println!("term {} followed term {} after {} ms", pair[1].0, pair[0].0, gap / 1_000);
    }
    seen
}

/// This owner's seat.
fn seat(node: &Node) -> Result<LeaseView, String> {
    let status = node.agent.status().map_err(|e| e.to_string())?;
    status.leases.into_iter().next().ok_or_else(|| "no seat".to_owned())
}

/// Waits until all owners agree: this one holds, the others follow.
fn all_agree(mesh: &Mesh, holder: usize) {
    wait_for("all owners to agree on the holder", SOON, || {
        let seats: Vec<String> =
            mesh.hot.iter().map(|node| seat(node).map(|s| s.seat)).collect::<Result<_, _>>()?;
        let as_wanted = seats
            .iter()
            .enumerate()
            .all(|(n, seat)| seat == if n == holder { "holds" } else { "follows" });
        if as_wanted { Ok(()) } else { Err(format!("{seats:?}")) }
    })
    .unwrap();
}

#[test]
fn when_the_holders_host_is_killed_another_serves_under_a_greater_term_and_no_get_fails() {
    in_lab(|lab| {
        let (mesh, (lost, term)) = exclusive(lab);
        let load = calls_from(&mesh.caller);
        all_agree(&mesh, lost);
        mesh.hot[lost].host.kill_all().unwrap();
        let (next, _) = next_holder(&mesh, term);
        assert_ne!(next, lost);
        answered(&load, &mesh.caller, sent(&load), |host| host == mesh.hot[next].host.name());
        let felt = load.since(Duration::ZERO);
        assert_eq!(felt.failed, 0, "{felt:?}");
        println!("slowest {:.0} ms, of a lease of {LEASE:?}", felt.slowest_ms);
        let seen = terms_in_order(&mesh);
        let hosts: Vec<usize> = seen.iter().map(|(_, host, ..)| *host).collect();
        assert_eq!((hosts.first(), hosts.last()), (Some(&lost), Some(&next)), "{seen:?}");
    });
}

#[test]
fn a_holder_that_is_cut_off_stops_before_another_starts_and_its_own_callers_are_told() {
    in_lab(|lab| {
        let (mesh, (cut, term)) = exclusive(lab);
        let (far, near) = (calls_from(&mesh.caller), calls_from(&mesh.hot[cut]));
        let (at, mark) = (now_us(), sent(&near));
        mesh.hot[cut].host.black_hole().unwrap();
        let (next, _) = next_holder(&mesh, term);
        assert_ne!(next, cut);

        let said = wait_for("the minority to say why it does not serve", SOON, || {
            let seat = seat(&mesh.hot[cut])?;
            if seat.seat == "minority" { Ok(seat.sentence) } else { Err(format!("{seat:?}")) }
        })
        .unwrap();
        assert!(said.contains("1 of 3 owners would grant the lease, 2 are needed"), "{said}");
        let told = wait_for("the minority's callers to be told", SOON, || {
            let samples = near.samples();
            let told = samples.iter().find(|s| s.number >= mark && s.status == 503).cloned();
            told.ok_or_else(|| format!("{:?}", samples.last()))
        })
        .unwrap();
        assert!(told.retry_after.is_some() && told.served_by.contains("hearth"), "{told:?}");

        mesh.hot[cut].host.heal().unwrap();
        let (holder, _) = next_holder(&mesh, term);
        all_agree(&mesh, holder);
        answered(&near, &mesh.hot[cut], sent(&near), |host| host == mesh.hot[holder].host.name());
        let seen = terms_in_order(&mesh);
        let last_of_the_cut = seen.iter().rfind(|(_, host, ..)| *host == cut).unwrap().3;
        assert!(last_of_the_cut > at, "it went on for its own callers while it could: {seen:?}");
        assert_eq!(far.since(Duration::ZERO).failed, 0, "{:?}", far.since(Duration::ZERO));
    });
}

#[test]
fn an_agent_stopped_past_its_lease_passes_nothing_on_when_it_wakes() {
    in_lab(|lab| {
        let (mesh, (asleep, term)) = exclusive(lab);
        let (far, near) = (calls_from(&mesh.caller), calls_from(&mesh.hot[asleep]));
        mesh.hot[asleep].agent.process().stop().unwrap();
        // What it had in its hands when it stopped is with the application soon.
        std::thread::sleep(Duration::from_millis(500));
        let (at, mark) = (now_us(), sent(&near));
        let (next, _) = next_holder(&mesh, term);
        assert_ne!(next, asleep);
        let slept = Duration::from_micros(now_us() - at);
        std::thread::sleep(PAST_THE_LEASE.saturating_sub(slept));
        mesh.hot[asleep].agent.process().cont().unwrap();
        // Those that its own host's applications had sent to it meanwhile are the first it reads.
        answered(&near, &mesh.hot[asleep], mark, |_| true);
        let (holder, _) = next_holder(&mesh, term);
        all_agree(&mesh, holder);
        let seen = terms_in_order(&mesh);
        let last = seen.iter().find(|(of, ..)| *of == term).unwrap().3;
        assert!(last < at, "its old term was used {} ms later: {seen:?}", (last - at) / 1_000);
        for load in [near, far] {
            assert_eq!(load.since(Duration::ZERO).failed, 0, "{:?}", load.since(Duration::ZERO));
        }
    });
}

#[test]
fn owners_keep_their_promises_over_a_restart_and_one_that_lost_them_does_not_vote() {
    in_lab(|lab| {
        let (mesh, (_, term)) = exclusive(lab);
        let restart = |node: &Node| node.agent.restart().unwrap();
        mesh.hot.iter().for_each(|node| node.agent.process().kill().unwrap());
        mesh.hot.iter().for_each(restart);
        // Far sooner than whoever has no memory may vote.
        let (_, after) = next_holder(&mesh, term);
        assert!(after > term);

        let (holder, _) = next_holder(&mesh, 0);
        let wiped = &mesh.hot[(holder + 1) % 3];
        wiped.agent.process().kill().unwrap();
        std::fs::remove_file(wiped.host.dir().join("state/promises.bin")).unwrap();
        restart(wiped);
        let blank = wait_for("the wiped owner's seat", SOON, || seat(wiped)).unwrap();
        assert_eq!(blank.seat, "blank", "{blank:?}");
        assert!(blank.sentence.contains("has no memory of what it promised"), "{blank:?}");
        let view = mesh.explain().unwrap();
        assert_eq!(holder_in(&mesh, &view).map(|(n, _)| n), Some(holder), "{}", sketch(&view));
    });
}
