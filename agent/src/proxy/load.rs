//! How busy each endpoint is as seen from here, requests under way and peak-EWMA latency; and how it
//! answered since the core was last told, for its judgement of outliers.
//!
//! The cost of an endpoint is its latency times the requests it has (+1), where latency jumps up at once
//! and decays over [`DECAY`] (as in Finagle's and linkerd's peak-EWMA). A hung endpoint grows expensive
//! with the first requests that do not return. Latencies count in powers of two from [`FLOOR_US`] on:
//! with few requests under way the cheaper of two would else always be the same one, and an endpoint
//! that was slow once would starve next to siblings that are as good. Read without a lock on every pick.
//!
//! An answer is counted by one addition to one counter; who asks for the sample takes and clears them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hearth_proto::balance::Measure;
use hearth_proto::ids::{EndpointId, ServiceName};
use hearth_proto::outlier::{BUCKETS, Sample, sample};

use crate::link::lock;

/// Over which time an old peak is forgotten. Finagle's and linkerd's 10 s keep an endpoint out for half a
/// minute after one slow answer when nothing else speaks against it.
const DECAY: Duration = Duration::from_secs(3);
/// Differences below this are noise of the machine, not of the endpoint.
const FLOOR_US: f64 = 1_024.0;
/// What an endpoint nobody has called yet is taken for: cheap enough to be tried soon.
const UNKNOWN_US: f64 = FLOOR_US;
/// Being turned away is quick, and must not look like being served quickly: it counts as an answer that took
/// twice the usual time, within these.
const TURNED_AWAY: (f64, f64) = (20_000.0, 1_000_000.0);

/// What is known of one endpoint.
#[derive(Debug)]
pub(crate) struct Load {
    under_way: AtomicU32,
    /// So many are connecting with it, before which others are preferred.
    away: AtomicU32,
    /// Latency in µs, the bits of an `f64`.
    latency: AtomicU64,
    /// When that was, in µs since `origin`.
    stamp: AtomicU64,
    /// The last request there failed: the next success is news.
    failed: AtomicBool,
    /// Failures since the last sample.
    failures: AtomicU32,
    /// Good answers since then, by the bucket of their latency.
    answers: [AtomicU32; BUCKETS],
    origin: Instant,
}

impl Load {
    fn new(origin: Instant) -> Self {
        Self {
            under_way: AtomicU32::new(0),
            away: AtomicU32::new(0),
            latency: AtomicU64::new(UNKNOWN_US.to_bits()),
            stamp: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            answers: std::array::from_fn(|_| AtomicU32::new(0)),
            origin,
        }
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX)
    }

    /// What one more request would cost, in no unit.
    pub(crate) fn cost(&self, now: Instant) -> u64 {
        if self.away.load(Ordering::Relaxed) > 0 {
            return u64::MAX;
        }
        let latency = self.decayed(self.micros(now)).max(FLOOR_US);
        let under_way = self.under_way.load(Ordering::Relaxed);
        (latency.log2().floor().exp2() * f64::from(under_way + 1)) as u64
    }

    /// It is being connected with: others are preferred until what is returned is dropped.
    pub(crate) fn away(self: &Arc<Self>) -> Away {
        self.away.fetch_add(1, Ordering::Relaxed);
        Away(self.clone())
    }

    /// What a balancer wants to know.
    pub(crate) fn measure(&self, what: Measure, now: Instant) -> u64 {
        match what {
            Measure::Cost => self.cost(now),
            Measure::UnderWay if self.away.load(Ordering::Relaxed) > 0 => u64::from(u32::MAX),
            Measure::UnderWay => u64::from(self.under_way.load(Ordering::Relaxed)),
        }
    }

    /// A request was turned away: it has too much to do.
    pub(crate) fn turned_away(&self, now: Instant) {
        let twice = 2.0 * self.decayed(self.micros(now));
        let (least, most) = TURNED_AWAY;
        self.observe(now, Duration::from_micros(twice.clamp(least, most) as u64));
    }

    fn decayed(&self, now: u64) -> f64 {
        let age = now.saturating_sub(self.stamp.load(Ordering::Relaxed));
        let latency = f64::from_bits(self.latency.load(Ordering::Relaxed));
        latency * (-(age as f64) / DECAY.as_micros() as f64).exp()
    }

    /// Takes in how long an answer took. Two at once may lose one of them; no harm is done.
    pub(crate) fn observe(&self, now: Instant, latency: Duration) {
        let now = self.micros(now);
        let sample = latency.as_micros() as f64;
        let old = self.decayed(now);
        let new = if sample > old {
            sample
        } else {
            let age = now.saturating_sub(self.stamp.load(Ordering::Relaxed));
            let weight = (-(age as f64) / DECAY.as_micros() as f64).exp();
            let last = f64::from_bits(self.latency.load(Ordering::Relaxed));
            // At least a hundredth per sample, so that a busy endpoint's peak is forgotten too.
            let weight = weight.min(0.99);
            last * weight + sample * (1.0 - weight)
        };
        self.latency.store(new.max(1.0).to_bits(), Ordering::Relaxed);
        self.stamp.store(now, Ordering::Relaxed);
    }

    /// A request there failed.
    pub(crate) fn failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.count_failure();
    }

    /// Counts an answer that is one, but of the kind that says that something is wrong.
    pub(crate) fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a good answer.
    pub(crate) fn count(&self, latency: Duration) {
        self.answers[sample::bucket(latency)].fetch_add(1, Ordering::Relaxed);
    }

    /// Takes in a good answer.
    pub(crate) fn answered(&self, now: Instant, latency: Duration) {
        self.observe(now, latency);
        self.count(latency);
    }

    /// What was counted since this was last asked. An answer that comes meanwhile is in this sample or the
    /// next.
    fn take_sample(&self) -> Sample {
        let take = |n: &AtomicU32| match n.load(Ordering::Relaxed) {
            0 => 0,
            _ => n.swap(0, Ordering::Relaxed),
        };
        Sample {
            failed: take(&self.failures),
            latencies: std::array::from_fn(|i| take(&self.answers[i])),
        }
    }

    /// A request there succeeded. `true`: for the first time after a failure.
    pub(crate) fn recovered(&self) -> bool {
        self.failed.load(Ordering::Relaxed) && self.failed.swap(false, Ordering::Relaxed)
    }
}

/// An endpoint is being connected with while this lives.
#[derive(Debug)]
pub(crate) struct Away(Arc<Load>);

impl Drop for Away {
    fn drop(&mut self) {
        self.0.away.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request counts as under way while this lives.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Load>);

impl UnderWay {
    pub(crate) fn new(load: &Arc<Load>) -> Self {
        load.under_way.fetch_add(1, Ordering::Relaxed);
        Self(load.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All endpoints that were ever called from here.
#[derive(Debug)]
pub(crate) struct Loads {
    map: ArcSwap<HashMap<EndpointId, Arc<Load>>>,
    /// Most requests under way at once by service, as seen whenever samples were taken.
    peaks: Mutex<BTreeMap<ServiceName, u32>>,
    origin: Instant,
}

impl Loads {
    pub(crate) fn new(origin: Instant) -> Self {
        Self { map: ArcSwap::default(), peaks: Mutex::default(), origin }
    }

    /// What a balancer wants to know of `id`.
    pub(crate) fn measure(&self, id: &EndpointId, what: Measure, now: Instant) -> u64 {
        match (self.map.load().get(id), what) {
            (Some(load), _) => load.measure(what, now),
            (None, Measure::Cost) => FLOOR_US as u64,
            (None, Measure::UnderWay) => 0,
        }
    }

    /// Whether it was ever called from here.
    pub(crate) fn is_known(&self, id: &EndpointId) -> bool {
        self.map.load().contains_key(id)
    }

    /// The load of `id`, from now on counted.
    pub(crate) fn of(&self, id: &EndpointId) -> Arc<Load> {
        if let Some(load) = self.map.load().get(id) {
            return load.clone();
        }
        let fresh = Arc::new(Load::new(self.origin));
        self.map.rcu(|map| {
            let mut map = HashMap::clone(map);
            map.entry(id.clone()).or_insert_with(|| fresh.clone());
            map
        });
        // Somebody else may have been first.
        self.map.load().get(id).cloned().unwrap_or(fresh)
    }

    /// What was counted at each endpoint since this was last asked, of those where anything was.
    pub(crate) fn samples(&self) -> Vec<(EndpointId, Sample)> {
        let map = self.map.load();
        self.note_peaks(&map);
        let all = map.iter().map(|(id, load)| (id, load.take_sample()));
        all.filter(|(_, s)| s.volume() > 0).map(|(id, s)| (id.clone(), s)).collect()
    }

    fn note_peaks(&self, map: &HashMap<EndpointId, Arc<Load>>) {
        let mut under_way: BTreeMap<&ServiceName, u32> = BTreeMap::new();
        for (id, load) in map {
            let n = load.under_way.load(Ordering::Relaxed);
            if n > 0 {
                *under_way.entry(&id.service).or_default() += n;
            }
        }
        let mut peaks = lock(&self.peaks);
        for (service, n) in under_way {
            let peak = peaks.entry(service.clone()).or_default();
            *peak = n.max(*peak);
        }
    }

    /// Most requests under way at once to a service, as looked at with each sample.
    pub(crate) fn peak(&self, service: &ServiceName) -> u32 {
        lock(&self.peaks).get(service).copied().unwrap_or_default()
    }

    /// Forgets the endpoints for which `keep` says no.
    pub(crate) fn retain(&self, keep: impl Fn(&EndpointId) -> bool) {
        if self.map.load().keys().all(&keep) {
            return;
        }
        self.map.rcu(|map| {
            let mut map = HashMap::clone(map);
            map.retain(|id, _| keep(id));
            map
        });
        let map = self.map.load();
        lock(&self.peaks).retain(|service, _| map.keys().any(|id| id.service == *service));
    }
}

#[cfg(test)]
mod tests {
    use hearth_proto::ids::{NodeName, ServiceName};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let t = Instant::now();
        let load = Load::new(t);
        load.observe(t, 100 * MS);
        assert_eq!(load.cost(t), 65_536, "100 ms, in powers of two");
        let later = t + DECAY;
        assert_eq!(load.cost(later), 32_768, "100 ms / e");
        for i in 0..1_000 {
            load.observe(t + i * MS, MS);
        }
        assert_eq!(load.cost(t + 1_000 * MS), FLOOR_US as u64);
    }

    #[test]
    fn endpoints_of_much_the_same_latency_cost_the_same() {
        let t = Instant::now();
        let (a, b) = (Load::new(t), Load::new(t));
        a.observe(t, MS / 2);
        b.observe(t, 2 * MS - MS / 10);
        assert_eq!(a.cost(t), b.cost(t));
    }

    #[test]
    fn requests_that_do_not_return_make_an_endpoint_expensive() {
        let t = Instant::now();
        let load = Arc::new(Load::new(t));
        load.observe(t, MS + MS / 2);
        let held: Vec<UnderWay> = (0..9).map(|_| UnderWay::new(&load)).collect();
        assert_eq!(load.cost(t), 10 * 1_024);
        drop(held);
        assert_eq!(load.cost(t), 1_024);
    }

    #[test]
    fn the_most_requests_under_way_at_once_are_remembered_by_service() {
        let loads = Loads::new(Instant::now());
        let on = |node: &str| EndpointId {
            service: ServiceName::parse("s").unwrap(),
            node: NodeName::parse(node).unwrap(),
            instance: 0,
        };
        let held = [UnderWay::new(&loads.of(&on("a"))), UnderWay::new(&loads.of(&on("b")))];
        loads.samples();
        drop(held);
        loads.samples();
        assert_eq!(loads.peak(&on("a").service), 2);
        loads.retain(|_| false);
        assert_eq!(loads.peak(&on("a").service), 0);
    }

    #[test]
    fn being_turned_away_makes_an_endpoint_expensive_though_it_is_quick() {
        let t = Instant::now();
        let load = Load::new(t);
        load.observe(t, MS);
        load.turned_away(t);
        assert_eq!(load.measure(Measure::Cost, t), 16_384, "20 ms, in powers of two");
        load.turned_away(t);
        assert_eq!(load.measure(Measure::Cost, t), 32_768);
        (0..20).for_each(|_| load.turned_away(t));
        assert_eq!(load.measure(Measure::Cost, t), 524_288, "a second at most");
        assert_eq!(load.measure(Measure::UnderWay, t), 0);
    }

    #[test]
    fn the_first_success_after_a_failure_is_news_once() {
        let load = Load::new(Instant::now());
        assert!(!load.recovered());
        load.failed();
        assert!(load.recovered());
        assert!(!load.recovered());
    }

    #[test]
    fn each_answer_is_in_exactly_one_sample() {
        let loads = Loads::new(Instant::now());
        let id = EndpointId {
            service: ServiceName::parse("s").unwrap(),
            node: NodeName::parse("n").unwrap(),
            instance: 0,
        };
        assert!(loads.samples().is_empty());
        let load = loads.of(&id);
        load.answered(Instant::now(), 3 * MS);
        load.answered(Instant::now(), 300 * MS);
        load.failed();
        load.count_failure();
        let mut expected = Sample { failed: 2, ..Sample::default() };
        expected.answered(3 * MS);
        expected.answered(300 * MS);
        assert_eq!(loads.samples(), [(id, expected)]);
        assert!(loads.samples().is_empty(), "they were told");
    }

    #[test]
    fn endpoints_come_with_their_first_request_and_go_when_nobody_keeps_them() {
        let loads = Loads::new(Instant::now());
        let id = EndpointId {
            service: ServiceName::parse("s").unwrap(),
            node: NodeName::parse("n").unwrap(),
            instance: 0,
        };
        assert!(Arc::ptr_eq(&loads.of(&id), &loads.of(&id)));
        loads.retain(|_| false);
        assert!(loads.map.load().is_empty());
    }
}
