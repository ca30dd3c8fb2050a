//! What a reload may change while the agent runs, and what needs a restart.
//!
//! A reload is all or nothing: if one key that needs a restart differs, nothing of the new file is used,
//! so that what runs is always one file and never a mixture.

use hearth_proto::ids::ServiceName;

use super::{Config, Endpoint};

/// What differs between the configuration in force and a new one that may replace it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Endpoints that are new, by service and instance.
    pub added: Vec<(ServiceName, u16)>,
    /// Endpoints that are gone.
    pub removed: Vec<(ServiceName, u16)>,
    /// Endpoints whose address, role, check or hooks differ.
    pub altered: Vec<(ServiceName, u16)>,
    /// The upstream ports differ.
    pub upstreams: bool,
    /// The port for SOCKS differs.
    pub socks: bool,
    /// Ports for clients outside the mesh, or their routes, differ.
    pub ingresses: bool,
    /// The DNS server differs.
    pub dns: bool,
    /// The log filter differs.
    pub log: bool,
    /// The place traces go to differs.
    pub telemetry: bool,
    /// The seeds differ.
    pub seeds: bool,
    /// What carries requests differs.
    pub lane: bool,
    /// Whether silence is sensed differs.
    pub sensing: bool,
    /// Whether others are relayed for differs.
    pub relay: bool,
    /// Zone or region differ.
    pub locality: bool,
    /// The control plane's address or the token differ.
    pub join: bool,
}

impl Changes {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Keys of the new file that cannot take effect without a restart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{file}: not reloaded, the agent goes on with the configuration it has: {} cannot change while it \
     runs\n  hint: restart the agent to use the new file, or undo the change",
    list(keys)
)]
pub struct NeedsRestart {
    /// The file.
    pub file: String,
    /// Key, value in force, new value.
    pub keys: Vec<(&'static str, String, String)>,
}

fn list(keys: &[(&'static str, String, String)]) -> String {
    let one = |(key, old, new): &(&str, String, String)| format!("{key} ({old} to {new})");
    keys.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Config {
    /// What would change if `new` took the place of this configuration.
    pub fn diff(&self, new: &Self) -> Result<Changes, NeedsRestart> {
        let off = |address: Option<std::net::SocketAddr>| {
            address.map_or_else(|| "off".to_owned(), |a| a.to_string())
        };
        let fixed = |c: &Self| {
            [
                ("name", c.name.to_string()),
                ("state_dir", c.state_dir.display().to_string()),
                ("mesh.listen", c.mesh.listen.to_string()),
                ("mesh.advertise", c.mesh.advertise.to_string()),
                ("admin.socket", c.admin.socket.display().to_string()),
                ("admin.http", off(c.admin.http)),
                (
                    "flight.size",
                    c.flight.map_or_else(|| "off".to_owned(), |n| format!("{n} bytes")),
                ),
                ("outbound.http", off(c.outbound)),
            ]
        };
        let keys: Vec<_> = fixed(self)
            .into_iter()
            .zip(fixed(new))
            .filter(|((_, old), (_, new))| old != new)
            .map(|((key, old), (_, new))| (key, old, new))
            .collect();
        if !keys.is_empty() {
            return Err(NeedsRestart { file: new.file.clone(), keys });
        }
        let key = |e: &Endpoint| (e.service.clone(), e.instance);
        let among = |e: &Endpoint, others: &[Endpoint]| {
            others.iter().find(|o| (&o.service, o.instance) == (&e.service, e.instance)).cloned()
        };
        let (old_ones, new_ones) = (&self.endpoints, &new.endpoints);
        let altered = |e: &&Endpoint| among(e, old_ones).is_some_and(|old| old != **e);
        Ok(Changes {
            added: new_ones.iter().filter(|e| among(e, old_ones).is_none()).map(key).collect(),
            removed: old_ones.iter().filter(|e| among(e, new_ones).is_none()).map(key).collect(),
            altered: new_ones.iter().filter(altered).map(key).collect(),
            upstreams: self.upstreams != new.upstreams,
            socks: self.socks != new.socks,
            ingresses: self.ingresses != new.ingresses,
            dns: self.dns != new.dns,
            log: self.log != new.log,
            telemetry: self.otlp != new.otlp,
            seeds: self.mesh.seeds != new.mesh.seeds,
            lane: self.mesh.lane != new.mesh.lane,
            sensing: self.mesh.sensing != new.mesh.sensing,
            relay: self.mesh.relay != new.mesh.relay,
            locality: (&self.zone, &self.region) != (&new.zone, &new.region),
            join: self.join != new.join,
        })
    }
}
