//! The shape of the file, before anything is checked but names of keys and kinds of values.
//!
//! Values are kept as the texts people wrote, with their place, so that every later check can point at
//! them and all of them can be told at once.

use std::fmt;
use std::ops::Range;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At a byte of the file.
    At(usize),
    /// In an environment variable.
    Variable(String),
}

/// A value as it was written.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) text: String,
    pub(super) place: Place,
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Scalar>::deserialize(d)?;
        let place = Place::At(spanned.span().start);
        Ok(Self { text: spanned.into_inner().0, place })
    }
}

/// Text, number or truth value, as text: `interval = 5` shall be told that 5 lacks a unit rather than
/// that it is no string.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Scalar, E> {
                Ok(Scalar(v.to_owned()))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Scalar, E> {
                Ok(Scalar(v.to_string()))
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Scalar, E> {
                Ok(Scalar(v.to_string()))
            }
            fn visit_bool<E: de::Error>(self, v: bool) -> Result<Scalar, E> {
                Ok(Scalar(v.to_string()))
            }
        }
        d.deserialize_any(Any)
    }
}

/// A table with the place of its heading.
#[derive(Clone, Debug)]
pub(super) struct Table<T> {
    pub(super) place: Place,
    pub(super) keys: T,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(d)?;
        let Range { start, .. } = spanned.span();
        Ok(Self { place: Place::At(start), keys: spanned.into_inner() })
    }
}

macro_rules! tables {
    ($($name:ident { $($field:ident: $type:ty),+ $(,)? })+) => {$(
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct $name { $(pub(super) $field: $type),+ }
    )+};
}

type Key = Option<Given>;
type List = Option<Vec<Given>>;

tables! {
    Config {
        name: Key, zone: Key, region: Key, state_dir: Key, log: Key,
        mesh: Mesh,
        join: Option<Table<Join>>,
        admin: Admin,
        outbound: Outbound,
        dns: Dns,
        upstream: Vec<Table<Upstream>>,
        ingress: Vec<Table<Ingress>>,
        endpoint: Vec<Table<Endpoint>>,
        telemetry: Telemetry,
        flight: Flight,
    }
    Mesh { listen: Key, advertise: Key, seeds: List, lane: Key, sensing: Key, relay: Key }
    Join { control: Key, token: Key, token_file: Key }
    Admin { socket: Key, http: Key }
    Outbound { http: Key, socks5: Key }
    Dns { listen: Key, address: Key, upstream: List }
    Telemetry { otlp: Key }
    Flight { size: Key }
    Upstream { service: Key, listen: Key, protocol: Key, idle: Key }
    Ingress {
        listen: Key, trust: List,
        tls: Option<Table<IngressTls>>,
        route: Vec<Table<IngressRoute>>,
    }
    IngressTls { certificate: Key, key: Key }
    IngressRoute { hosts: List, path: Key, service: Key }
    Endpoint {
        service: Key, address: Key, role: Key, priority: Key, protocol: Key,
        http: Key, pid_file: Key, weight: Key, activation_deadline: Key,
        warm_up: Option<Table<WarmUp>>,
        check: Option<Table<Check>>,
        activate: Option<Table<Hook>>,
        deactivate: Option<Table<Hook>>,
    }
    Check { kind: Key, path: Key, interval: Key, timeout: Key, fall: Key, rise: Key }
    Hook { kind: Key, url: Key, command: List, deadline: Key, attempts: Key }
    WarmUp { path: Key, requests: Key }
}
