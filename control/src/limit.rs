//! How often one source may be wrong.
//!
//! Every refused credential costs its source a point; points come back with time; who has none left is
//! not listened to. Success costs nothing, so that a whole fleet may join from behind one address. The
//! number of sources remembered is bounded: when it is reached, those who have recovered are forgotten
//! first, then the one longest unheard.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use hearth_proto::ids::NodeName;
use hearth_proto::time::Wall;

use crate::moment;

/// Refusals a source may collect at once. A person who mistypes has some left; a guesser of 256-bit
/// secrets never had a chance, this bounds the log and the disk reads it causes.
const POINTS: u32 = 10;
/// Time until one point comes back.
const RECOVERY: Duration = Duration::from_secs(6);
/// Sources remembered.
const MAX_SOURCES: usize = 4_096;

#[derive(Clone, Copy)]
struct Account {
    spent: u32,
    since: Wall,
    /// That it has none left was said.
    told: bool,
}

/// A source that is not listened to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// When to come again.
    pub after: Duration,
    /// The first time since it had points: worth an audit line, the flood behind it is not.
    pub first: bool,
}

impl Account {
    fn at(self, now: Wall) -> Self {
        let regained = moment::between(self.since, now).as_micros() / RECOVERY.as_micros();
        let regained = u32::try_from(regained).unwrap_or(u32::MAX);
        match regained {
            0 => self,
            // A wall clock set back makes a point last longer, never for ever: `since` is set anew.
            _ => Self { spent: self.spent.saturating_sub(regained), since: now, told: false },
        }
    }
}

/// Who pays for being refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A stranger, by the address it comes from.
    Address(IpAddr),
    /// A node that proved its name: its renewals must not hang on what its neighbours behind the same
    /// address do.
    Member(NodeName),
}

impl From<IpAddr> for Source {
    /// One host may own a whole IPv6 /64.
    fn from(address: IpAddr) -> Self {
        Self::Address(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => IpAddr::V4(v4),
                None => {
                    let mut octets = v6.octets();
                    octets[8..].fill(0);
                    IpAddr::V6(Ipv6Addr::from(octets))
                }
            },
        })
    }
}

/// Points by source.
#[derive(Default)]
pub struct Limiter {
    accounts: HashMap<Source, Account>,
}

impl Limiter {
    /// Whether `source` is listened to at `now`.
    pub fn admit(&mut self, source: impl Into<Source>, now: Wall) -> Result<(), Denied> {
        let Some(account) = self.accounts.get_mut(&source.into()) else { return Ok(()) };
        if account.at(now).spent < POINTS {
            return Ok(());
        }
        let first = !std::mem::replace(&mut account.told, true);
        Err(Denied { after: RECOVERY, first })
    }

    /// Notes that `source` was refused.
    pub fn refused(&mut self, source: impl Into<Source>, now: Wall) {
        let key = source.into();
        if !self.accounts.contains_key(&key) && self.accounts.len() >= MAX_SOURCES {
            self.make_room(now);
        }
        let account =
            self.accounts.entry(key).or_insert(Account { spent: 0, since: now, told: false });
        *account = account.at(now);
        if account.spent == 0 || account.since > now {
            account.since = now;
        }
        account.spent = (account.spent + 1).min(POINTS);
    }

    fn make_room(&mut self, now: Wall) {
        self.accounts.retain(|_, a| a.at(now).spent > 0);
        if self.accounts.len() >= MAX_SOURCES
            && let Some(oldest) =
                self.accounts.iter().min_by_key(|(_, a)| a.since).map(|(k, _)| k.clone())
        {
            self.accounts.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Wall {
        Wall(seconds * 1_000_000)
    }

    #[test]
    fn the_eleventh_guess_is_not_listened_to_and_points_come_back_with_time() {
        let mut limiter = Limiter::default();
        let [guesser, other] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        for _ in 0..POINTS {
            assert!(limiter.admit(guesser, at(100)).is_ok());
            limiter.refused(guesser, at(100));
        }
        let denied = |first| Err(Denied { after: RECOVERY, first });
        assert_eq!(limiter.admit(guesser, at(100)), denied(true));
        assert_eq!(limiter.admit(guesser, at(100)), denied(false), "each denial is news");
        assert!(limiter.admit(other, at(100)).is_ok(), "another source pays for it");
        assert!(limiter.admit(guesser, at(107)).is_ok(), "points never come back");
    }

    #[test]
    fn one_ipv6_network_is_one_source() {
        let mut limiter = Limiter::default();
        for i in 0..u16::try_from(POINTS).unwrap() {
            limiter.refused(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, i)), at(1));
        }
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(limiter.admit(address("2001:db8:0:1::ffff"), at(1)).is_err());
        assert!(limiter.admit(address("2001:db8:0:2::1"), at(1)).is_ok());
    }

    #[test]
    fn the_number_of_sources_is_bounded() {
        let mut limiter = Limiter::default();
        for i in 0..(MAX_SOURCES as u32 + 100) {
            limiter.refused(IpAddr::V4((0x0a00_0000 + i).into()), at(1));
        }
        assert_eq!(limiter.accounts.len(), MAX_SOURCES);
    }
}
