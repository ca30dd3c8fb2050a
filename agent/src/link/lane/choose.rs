//! Whether a request goes over TLS/TCP or over QUIC. Pure.
//!
//! In this order:
//! 1. a policy that names a lane gets it; one that names TCP gets QUIC while TCP cannot be had;
//! 2. `auto` takes TCP, which costs less, as long as the path is short and loses next to nothing;
//! 3. on a long or lossy path it takes QUIC, where a lost packet holds up one request and not all;
//! 4. what was decided stays until the path is clearly different: the two bounds of each measure are apart.

use std::time::Duration;

/// What a policy or a configuration asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LaneChoice {
    /// Whichever costs less on the path as it is.
    #[default]
    Auto,
    /// QUIC streams.
    Quic,
    /// TLS over TCP where it can be had.
    Tcp,
}

/// What carries a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Tcp,
    Quic,
}

/// Above the first a path is long, below the second it is short again.
const LONG: Duration = Duration::from_millis(8);
const SHORT: Duration = Duration::from_millis(5);
/// Packets per lost packet: with fewer than the first a path is lossy (0.5 %), with more than the second it is
/// clean again (0.1 %).
const LOSSY: u64 = 200;
const CLEAN: u64 = 1000;
/// Fewer losses than this say nothing of a rate.
const LOSSES: u64 = 3;
/// Packets that are remembered. Half of what was counted is forgotten beyond it.
const MEMORY: u64 = 4000;

/// What was lost on a path lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
}

impl Losses {
    /// Takes in what was sent, and of it lost, since the last time.
    pub(crate) fn add(&mut self, sent: u64, lost: u64) {
        self.sent += sent;
        self.lost += lost;
        while self.sent > MEMORY {
            self.sent /= 2;
            self.lost /= 2;
        }
    }
}

/// What `auto` means on a path, given what it meant a moment ago.
pub(crate) fn auto(now: Carrier, rtt: Duration, losses: Losses) -> Carrier {
    let lossy = losses.lost >= LOSSES && losses.lost * LOSSY > losses.sent;
    let clean = losses.lost < LOSSES || losses.lost * CLEAN < losses.sent;
    match now {
        Carrier::Tcp if lossy || rtt > LONG => Carrier::Quic,
        Carrier::Quic if clean && rtt < SHORT => Carrier::Tcp,
        stays => stays,
    }
}

/// What carries the next request, if it can be had.
pub(crate) fn carrier(choice: LaneChoice, auto: Carrier) -> Carrier {
    match choice {
        LaneChoice::Auto => auto,
        LaneChoice::Quic => Carrier::Quic,
        LaneChoice::Tcp => Carrier::Tcp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn losses(sent: u64, lost: u64) -> Losses {
        Losses { sent, lost }
    }

    #[test]
    fn a_short_clean_path_takes_tcp_and_a_long_or_lossy_one_takes_quic() {
        assert_eq!(auto(Carrier::Tcp, MS, losses(1000, 0)), Carrier::Tcp);
        assert_eq!(auto(Carrier::Tcp, 9 * MS, losses(1000, 0)), Carrier::Quic);
        assert_eq!(auto(Carrier::Tcp, MS, losses(1000, 10)), Carrier::Quic);
    }

    #[test]
    fn a_path_between_the_bounds_changes_nothing() {
        for now in [Carrier::Tcp, Carrier::Quic] {
            assert_eq!(auto(now, 6 * MS, losses(1000, 0)), now);
            assert_eq!(auto(now, MS, losses(1500, 3)), now);
        }
    }

    #[test]
    fn a_path_that_has_become_short_and_clean_goes_back_to_tcp() {
        assert_eq!(auto(Carrier::Quic, MS, losses(4000, 3)), Carrier::Tcp);
        assert_eq!(auto(Carrier::Quic, MS, losses(100, 0)), Carrier::Tcp);
    }

    #[test]
    fn one_lost_packet_of_a_few_is_no_rate() {
        assert_eq!(auto(Carrier::Tcp, MS, losses(10, 2)), Carrier::Tcp);
    }

    #[test]
    fn losses_of_long_ago_are_forgotten() {
        let mut l = losses(1000, 10);
        for _ in 0..20 {
            l.add(1000, 0);
        }
        assert_eq!(auto(Carrier::Quic, MS, l), Carrier::Tcp);
    }

    #[test]
    fn a_policy_that_names_a_lane_gets_it() {
        assert_eq!(carrier(LaneChoice::Quic, Carrier::Tcp), Carrier::Quic);
        assert_eq!(carrier(LaneChoice::Tcp, Carrier::Quic), Carrier::Tcp);
        assert_eq!(carrier(LaneChoice::Auto, Carrier::Tcp), Carrier::Tcp);
    }
}
