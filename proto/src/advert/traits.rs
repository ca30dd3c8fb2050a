//! What an owner says of how far each of its endpoints can be relied on: how it is checked, whether a hook
//! activates it, and how long that has taken.
//!
//! Said so that any agent can tell what will never fail over ([`lint`](crate::lint)) and how available a
//! service will be ([`plan`](crate::plan)). Nobody routes by it. One record of the advert's extension per
//! endpoint, named by its place in the advert; owners of earlier versions say nothing.

use serde::{Deserialize, Serialize};

use super::{Advert, EndpointAdvert, extension};
use crate::wire;

/// How an owner finds out whether its endpoint is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// Not at all.
    None,
    /// A connection is accepted.
    #[default]
    Tcp,
    /// A request is answered.
    Http,
    /// gRPC's health service says so.
    Grpc,
    /// No word comes that the port is closed.
    Udp,
    /// In some way that is not known here.
    Other,
}

impl CheckKind {
    const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Tcp => 1,
            Self::Http => 2,
            Self::Grpc => 3,
            Self::Udp => 4,
            Self::Other => u8::MAX,
        }
    }

    const fn of(code: u8) -> Self {
        match code {
            0 => Self::None,
            1 => Self::Tcp,
            2 => Self::Http,
            3 => Self::Grpc,
            4 => Self::Udp,
            _ => Self::Other,
        }
    }
}

/// Activations of one endpoint, as its owner timed them, of the last 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivationTimes {
    /// Begun and ended.
    pub attempts: u32,
    /// Of those, the ones that did not end in serving.
    pub failed: u32,
    /// Of those that did: the mean, in milliseconds.
    pub mean_ms: u32,
    /// Half took no longer.
    pub p50_ms: u32,
    /// Nineteen of twenty took no longer.
    pub p95_ms: u32,
}

impl ActivationTimes {
    /// Those that ended in serving.
    pub fn succeeded(&self) -> u32 {
        self.attempts.saturating_sub(self.failed)
    }
}

/// What an owner says of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traits {
    /// How it is checked.
    pub check: CheckKind,
    /// A hook activates it.
    pub hook: bool,
    /// What an activation may take, hook and readiness together, in milliseconds.
    pub deadline_ms: u32,
    /// What activations took.
    pub activations: ActivationTimes,
}

/// As it travels; later versions may add fields behind these.
type Said = (u8, u8, bool, u32, (u32, u32, u32, u32, u32));

/// Adds the traits of the endpoint at `place` in the advert.
pub fn append(bytes: &mut Vec<u8>, place: u8, traits: &Traits) {
    let a = traits.activations;
    let times = (a.attempts, a.failed, a.mean_ms, a.p50_ms, a.p95_ms);
    let said: Said = (place, traits.check.code(), traits.hook, traits.deadline_ms, times);
    // Eight small numbers always encode, and fit into a record.
    if let Ok(body) = wire::encode_body(&said) {
        let _ = extension::append(bytes, extension::TRAITS, &body);
    }
}

impl Advert {
    /// What the owner says of one of its endpoints; `None`: nothing.
    pub fn traits_of(&self, e: &EndpointAdvert) -> Option<Traits> {
        let key = |e: &EndpointAdvert| (e.service.clone(), e.instance);
        let place = self.endpoints.iter().position(|other| key(other) == key(e))?;
        extension::records(&self.extension)
            .filter(|(tag, _)| *tag == extension::TRAITS)
            .filter_map(|(_, body)| wire::decode_prefix::<Said>(body).ok())
            .find(|((said, ..), _)| usize::from(*said) == place)
            .map(|((_, check, hook, deadline_ms, times), _)| Traits {
                check: CheckKind::of(check),
                hook,
                deadline_ms,
                activations: ActivationTimes {
                    attempts: times.0,
                    failed: times.1,
                    mean_ms: times.2,
                    p50_ms: times.3,
                    p95_ms: times.4,
                },
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advert::{Condition, Protocol, Role};
    use crate::ids::{Generation, NodeName, ServiceName, Version};
    use crate::time::Wall;

    fn advert(extension: Vec<u8>) -> Advert {
        let endpoint = |instance| EndpointAdvert {
            service: ServiceName::parse("ledger").unwrap(),
            instance,
            role: Role::Hot,
            condition: Condition::Serving,
            protocol: Protocol::Http,
            since: Wall(0),
            activated_for: None,
        };
        Advert {
            node: NodeName::parse("web-1").unwrap(),
            version: Version { generation: Generation(1), revision: 1 },
            address: ([10, 0, 0, 1], 7940).into(),
            zone: String::new(),
            region: String::new(),
            endpoints: vec![endpoint(0), endpoint(1)],
            policy_version: 0,
            left: false,
            extension,
        }
    }

    fn some() -> Traits {
        let activations =
            ActivationTimes { attempts: 300, failed: 1, mean_ms: 210, p50_ms: 200, p95_ms: 900 };
        Traits { check: CheckKind::Http, hook: true, deadline_ms: 20_000, activations }
    }

    #[test]
    fn each_endpoint_s_traits_are_found_by_its_place_and_strangers_records_are_skipped() {
        let mut bytes = Vec::new();
        extension::append(&mut bytes, 99, b"of a later version").unwrap();
        append(&mut bytes, 1, &some());
        let advert = advert(bytes);
        assert_eq!(advert.traits_of(&advert.endpoints[1]), Some(some()));
        assert_eq!(advert.traits_of(&advert.endpoints[0]), None, "nothing was said of it");
    }

    #[test]
    fn an_owner_of_an_earlier_version_says_nothing_and_one_of_a_later_version_may_say_more() {
        let early = advert(Vec::new());
        assert_eq!(early.traits_of(&early.endpoints[0]), None);
        let mut plain = Vec::new();
        append(&mut plain, 0, &some());
        let body = extension::records(&plain).next().unwrap().1;
        let mut longer = Vec::new();
        let more = [body, b"and more"].concat();
        extension::append(&mut longer, extension::TRAITS, &more).unwrap();
        let late = advert(longer);
        assert_eq!(late.traits_of(&late.endpoints[0]), Some(some()));
    }

    #[test]
    fn the_bytes_of_traits_are_these_and_stay_so() {
        let mut bytes = Vec::new();
        append(&mut bytes, 1, &some());
        let golden = [
            2, 17, 0, // tag, length
            1, 2, 1, // place, http, hook
            251, 0x20, 0x4e, // 20,000 ms
            251, 0x2c, 0x01, 1, 210, 200, 251, 0x84, 0x03, // 300, 1, 210, 200, 900
        ];
        assert_eq!(bytes.len(), usize::from(bytes[1]) + 3);
        assert_eq!(bytes[..3], [2, bytes[1], 0]);
        assert_eq!(bytes[3..], golden[3..]);
    }
}
