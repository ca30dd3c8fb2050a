//! What operators decide: per service, how many must serve, how traffic fails over and back, who may
//! call.
//!
//! A policy that exists is a valid one: texts become these types or an error (parse, don't validate).
//! A service that no policy names gets [`ServicePolicy::default`].

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::exclusive;
use crate::ids::{NodeName, ServiceName};
use crate::time::Span;

pub use traffic::{Affinity, Balance, FieldName, Locality};

/// The policy of a whole mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// By service; a service that is not named gets the defaults.
    #[serde(default)]
    pub services: BTreeMap<ServiceName, ServicePolicy>,
    /// Call-ups and failbacks that an agent sees in the whole mesh in a time before its own wait.
    #[serde(default = "Policy::default_moves")]
    pub moves: Rate,
}

impl Default for Policy {
    fn default() -> Self {
        Self { services: BTreeMap::new(), moves: Self::default_moves() }
    }
}

impl Policy {
    /// Enough for a zone of a hundred services to move at once.
    const fn default_moves() -> Rate {
        Rate::Of { times: 120, per: Span(Duration::from_secs(60)) }
    }

    /// The policy of one service, the default one where none is written.
    pub fn service(&self, name: &ServiceName) -> ServicePolicy {
        self.services.get(name).cloned().unwrap_or_default()
    }

    /// When an activated endpoint of this service stands down again: asked with every turn of a core.
    pub fn failback(&self, name: &ServiceName) -> Failback {
        self.services.get(name).map(|service| service.failback).unwrap_or_default()
    }
}

/// The policy of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServicePolicy {
    /// Who takes over: nobody new (`hot-hot`) or warm endpoints (`hot-warm`).
    pub mode: Mode,
    /// How many endpoints must serve, as a count or as a share of the declared hot ones.
    pub min_hot: Need,
    /// When an activated warm endpoint stands down again.
    pub failback: Failback,
    /// Time until a request's answer must have begun, tries included. Bodies take as long as they take.
    pub timeout: Span,
    /// When a safe request is tried a second time elsewhere while the first is still under way.
    pub hedge: Hedge,
    /// Further tries of a safe request.
    pub retries: u8,
    /// Below this share of ready endpoints the doubtful ones are used as well.
    pub panic: Percent,
    /// The nodes that may call; `*` is everyone in the trust domain.
    pub allow: Vec<Caller>,
    /// Time one try may take until its answer begins; then another may be made. Off: `timeout` alone.
    pub per_try_timeout: Patience,
    /// A request of which nothing has moved in either direction for so long is ended. Off by default:
    /// streams of events and calls that listen are quiet for as long as nothing happens, and a peer or a
    /// client that is gone is found out without it.
    pub idle_timeout: Patience,
    /// Answers after which a request is tried elsewhere, beside those that ask for it by themselves (503
    /// with `Retry-After`). Only requests that may be repeated are, but for gRPC, where `grpc-unavailable`
    /// says that this service's calls may.
    pub retry_on: Vec<RetryOn>,
    /// Requests that one endpoint works on at once, as its own agent counts them; some wait their turn
    /// there, and the rest is sent elsewhere or refused. `auto`: nothing is limited while answers come in
    /// their usual time. Off by default: simulated queues speak for `auto`, real ones have not been asked.
    pub max_requests: Ceiling,
    /// How often each calling node may call each endpoint. More is refused (429).
    pub rate_limit: Rate,
    /// Whether losses may be made on purpose (`hearth drill`).
    pub drills: Drills,
    /// In mode `exclusive`: who may hold the lease, and who grants it.
    pub exclusive: Option<Exclusive>,
    /// Whether requests go through a third agent when the caller's own path to every endpoint is bad.
    pub relay: Relay,
    /// How one of the ready endpoints is picked.
    pub balance: Balance,
    /// Whether endpoints nearby go first, as far as their capacity reaches.
    pub locality: Locality,
    /// What keeps a session's requests on one endpoint; those without it are balanced.
    pub affinity: Option<Affinity>,

    // ---- hot and warm: how endpoints come and go -------------------------------------------------
    /// An endpoint that begins to serve takes its full share of requests after so long, or after the hold of
    /// failback where that is shorter.
    pub ramp: Patience,
    /// The half-life of the penalty for endpoints that are lost and return again and again.
    pub damping: Patience,
}

impl Default for ServicePolicy {
    fn default() -> Self {
        Self {
            mode: Mode::HotWarm,
            min_hot: Need::Percent(Percent(100)),
            failback: Failback::default(),
            timeout: Span(Duration::from_secs(15)),
            hedge: Hedge::Auto,
            retries: 3,
            panic: Percent(50),
            allow: vec![Caller::Anyone],
            per_try_timeout: Patience::Endless,
            idle_timeout: Patience::Endless,
            retry_on: Vec::new(),
            max_requests: Ceiling::None,
            rate_limit: Rate::None,
            drills: Drills::On,
            ramp: Patience::For(Span(Duration::from_secs(10))),
            damping: Patience::For(Span(Duration::from_secs(60))),
            exclusive: None,
            relay: Relay::LastResort,
            balance: Balance::PeakEwma,
            locality: Locality::Zone,
            affinity: None,
        }
    }
}

impl Patience {
    /// How long; `None` without end.
    pub fn span(self) -> Option<Duration> {
        match self {
            Self::Endless => None,
            Self::For(span) => Some(span.0),
        }
    }
}

impl ServicePolicy {
    /// How long a newly serving endpoint takes to its full share: no longer than the hold of failback, so that
    /// what returned has its full share before its replacement goes.
    pub fn ramp(&self) -> Duration {
        let ramp = self.ramp.span().unwrap_or_default();
        match self.failback {
            Failback::After(hold) => ramp.min(hold.0),
            Failback::Never | Failback::Manual => ramp,
        }
    }

    /// Whether the node `caller` may call the service.
    pub fn allows(&self, caller: &NodeName) -> bool {
        self.allow.iter().any(|c| match c {
            Caller::Anyone => true,
            Caller::Node(name) => name == caller,
        })
    }
}

/// How a service's redundancy works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Every endpoint serves; survivors absorb a loss.
    HotHot,
    /// N serve, M stand by and are activated one for one.
    HotWarm,
    /// One serves, and only while a majority of the owners has leased it to its node.
    Exclusive,
}

/// The owners of an exclusive service. Written by the operator, not read off adverts: all must count the
/// same majority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ExclusiveText")]
pub struct Exclusive {
    /// The nodes whose endpoints may serve. More than half of them must be in touch for one to do so.
    pub owners: Vec<NodeName>,
    /// How long a lease lasts without renewal, at most: about so long nobody serves after the holder died.
    pub lease: Span,
    /// Grows by one with each change of `owners`.
    pub number: u64,
    /// The owners before, newest first: a majority of them is asked as well until a lease was granted
    /// under the present ones.
    pub former: Vec<Vec<NodeName>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExclusiveText {
    owners: Vec<NodeName>,
    #[serde(default = "default_lease")]
    lease: Span,
    #[serde(default = "first_number")]
    number: u64,
    #[serde(default)]
    former: Vec<Vec<NodeName>>,
}

fn default_lease() -> Span {
    Span(Duration::from_secs(5))
}

fn first_number() -> u64 {
    1
}

impl TryFrom<ExclusiveText> for Exclusive {
    type Error = String;
    fn try_from(text: ExclusiveText) -> Result<Self, String> {
        let ExclusiveText { owners, lease, number, former } = text;
        for set in former.iter().chain([&owners]) {
            let distinct = set.iter().collect::<std::collections::BTreeSet<_>>().len();
            if distinct != set.len()
                || set.is_empty()
                || set.len() > exclusive::electorate::MAX_OWNERS
            {
                let most = exclusive::electorate::MAX_OWNERS;
                return Err(format!(
                    "owners are 1 to {most} different nodes, an odd number at best"
                ));
            }
        }
        if !(exclusive::MIN_LEASE..=exclusive::MAX_LEASE).contains(&lease.0) {
            return Err(format!(
                "lease {lease} is not from {} to {}",
                Span(exclusive::MIN_LEASE),
                Span(exclusive::MAX_LEASE)
            ));
        }
        let before = u64::try_from(former.len()).unwrap_or(u64::MAX);
        if number == 0 || before >= number || former.len() > exclusive::electorate::MAX_FORMER {
            return Err(format!(
                "number {number} with {before} former sets of owners; number counts from 1"
            ));
        }
        if number > 1 && former.is_empty() {
            return Err(format!(
                "number {number} without former; write the owners before as former = [[\"…\"]]: a majority \
                 of them must let go first"
            ));
        }
        Ok(Self { owners, lease, number, former })
    }
}

/// Whether a third agent may carry a service's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relay {
    /// Never.
    Off,
    /// Only where nobody who is ready can be reached otherwise. The default: it applies only where requests
    /// would fail or wait, and what is carried is sealed.
    LastResort,
}

impl Relay {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::LastResort => "last-resort",
        }
    }
}

/// Whether a service may be drilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drills {
    /// It may.
    On,
    /// Every agent refuses.
    Off,
}

/// A share in percent, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

impl Percent {
    /// This share of `n`, rounded up: 50 % of 3 are 2.
    pub fn of(self, n: usize) -> usize {
        (n * usize::from(self.0)).div_ceil(100)
    }
}

/// How many endpoints must serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// So many.
    Count(u32),
    /// This share of the declared hot ones, rounded up.
    Percent(Percent),
}

/// When an activated warm endpoint stands down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    /// Not by itself: it stays until its node drains, or it fails.
    Never,
    /// When an operator says so (`hearth failback SERVICE`).
    Manual,
    /// Once it has not been needed for so long.
    After(Span),
}

impl Default for Failback {
    fn default() -> Self {
        Self::After(Span(Duration::from_secs(30)))
    }
}

/// When a safe request is tried a second time elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hedge {
    /// After a delay learnt from the service's own latencies.
    Auto,
    /// Never.
    Off,
    /// After this delay.
    After(Span),
}

/// Who may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Every node of the trust domain.
    Anyone,
    /// One node.
    Node(NodeName),
}

/// How long something is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// As long as it takes.
    Endless,
    /// So long.
    For(Span),
}

/// An answer after which a request is tried elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// A gateway's error: 502, 503 or 504.
    Status(u16),
    /// gRPC's UNAVAILABLE, before any message came.
    GrpcUnavailable,
}

/// How many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ceiling {
    /// Any number.
    None,
    /// At most so many; at least one.
    At(u32),
    /// Any number as long as answers come in their usual time; while they do not, as many as the endpoint
    /// is found to work on at once ([`crate::balance::limit`]).
    Auto,
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As often as one likes.
    None,
    /// So many times in each such time; as many may come at once.
    Of {
        /// How many times; at least once.
        times: u32,
        /// In which time.
        per: Span,
    },
}

/// A value that is written as a text (or, where `number` allows, as a whole number).
trait Word: Sized {
    const EXPECTED: &'static str;
    fn parse(text: &str) -> Result<Self, String>;
    fn print(&self) -> String;
    fn number(n: u64) -> Result<Self, String> {
        Err(format!("{n} is a number; expected {}", Self::EXPECTED))
    }
}

fn percent(text: &str) -> Result<Percent, String> {
    text.strip_suffix('%')
        .and_then(|n| n.parse::<u8>().ok())
        .filter(|n| *n <= 100)
        .map(Percent)
        .ok_or_else(|| format!("{text:?} is not a percentage from \"0%\" to \"100%\""))
}

impl Word for Percent {
    const EXPECTED: &'static str = "a percentage such as \"50%\"";
    fn parse(text: &str) -> Result<Self, String> {
        percent(text)
    }
    fn print(&self) -> String {
        format!("{}%", self.0)
    }
}

impl Word for Need {
    const EXPECTED: &'static str = "a count such as 2 or a percentage such as \"100%\"";
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(n) = text.parse::<u32>() {
            return Ok(Self::Count(n));
        }
        percent(text)
            .map(Self::Percent)
            .map_err(|_| format!("{text:?} is neither a count nor a percentage such as \"100%\""))
    }
    fn print(&self) -> String {
        match self {
            Self::Count(n) => n.to_string(),
            Self::Percent(p) => p.print(),
        }
    }
    fn number(n: u64) -> Result<Self, String> {
        u32::try_from(n).map(Self::Count).map_err(|_| format!("{n} endpoints is too many"))
    }
}

impl Word for Failback {
    const EXPECTED: &'static str = "\"never\", \"manual\" or a duration such as \"30s\"";
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Self::Never),
            "manual" => Ok(Self::Manual),
            _ => Span::parse(text)
                .map(Self::After)
                .map_err(|e| format!("{e}, or \"never\" or \"manual\"")),
        }
    }
    fn print(&self) -> String {
        match self {
            Self::Never => "never".into(),
            Self::Manual => "manual".into(),
            Self::After(span) => span.to_string(),
        }
    }
}

impl Word for Hedge {
    const EXPECTED: &'static str = "\"auto\", \"off\" or a duration such as \"50ms\"";
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => Span::parse(text)
                .map(Self::After)
                .map_err(|e| format!("{e}, or \"auto\" or \"off\"")),
        }
    }
    fn print(&self) -> String {
        match self {
            Self::Auto => "auto".into(),
            Self::Off => "off".into(),
            Self::After(span) => span.to_string(),
        }
    }
}

impl Word for Caller {
    const EXPECTED: &'static str = "a node name or \"*\"";
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "*" => Ok(Self::Anyone),
            _ => NodeName::parse(text).map(Self::Node).map_err(|e| format!("{e}, or \"*\"")),
        }
    }
    fn print(&self) -> String {
        match self {
            Self::Anyone => "*".into(),
            Self::Node(name) => name.to_string(),
        }
    }
}

impl Word for Patience {
    const EXPECTED: &'static str = "\"off\" or a duration such as \"30s\"";
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Endless),
            _ => match Span::parse(text) {
                Ok(Span(Duration::ZERO)) => Err(format!("{text:?} is no time; write \"off\"")),
                Ok(span) => Ok(Self::For(span)),
                Err(e) => Err(format!("{e}, or \"off\"")),
            },
        }
    }
    fn print(&self) -> String {
        match self {
            Self::Endless => "off".into(),
            Self::For(span) => span.to_string(),
        }
    }
}

impl Word for RetryOn {
    const EXPECTED: &'static str = "\"502\", \"503\", \"504\" or \"grpc-unavailable\"";
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "502" | "503" | "504" => {
                text.parse().map(Self::Status).map_err(|e: std::num::ParseIntError| e.to_string())
            }
            "grpc-unavailable" => Ok(Self::GrpcUnavailable),
            _ => Err(format!("{text:?} is not {}", Self::EXPECTED)),
        }
    }
    fn print(&self) -> String {
        match self {
            Self::Status(status) => status.to_string(),
            Self::GrpcUnavailable => "grpc-unavailable".into(),
        }
    }
    fn number(n: u64) -> Result<Self, String> {
        Self::parse(&n.to_string())
    }
}

impl Word for Ceiling {
    const EXPECTED: &'static str = "\"auto\", \"off\" or a count such as 100";
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::None),
            "auto" => Ok(Self::Auto),
            _ => text
                .parse()
                .map_err(|_| format!("{text:?} is neither a count nor \"auto\" nor \"off\""))
                .and_then(Self::number),
        }
    }
    fn print(&self) -> String {
        match self {
            Self::None => "off".into(),
            Self::Auto => "auto".into(),
            Self::At(n) => n.to_string(),
        }
    }
    fn number(n: u64) -> Result<Self, String> {
        match u32::try_from(n) {
            Ok(0) => Err("0 would let nothing through; write \"off\" for no limit".into()),
            Ok(n) => Ok(Self::At(n)),
            Err(_) => Err(format!("{n} at once is no limit; write \"off\"")),
        }
    }
}

impl Word for Rate {
    const EXPECTED: &'static str = "\"off\" or a rate such as \"100/s\"";
    fn parse(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::None);
        }
        let bad = || format!("{text:?} is not a rate; write for example \"100/s\" or \"10/m\"");
        let (times, per) = text.split_once('/').ok_or_else(bad)?;
        let times = times.trim().parse::<u32>().ok().filter(|n| *n > 0).ok_or_else(bad)?;
        let per = per.trim();
        // "100/s" is what everybody writes; "100/10s" says it too.
        let per = if per.starts_with(|c: char| c.is_ascii_digit()) {
            Span::parse(per)
        } else {
            Span::parse(&format!("1{per}"))
        };
        match per {
            Ok(per) if per.0 > Duration::ZERO => Ok(Self::Of { times, per }),
            _ => Err(bad()),
        }
    }
    fn print(&self) -> String {
        match self {
            Self::None => "off".into(),
            Self::Of { times, per } => {
                let per = per.to_string();
                let unit = per.strip_prefix('1').filter(|u| u.starts_with(char::is_alphabetic));
                format!("{times}/{}", unit.unwrap_or(&per))
            }
        }
    }
}

struct WordVisitor<T>(std::marker::PhantomData<T>);

impl<T: Word> Visitor<'_> for WordVisitor<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::parse(text).map_err(E::custom)
    }
    fn visit_u64<E: de::Error>(self, n: u64) -> Result<T, E> {
        T::number(n).map_err(E::custom)
    }
    fn visit_i64<E: de::Error>(self, n: i64) -> Result<T, E> {
        let n = u64::try_from(n).map_err(|_| E::custom(format!("{n} is negative")))?;
        T::number(n).map_err(E::custom)
    }
}

macro_rules! word_serde {
    ($($type:ty),+) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.print())
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let visitor = WordVisitor(std::marker::PhantomData);
                if d.is_human_readable() { d.deserialize_any(visitor) } else { d.deserialize_str(visitor) }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.print())
            }
        }
    )+};
}
word_serde!(Percent, Need, Failback, Hedge, Caller, Patience, RetryOn, Ceiling, Rate);
word_serde!(Balance, Locality, FieldName);

mod traffic;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_up_so_that_half_of_three_is_two() {
        assert_eq!(Percent(50).of(3), 2);
        assert_eq!(Percent(100).of(3), 3);
        assert_eq!(Percent(0).of(3), 0);
    }

    #[test]
    fn a_policy_reads_words_and_numbers_and_refuses_unknown_keys() {
        let read = |t: &str| serde_json::from_str::<ServicePolicy>(t);
        let p = read(r#"{"min_hot": 2, "failback": "never", "hedge": "20ms", "allow": ["web-1"]}"#)
            .unwrap();
        assert_eq!(p.min_hot, Need::Count(2));
        assert_eq!(p.failback, Failback::Never);
        assert!(p.allows(&NodeName::parse("web-1").unwrap()));
        assert!(!p.allows(&NodeName::parse("web-2").unwrap()));
        for bad in [
            r#"{"min_hot": "101%"}"#,
            r#"{"min_hot": -1}"#,
            r#"{"failback": "5"}"#,
            r#"{"mode": "cold"}"#,
            r#"{"hedgehog": 1}"#,
        ] {
            assert!(read(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn ramp_damping_and_moves_have_defaults_and_can_be_off() {
        let read = |t: &str| serde_json::from_str::<Policy>(t).unwrap();
        let p =
            read(r#"{"moves": "10/m", "services": {"a": {"ramp": "off", "failback": "manual"}}}"#);
        assert_eq!(p.moves.to_string(), "10/m");
        let a = p.service(&ServiceName::parse("a").unwrap());
        assert_eq!((a.ramp.span(), a.failback), (None, Failback::Manual));
        let b = serde_json::from_str::<ServicePolicy>(r#"{"failback": "3s"}"#).unwrap();
        assert_eq!(b.ramp(), Duration::from_secs(3), "never longer than the hold");
        assert_eq!(a.damping.span(), Some(Duration::from_secs(60)));
        assert_eq!(read("{}"), Policy::default());
        assert_eq!(Policy::default().moves.to_string(), "120/m");
    }

    #[test]
    fn owners_of_an_exclusive_service_are_named_once_and_numbered_with_those_before() {
        let read = |t: &str| serde_json::from_str::<ServicePolicy>(t);
        let p = read(r#"{"mode": "exclusive", "exclusive": {"owners": ["a", "b", "c"]}}"#).unwrap();
        let e = p.exclusive.unwrap();
        assert_eq!((e.number, e.lease.to_string(), e.former.len()), (1, "5s".into(), 0));
        let changed =
            r#"{"exclusive": {"owners": ["a", "d"], "number": 2, "former": [["a", "b"]]}}"#;
        let policy = read(changed).unwrap();
        let bytes = crate::wire::encode_body(&policy).unwrap();
        assert_eq!(crate::wire::decode_body(&bytes), Ok(policy), "as gossip carries it");
        for bad in [
            r#"{"exclusive": {"owners": []}}"#,
            r#"{"exclusive": {"owners": ["a", "a"]}}"#,
            r#"{"exclusive": {"owners": ["a"], "number": 0}}"#,
            r#"{"exclusive": {"owners": ["a"], "number": 2}}"#,
            r#"{"exclusive": {"owners": ["a"], "former": [["b"]]}}"#,
            r#"{"exclusive": {"owners": ["a"], "lease": "100ms"}}"#,
            r#"{"exclusive": {"owners": ["a"], "lease": "61s"}}"#,
            r#"{"exclusive": {"owner": ["a"]}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn limits_are_off_until_they_are_written_and_print_as_they_read() {
        let read = |t: &str| serde_json::from_str::<ServicePolicy>(t);
        let p = read(
            r#"{"per_try_timeout": "250ms", "idle_timeout": "5m", "max_requests": 100,
                "rate_limit": "100/s", "retry_on": [503, "grpc-unavailable"]}"#,
        )
        .unwrap();
        assert_eq!(p.per_try_timeout.to_string(), "250ms");
        assert_eq!(p.idle_timeout, Patience::For(Span(Duration::from_secs(300))));
        assert_eq!((p.max_requests, p.max_requests.to_string()), (Ceiling::At(100), "100".into()));
        assert_eq!(p.rate_limit, Rate::Of { times: 100, per: Span(Duration::from_secs(1)) });
        assert_eq!(p.retry_on, [RetryOn::Status(503), RetryOn::GrpcUnavailable]);
        for text in ["100/s", "10/m", "5/10s", "off"] {
            assert_eq!(Rate::parse(text).unwrap().to_string(), text);
        }
        let none = read("{}").unwrap();
        assert_eq!(
            (none.relay, read(r#"{"relay": "off"}"#).unwrap().relay),
            (Relay::LastResort, Relay::Off)
        );
        assert_eq!((none.max_requests, none.rate_limit), (Ceiling::None, Rate::None));
        assert_eq!(read(r#"{"max_requests": "off"}"#).unwrap().max_requests, Ceiling::None);
        for bad in [
            r#"{"per_try_timeout": "0s"}"#,
            r#"{"idle_timeout": "5"}"#,
            r#"{"max_requests": 0}"#,
            r#"{"max_requests": "many"}"#,
            r#"{"rate_limit": "100"}"#,
            r#"{"rate_limit": "0/s"}"#,
            r#"{"rate_limit": "1/0s"}"#,
            r#"{"retry_on": ["500"]}"#,
            r#"{"relay": "always"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad} was taken");
        }
    }
}
