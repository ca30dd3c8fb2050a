//! The faults: what is done to whom, and what Hearth promises for each.
//!
//! The victim is the first hot host, unless the fault is about more. Nothing is healed while it is
//! watched, but for the flapping link, whose flapping is the fault. Afterwards whatever still runs is
//! healed: what lies in a stopped process or before a dead path is executed only then.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

use super::field::{Field, Station, ZONE};
use super::plan::Plan;
use crate::lab::{Host, LabError, Way};

/// A flapping link's period, and for how long of it the link is dead.
const FLAP: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(200));
/// So long before the end of a window a flapping link stays up: what is still bad then is the sidecar's.
const CALM: Duration = Duration::from_secs(2);
/// Of a lossy link, each way.
const LOSS: f32 = 30.0;
/// A failed POST is told so within this, on a LAN.
const TOLD_MS: f64 = 100.0;
/// By then an application that hangs is left: few time-outs in a row eject after a second.
const HANG_KNOWN: Duration = Duration::from_secs(1);

/// Round trips that the slowest GET takes at most, where they are long.
const FAR_RTTS: f64 = 6.0;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// kill -9 of the application.
    AppKill,
    /// kill -9 of sidecar and application.
    HostKill,
    /// SIGSTOP of the application.
    AppHang,
    /// SIGSTOP of the sidecar.
    AgentFreeze,
    /// Nothing to or from the host arrives, and nobody is told.
    BlackHole,
    /// Nothing arrives at the host; what it sends does.
    BlackHoleIn,
    /// Nothing that the host sends arrives; it hears all.
    BlackHoleOut,
    /// 30 % of the frames are lost, each way.
    Loss30,
    /// The link is dead for 200 ms of each second.
    Flap,
    /// Two hot hosts, all of the zone of which the caller is, fall silent at once; the caller does not.
    ZoneLost,
    /// All hot hosts fall silent at once: the warm ones take over.
    HotLost,
}

/// What Hearth promises for a fault; milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Promise {
    /// So many GETs may fail.
    pub failed: f64,
    /// The slowest answered GET takes no longer.
    pub slowest_ms: Option<f64>,
    /// No failed POST learns of it later.
    pub told_ms: Option<f64>,
    /// So many POSTs may fail that were not in flight on a lost host.
    pub beyond: f64,
    /// So many POSTs may be executed twice.
    pub twice: f64,
}

impl Fault {
    /// All, in order.
    pub const ALL: [Self; 11] = [
        Self::AppKill,
        Self::HostKill,
        Self::AppHang,
        Self::AgentFreeze,
        Self::BlackHole,
        Self::BlackHoleIn,
        Self::BlackHoleOut,
        Self::Loss30,
        Self::Flap,
        Self::ZoneLost,
        Self::HotLost,
    ];

    /// As it is printed.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::AppKill => "application kill -9",
            Self::HostKill => "sidecar and application kill -9",
            Self::AppHang => "application hangs (SIGSTOP)",
            Self::AgentFreeze => "sidecar frozen (SIGSTOP)",
            Self::BlackHole => "host black-holed",
            Self::BlackHoleIn => "host hears nothing, is heard",
            Self::BlackHoleOut => "host hears, is not heard",
            Self::Loss30 => "30 % loss each way",
            Self::Flap => "link flaps: 200 ms down, 800 ms up",
            Self::ZoneLost => "zone lost: two of three hot black-holed",
            Self::HotLost => "all three hot black-holed",
        }
    }

    /// What Hearth promises.
    #[must_use]
    pub fn promise(self, plan: &Plan) -> Promise {
        let ms = |span: Duration| span.as_secs_f64() * 1e3;
        let lan_ms = match self {
            Self::AppKill => Some(10.0),
            Self::HostKill
            | Self::AgentFreeze
            | Self::BlackHole
            | Self::BlackHoleIn
            | Self::BlackHoleOut
            | Self::ZoneLost => Some(40.0),
            Self::AppHang => Some(60.0),
            Self::HotLost => Some(100.0 + ms(plan.hook())),
            Self::Loss30 | Self::Flap => None,
        };
        // A hang cannot be told from slow work, nor a lost frame from a late one, in so short a time.
        let told_ms = (!matches!(self, Self::AppHang | Self::Loss30)).then_some(TOLD_MS);
        // Far away everything takes round trips.
        let far_ms = plan.rtt().map(|rtt| ms(rtt) * FAR_RTTS);
        let slowest_ms = lan_ms.map(|lan: f64| far_ms.map_or(lan, |far| far.max(lan)));
        let told_ms = if plan.rtt().is_some() { None } else { told_ms };
        Promise { failed: 0.0, slowest_ms, told_ms, beyond: 0.0, twice: 0.0 }
    }

    /// So long after a loss it is to be known: a POST that is sent then goes to nobody lost.
    #[must_use]
    pub fn known(self, plan: &Plan) -> Duration {
        let known = match self {
            Self::AppHang => HANG_KNOWN,
            // Between two losses it may have been asked nothing: the first request that is finds the next one out.
            Self::Flap => FLAP.1,
            _ => Duration::from_secs_f64(TOLD_MS / 1e3),
        };
        // Far away it takes round trips.
        plan.rtt().map_or(known, |rtt| known.max(rtt.mul_f64(FAR_RTTS)))
    }

    /// Who is lost by it. A link that loses frames is none.
    #[must_use]
    pub fn lost(self, field: &Field) -> &[Station] {
        match self {
            Self::Loss30 => &[],
            _ => self.struck(field),
        }
    }

    /// Whom it strikes.
    fn struck(self, field: &Field) -> &[Station] {
        match self {
            Self::HotLost => &field.hot,
            Self::ZoneLost => &field.hot[..ZONE],
            _ => &field.hot[..1],
        }
    }

    /// Lets it happen and goes on with it for `window`. Returns when making it began and was done, each time.
    ///
    /// # Errors
    /// [`LabError`] when the fault cannot be made.
    pub fn happen(self, field: &Field, window: Duration) -> Result<Vec<[Instant; 2]>, LabError> {
        let start = Instant::now();
        let victim = &field.hot[0];
        match self {
            Self::AppKill => victim.app.kill()?,
            Self::HostKill => victim.host.kill_all()?,
            Self::AppHang => victim.app.stop()?,
            Self::AgentFreeze => victim.sidecar.stop()?,
            Self::BlackHoleIn => victim.host.one_way(Way::In)?,
            Self::BlackHoleOut => victim.host.one_way(Way::Out)?,
            Self::Loss30 => victim.host.loss(LOSS)?,
            Self::Flap => return flap(&victim.host, start, window),
            Self::BlackHole | Self::ZoneLost | Self::HotLost => silence(self.struck(field))?,
        }
        let made = Instant::now();
        sleep_until(start + window);
        Ok(vec![[start, made]])
    }

    /// Ends it, as far as those whom it struck still run, and says how long what was held back may take to arrive:
    /// TCP repeats what is lost after at most as long again as it has been lost.
    ///
    /// # Errors
    /// [`LabError`] when it cannot be ended.
    pub fn end(self, field: &Field, window: Duration) -> Result<Duration, LabError> {
        let struck = self.struck(field);
        match self {
            Self::AppKill | Self::HostKill => return Ok(Duration::ZERO),
            Self::AppHang => struck.iter().try_for_each(|station| station.app.cont())?,
            Self::AgentFreeze => struck.iter().try_for_each(|station| station.sidecar.cont())?,
            Self::BlackHole
            | Self::BlackHoleIn
            | Self::BlackHoleOut
            | Self::Loss30
            | Self::Flap
            | Self::ZoneLost
            | Self::HotLost => {
                struck.iter().try_for_each(|station| station.host.heal())?;
                return Ok(window);
            }
        }
        Ok(Duration::ZERO)
    }
}

fn silence(stations: &[Station]) -> Result<(), LabError> {
    let hosts: Vec<&Host> = stations.iter().map(|station| &*station.host).collect();
    Host::black_holes(&hosts)
}

fn flap(host: &Host, start: Instant, window: Duration) -> Result<Vec<[Instant; 2]>, LabError> {
    let (period, down) = FLAP;
    let until = start + window.saturating_sub(CALM);
    let (mut next, mut losses) = (start, Vec::new());
    while next + down <= until {
        let begun = Instant::now();
        host.black_hole()?;
        losses.push([begun, Instant::now()]);
        sleep_until(next + down);
        host.heal()?;
        next += period;
        sleep_until(next);
    }
    sleep_until(start + window);
    Ok(losses)
}

/// A fault's own schedule: nothing is waited for.
fn sleep_until(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::{Fault, Plan};

    #[test]
    fn whoever_falls_silent_is_promised_to_cost_nobody_more_than_40_ms_however_many_they_are() {
        let silent = [Fault::BlackHole, Fault::BlackHoleIn, Fault::BlackHoleOut, Fault::ZoneLost];
        let promised = |plan: &Plan| silent.map(|fault| fault.promise(plan).slowest_ms);
        assert_eq!(promised(&Plan::whole()), [Some(40.0); 4]);
        assert_eq!(promised(&Plan { rtt_ms: 50, ..Plan::whole() }), [Some(300.0); 4]);
    }

    #[test]
    fn what_is_known_of_a_loss_is_known_when_a_failure_is_promised_to_be_told_or_the_link_is_back()
    {
        for fault in Fault::ALL {
            let known = fault.known(&Plan::whole()).as_secs_f64() * 1e3;
            match fault {
                Fault::AppHang => assert!((known - 1000.0).abs() < 1e-6),
                Fault::Flap => assert!((known - 200.0).abs() < 1e-6),
                _ => assert!((known - 100.0).abs() < 1e-6, "{fault:?}"),
            }
        }
        let far = Plan { rtt_ms: 50, ..Plan::whole() };
        assert_eq!(Fault::BlackHole.known(&far).as_millis(), 300);
    }
}
