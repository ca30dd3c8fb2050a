//! What is measured, what is better, and what Hearth is held to. Pure: figures in, judgements out.

use std::collections::BTreeMap;

use serde::Serialize;

use super::peers::Subject;

/// A figure of a pair in a round. The order is the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Requests per second, closed loop, 32 connections.
    Rps32,
    /// Requests per second, closed loop, 64 connections.
    Rps64,
    /// Processor seconds of both sides per million requests, at 32.
    Cpu32,
    /// Processor seconds of both sides per million requests, at 64.
    Cpu64,
    /// Of the caller's side alone, at 64.
    CpuA,
    /// Of the application's side alone, at 64.
    CpuB,
    /// Of the application, at 64.
    CpuApp,
    /// Of the client, at 64.
    CpuClient,
    /// Median latency at the fixed rate, ms.
    P50,
    /// 99th percentile at the fixed rate, ms.
    P99,
    /// Processor seconds of both sides per million requests, at the fixed rate.
    CpuAtRate,
    /// Large file, million bytes per second.
    Bulk,
    /// Processor seconds of both sides per GiB of it.
    CpuPerGib,
    /// Resident memory before any load, caller's side, MiB.
    RssIdleA,
    /// The same, application's side.
    RssIdleB,
    /// Resident memory under load at 64, caller's side, MiB.
    RssLoadA,
    /// The same, application's side.
    RssLoadB,
    /// Resident memory with many idle connections, caller's side, MiB.
    RssManyA,
    /// The same, application's side.
    RssManyB,
    /// Processor time of both sides while those connections are idle, percent of one core.
    CpuMany,
    /// gRPC calls per second, one message each way, 64 at a time.
    Calls,
    /// Processor seconds of both sides per million of them.
    CpuCalls,
    /// Messages per second that come back on 64 gRPC streams, one at a time on each.
    CallEchoes,
    /// Processor seconds of both sides per million of them.
    CpuCallEchoes,
    /// Messages per second that come on 16 gRPC streams, as many as go through.
    Streamed,
    /// Processor seconds of both sides per million of them.
    CpuStreamed,
    /// Messages per second that come back on 64 WebSockets, one at a time on each.
    Messages,
    /// Processor seconds of both sides per million of them.
    CpuMessages,
}

impl Metric {
    /// All, in order.
    pub const ALL: [Self; 28] = [
        Self::Rps32,
        Self::Rps64,
        Self::Cpu32,
        Self::Cpu64,
        Self::CpuA,
        Self::CpuB,
        Self::CpuApp,
        Self::CpuClient,
        Self::P50,
        Self::P99,
        Self::CpuAtRate,
        Self::Bulk,
        Self::CpuPerGib,
        Self::RssIdleA,
        Self::RssIdleB,
        Self::RssLoadA,
        Self::RssLoadB,
        Self::RssManyA,
        Self::RssManyB,
        Self::CpuMany,
        Self::Calls,
        Self::CpuCalls,
        Self::CallEchoes,
        Self::CpuCallEchoes,
        Self::Streamed,
        Self::CpuStreamed,
        Self::Messages,
        Self::CpuMessages,
    ];

    /// As it is printed, with its unit.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Rps32 => "req/s, 32 connections",
            Self::Rps64 => "req/s, 64 connections",
            Self::Cpu32 => "CPU-s per 1M, A+B, 32",
            Self::Cpu64 => "CPU-s per 1M, A+B, 64",
            Self::CpuA => "  of A",
            Self::CpuB => "  of B",
            Self::CpuApp => "  of the application",
            Self::CpuClient => "  of the client",
            Self::P50 => "p50 ms at 2,000 req/s",
            Self::P99 => "p99 ms at 2,000 req/s",
            Self::CpuAtRate => "CPU-s per 1M at 2,000",
            Self::Bulk => "bulk MB/s",
            Self::CpuPerGib => "CPU-s per GiB, A+B",
            Self::RssIdleA => "RSS MiB at rest, A",
            Self::RssIdleB => "RSS MiB at rest, B",
            Self::RssLoadA => "RSS MiB under load, A",
            Self::RssLoadB => "RSS MiB under load, B",
            Self::RssManyA => "RSS MiB, idle conns, A",
            Self::RssManyB => "RSS MiB, idle conns, B",
            Self::CpuMany => "CPU %, idle conns, A+B",
            Self::Calls => "gRPC calls/s",
            Self::CpuCalls => "CPU-s per 1M calls, A+B",
            Self::CallEchoes => "gRPC stream echoes/s",
            Self::CpuCallEchoes => "CPU-s per 1M echoes, A+B",
            Self::Streamed => "gRPC streamed messages/s",
            Self::CpuStreamed => "CPU-s per 1M, streamed",
            Self::Messages => "WebSocket echoes/s",
            Self::CpuMessages => "CPU-s per 1M, WebSocket",
        }
    }

    /// More of it is better.
    #[must_use]
    pub fn more_is_better(self) -> bool {
        let talks =
            matches!(self, Self::Calls | Self::CallEchoes | Self::Streamed | Self::Messages);
        talks || matches!(self, Self::Rps32 | Self::Rps64 | Self::Bulk)
    }
}

/// One figure over all rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut all: Vec<f64> = values.into_iter().collect();
        all.sort_by(f64::total_cmp);
        let (min, max) = (*all.first()?, *all.last()?);
        let middle = all.len() / 2;
        let median =
            if all.len() % 2 == 1 { all[middle] } else { (all[middle - 1] + all[middle]) / 2.0 };
        Some(Self { median, min, max })
    }
}

/// The figures of every pair, round by round.
pub type Rounds = BTreeMap<Subject, Vec<BTreeMap<Metric, f64>>>;
/// The same over all rounds.
pub type Summary = BTreeMap<Subject, BTreeMap<Metric, Spread>>;

/// Medians and ranges.
#[must_use]
pub fn summary(rounds: &Rounds) -> Summary {
    let spread = |all: &[BTreeMap<Metric, f64>], metric: Metric| {
        Spread::of(all.iter().filter_map(|round| round.get(&metric).copied()))
    };
    let of = |all: &[BTreeMap<Metric, f64>]| {
        Metric::ALL.iter().filter_map(|&m| Some((m, spread(all, m)?))).collect()
    };
    rounds.iter().map(|(&subject, all)| (subject, of(all))).collect()
}

/// What a figure of Hearth's is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The best of all peers in this figure.
    BestPeer,
    /// The best of Envoy's profiles in it.
    BestEnvoy,
    /// A number.
    Nothing,
}

/// A comparison, and mostly a goal: Hearth's figure over the other's, at least or at most (as is better)
/// `bound`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Goal {
    /// Which figure.
    pub metric: Metric,
    /// Held against what.
    pub against: Against,
    /// The ratio, or the number itself; none where no goal is set and the comparison is only shown.
    pub bound: Option<f64>,
}

const fn goal(metric: Metric, against: Against, bound: f64) -> Goal {
    Goal { metric, against, bound: Some(bound) }
}

const fn shown(metric: Metric) -> Goal {
    Goal { metric, against: Against::BestPeer, bound: None }
}

/// All goals for the cost of a pair, and what is shown beside them.
pub const GOALS: [Goal; 23] = [
    goal(Metric::Rps32, Against::BestPeer, 1.2),
    goal(Metric::Rps64, Against::BestPeer, 1.2),
    goal(Metric::Cpu32, Against::BestPeer, 0.75),
    goal(Metric::Cpu64, Against::BestPeer, 0.75),
    goal(Metric::Cpu32, Against::BestEnvoy, 0.25),
    goal(Metric::Cpu64, Against::BestEnvoy, 0.25),
    goal(Metric::P50, Against::BestPeer, 1.0),
    goal(Metric::P99, Against::BestPeer, 1.0),
    goal(Metric::CpuAtRate, Against::BestPeer, 1.0),
    goal(Metric::Bulk, Against::BestPeer, 1.0),
    goal(Metric::CpuPerGib, Against::BestPeer, 1.0),
    goal(Metric::RssIdleA, Against::Nothing, 12.0),
    goal(Metric::RssIdleB, Against::Nothing, 12.0),
    goal(Metric::RssManyA, Against::Nothing, 80.0),
    goal(Metric::RssManyB, Against::Nothing, 80.0),
    shown(Metric::Calls),
    shown(Metric::CpuCalls),
    shown(Metric::CallEchoes),
    shown(Metric::CpuCallEchoes),
    shown(Metric::Streamed),
    shown(Metric::CpuStreamed),
    shown(Metric::Messages),
    shown(Metric::CpuMessages),
];

/// What became of a goal, by the medians.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Reached.
    Met,
    /// Not reached.
    Missed,
    /// None was set.
    NoGoal,
}

/// A goal, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The goal.
    pub goal: Goal,
    /// Hearth's median.
    pub hearth: f64,
    /// The pair it is held against; none for a plain number.
    pub other: Option<Subject>,
    /// That pair's median.
    pub others: Option<f64>,
    /// Hearth's over the other's: of the medians, and the range over the rounds.
    pub ratio: Spread,
    /// What became of it.
    pub fate: Fate,
}

/// Judges every goal for which both figures are there.
#[must_use]
pub fn verdicts(rounds: &Rounds, summary: &Summary) -> Vec<Verdict> {
    GOALS.iter().filter_map(|&goal| verdict(goal, rounds, summary)).collect()
}

fn verdict(goal: Goal, rounds: &Rounds, summary: &Summary) -> Option<Verdict> {
    let hearth = *summary.get(&Subject::Hearth)?.get(&goal.metric)?;
    let other = match goal.against {
        Against::Nothing => None,
        Against::BestPeer => Some(best(goal.metric, summary, Subject::is_peer)?),
        Against::BestEnvoy => Some(best(goal.metric, summary, Subject::is_envoy)?),
    };
    let ratio = match other {
        None => hearth,
        Some((subject, theirs)) => {
            let pairs = rounds.get(&Subject::Hearth)?.iter().zip(rounds.get(&subject)?);
            let each = pairs.filter_map(|(ours, theirs)| {
                Some(ours.get(&goal.metric)? / theirs.get(&goal.metric)?)
            });
            Spread { median: hearth.median / theirs, ..Spread::of(each)? }
        }
    };
    let fate = match goal.bound {
        None => Fate::NoGoal,
        Some(bound) if goal.metric.more_is_better() && ratio.median >= bound => Fate::Met,
        Some(bound) if !goal.metric.more_is_better() && ratio.median <= bound => Fate::Met,
        Some(_) => Fate::Missed,
    };
    Some(Verdict {
        goal,
        hearth: hearth.median,
        other: other.map(|(subject, _)| subject),
        others: other.map(|(_, value)| value),
        ratio,
        fate,
    })
}

/// The best by median among those that pass, and its median.
fn best(metric: Metric, summary: &Summary, passes: fn(Subject) -> bool) -> Option<(Subject, f64)> {
    let all = summary.iter().filter(|(subject, _)| passes(**subject));
    let medians = all.filter_map(|(&subject, of)| Some((subject, of.get(&metric)?.median)));
    let sign = if metric.more_is_better() { -1.0 } else { 1.0 };
    medians.min_by(|a, b| (a.1 * sign).total_cmp(&(b.1 * sign)))
}

#[cfg(test)]
mod tests {
    use super::{Against, Fate, Metric, Rounds, Spread, Subject, summary, verdicts};

    fn rounds(all: &[(Subject, Metric, &[f64])]) -> Rounds {
        let mut rounds = Rounds::new();
        for (subject, metric, values) in all {
            let of = rounds.entry(*subject).or_default();
            of.resize(values.len(), Default::default());
            for (round, value) in of.iter_mut().zip(*values) {
                round.insert(*metric, *value);
            }
        }
        rounds
    }

    #[test]
    fn a_median_lies_in_the_middle_and_nothing_has_none() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn hearth_is_held_against_the_best_peer_and_never_against_no_sidecar() {
        let rounds = rounds(&[
            (Subject::Direct, Metric::Rps64, &[80_000.0]),
            (Subject::Hearth, Metric::Rps64, &[50_000.0]),
            (Subject::EnvoyH2, Metric::Rps64, &[10_000.0]),
            (Subject::HaproxyH2, Metric::Rps64, &[40_000.0]),
        ]);
        let all = verdicts(&rounds, &summary(&rounds));
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].other, all[0].fate), (Some(Subject::HaproxyH2), Fate::Met));
        assert_eq!(all[0].ratio.median, 1.25);
    }

    #[test]
    fn where_no_goal_is_set_the_best_peer_is_shown_beside_hearth() {
        let rounds = rounds(&[
            (Subject::Hearth, Metric::Messages, &[50.0]),
            (Subject::NginxH1, Metric::Messages, &[40.0]),
            (Subject::HaproxyH2, Metric::Messages, &[20.0]),
        ]);
        let all = verdicts(&rounds, &summary(&rounds));
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].other, all[0].fate), (Some(Subject::NginxH1), Fate::NoGoal));
        assert_eq!(all[0].ratio.median, 1.25);
    }

    #[test]
    fn less_is_better_where_it_is_a_cost_and_the_range_is_that_of_the_rounds() {
        let rounds = rounds(&[
            (Subject::Hearth, Metric::Cpu64, &[20.0, 30.0, 40.0]),
            (Subject::EnvoyH1, Metric::Cpu64, &[200.0, 200.0, 200.0]),
            (Subject::EnvoyH2, Metric::Cpu64, &[100.0, 100.0, 160.0]),
            (Subject::HaproxyH2, Metric::Cpu64, &[35.0, 36.0, 37.0]),
        ]);
        let all = verdicts(&rounds, &summary(&rounds));
        let of = |against| all.iter().find(|v| v.goal.against == against).unwrap();
        let peer = of(Against::BestPeer);
        assert_eq!((peer.other, peer.fate), (Some(Subject::HaproxyH2), Fate::Missed));
        let envoy = of(Against::BestEnvoy);
        assert_eq!((envoy.other, envoy.fate), (Some(Subject::EnvoyH2), Fate::Missed));
        assert_eq!((envoy.ratio.min, envoy.ratio.median, envoy.ratio.max), (0.2, 0.3, 0.3));
    }
}
