//! Availability theory's closed forms: each small model that has a formula, as a function of its own.
//!
//! They are the references the general model is tested against, and what the shortcuts are measured
//! by. λ is `failure`, μ `repair`, a `warm_share`, δ `takeover`, c `coverage`, β `recovery`. None
//! subtracts nearly equal numbers: each gives the small quantity itself.

use super::input::{Hours, Rate, Share};

/// U of one endpoint, λ/(λ+μ).
pub fn single_unavailability(failure: Rate, repair: Rate) -> f64 {
    failure.per_hour() / (failure.per_hour() + repair.per_hour())
}

/// A(t) of one endpoint that was up at 0.
pub fn single_availability_at(failure: Rate, repair: Rate, time: Hours) -> f64 {
    let both = failure.per_hour() + repair.per_hour();
    (repair.per_hour() + failure.per_hour() * (-both * time.hours()).exp()) / both
}

/// R(t) of one endpoint: the probability of no failure up to then.
pub fn reliability(failure: Rate, time: Hours) -> f64 {
    (-failure.per_hour() * time.hours()).exp()
}

/// Steady state of a birth-death chain with `births[i]` from i to i+1 and `deaths[i]` back; the shorter
/// of the two lists decides how many states there are.
pub fn birth_death(births: &[Rate], deaths: &[Rate]) -> Vec<f64> {
    let mut pi = vec![1.0];
    for (birth, death) in births.iter().zip(deaths) {
        let last = pi[pi.len() - 1];
        pi.push(last * birth.per_hour() / death.per_hour());
    }
    let total: f64 = pi.iter().sum();
    pi.into_iter().map(|share| share / total).collect()
}

/// U of k of n hot endpoints, each with a crew of its own and unavailable for the share `single`.
pub fn k_of_n_unavailability(needed: u32, of: u32, single: Share) -> f64 {
    let (down, up) = (single.value(), single.rest().value());
    (0..needed.min(of + 1)).map(|i| binomial(of, i) * power(up, i) * power(down, of - i)).sum()
}

/// A of k of n hot endpoints, as [`k_of_n_unavailability`].
pub fn k_of_n_availability(needed: u32, of: u32, single: Share) -> f64 {
    let (down, up) = (single.value(), single.rest().value());
    (needed..=of).map(|i| binomial(of, i) * power(up, i) * power(down, of - i)).sum()
}

fn binomial(n: u32, k: u32) -> f64 {
    (0..k).fold(1.0, |product, i| product * f64::from(n - i) / f64::from(i + 1))
}

/// Where 0⁰ is 1, and exponents are whole.
fn power(base: f64, exponent: u32) -> f64 {
    base.powf(f64::from(exponent))
}

/// A pair of which one must serve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Share of time down in the long run.
    pub unavailability: f64,
    /// Mean hours to the first outage.
    pub mttf_hours: f64,
}

/// 1 + 1 with one crew and no time lost: `warm_share` 1 is a hot pair, 0 a cold standby.
pub fn pair_with_one_crew(failure: Rate, warm_share: Share, repair: Rate) -> Pair {
    let (l, a, m) = (failure.per_hour(), warm_share.value(), repair.per_hour());
    let both = (1.0 + a) * l * l;
    Pair {
        unavailability: both / (m * m + (1.0 + a) * l * m + both),
        mttf_hours: ((2.0 + a) * l + m) / both,
    }
}

/// A hot pair where each has a crew of its own; its MTTF is that with one crew.
pub fn hot_pair_with_two_crews(failure: Rate, repair: Rate) -> Pair {
    let single = single_unavailability(failure, repair);
    Pair { unavailability: single * single, ..pair_with_one_crew(failure, Share::ALL, repair) }
}

/// MTTF of a hot pair in which an unnoticed first failure (1 − c of them) takes the whole pair down.
pub fn covered_pair_mttf_hours(failure: Rate, repair: Rate, coverage: Share) -> f64 {
    let (l, m, c) = (failure.per_hour(), repair.per_hour(), coverage.value());
    (l * (1.0 + 2.0 * c) + m) / (2.0 * l * (l + m * coverage.rest().value()))
}

/// Where the unavailability of a hot-warm pair comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Taking over.
    pub taking_over: f64,
    /// Both lost.
    pub exhausted: f64,
    /// Losses nobody noticed.
    pub unnoticed: f64,
}

impl Budget {
    /// All of it.
    pub fn total(self) -> f64 {
        self.taking_over + self.exhausted + self.unnoticed
    }
}

/// 1 + 1 to first order: λ/δ + λ(λ+λ_w)/μ² + λ(1−c)/β. Good while each term is far below 1.
pub fn first_order_budget(
    failure: Rate,
    warm_share: Share,
    repair: Rate,
    takeover: Rate,
    coverage: Share,
    recovery: Rate,
) -> Budget {
    let (l, m) = (failure.per_hour(), repair.per_hour());
    Budget {
        taking_over: l / takeover.per_hour(),
        exhausted: l * l * (1.0 + warm_share.value()) / (m * m),
        unnoticed: l * coverage.rest().value() / recovery.per_hour(),
    }
}

/// 1 hot + 1 warm with activation and one crew, exactly: four states, all well; activating; hot alone;
/// none. The one repaired takes the load back at once, even from one that is still activating (the
/// general model lets that finish).
pub fn activated_pair(failure: Rate, warm_share: Share, repair: Rate, takeover: Rate) -> Budget {
    let (l, m, d) = (failure.per_hour(), repair.per_hour(), takeover.per_hour());
    let warm = warm_share.value() * l;
    // Relative to "all well"; the last two are balances over cuts, so that nothing is subtracted.
    let activating = l / (d + warm + m);
    let alone = (warm + activating * (d + warm)) / m;
    let none = (activating * warm + alone * l) / m;
    let total = 1.0 + activating + alone + none;
    Budget { taking_over: activating / total, exhausted: none / total, unnoticed: 0.0 }
}

/// Mean hours until more than `tolerated` of `members` have failed together, all failing at λ, repaired
/// by up to `crews` at once, exactly: the sum of the mean times from i failed to i + 1.
pub fn group_mttf_hours(
    members: u32,
    tolerated: u32,
    failure: Rate,
    repair: Rate,
    crews: u32,
) -> f64 {
    let mut last = 0.0;
    let mut sum = 0.0;
    for failed in 0..=tolerated.min(members.saturating_sub(1)) {
        let fails = f64::from(members - failed) * failure.per_hour();
        let repaired = f64::from(failed.min(crews)) * repair.per_hour();
        last = (1.0 + repaired * last) / fails;
        sum += last;
    }
    sum
}

/// The rule of thumb for groups that tolerate one failure, μ/(N(N−1)λ²), as published for RAID
/// (Patterson, Gibson, Katz, SIGMOD 1988).
pub fn group_mttf_rule_of_thumb_hours(members: u32, failure: Rate, repair: Rate) -> f64 {
    let n = f64::from(members);
    repair.per_hour() / (n * (n - 1.0) * failure.per_hour() * failure.per_hour())
}

/// Share of requests lost when N peers carry 1/N each and a loss is noticed after `detection`: λ·T,
/// whatever N is (N times the losses, each a Nth of the traffic).
pub fn request_loss(failure: Rate, detection: Hours) -> f64 {
    failure.per_hour() * detection.hours()
}
