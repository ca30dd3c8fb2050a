//! `control.toml`: what the daemon may be told, and how `init` writes it.
//!
//! Unknown keys are refused with their place. What is not here (limits, intervals) is a constant with
//! its reason where it is used.

use std::net::SocketAddr;
use std::time::Duration;

use hearth_proto::ids::{NodeName, TrustDomain};
use hearth_proto::settings::{self, SettingsError};
use hearth_proto::time::Span;
use serde::{Deserialize, Serialize};

use crate::authority::{Address, NODE_LIFE};

/// Shortest life of a node's certificate: below it, renewal at half-life is a load of its own.
const MIN_LIFE: Duration = Duration::from_secs(60);
/// Longest life of a node's certificate: there is no reason to let a stolen key live longer.
const MAX_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This control plane's name.
    pub name: NodeName,
    /// The trust domain; must be the root's.
    pub trust_domain: TrustDomain,
    /// Where the REST API listens.
    pub listen: SocketAddr,
    /// IP addresses and DNS names under which it is reached: they stand in its certificate.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Mesh addresses of agents to push to, beside those learnt at join.
    #[serde(default)]
    pub agents: Vec<SocketAddr>,
    /// Plain HTTP for /metrics, /live and /ready; empty is off.
    #[serde(default = "default_metrics")]
    pub metrics: String,
    /// Log filter.
    #[serde(default = "default_log")]
    pub log: String,
    /// How many agents are told directly; gossip tells the rest.
    #[serde(default = "default_fanout")]
    pub fanout: usize,
    /// Life of a node's certificate.
    #[serde(default = "default_life")]
    pub certificate_life: Span,
}

/// The part of a log filter that is no level. A lone word would be taken for a module's name, and all
/// else be silenced.
fn wrong_level(filter: &str) -> Option<&str> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let levels = filter.split(',').map(|part| part.rsplit('=').next().unwrap_or(part).trim());
    levels.into_iter().find(|word| !LEVELS.contains(&word.to_ascii_lowercase().as_str()))
}

fn default_metrics() -> String {
    "127.0.0.1:7946".into()
}
fn default_log() -> String {
    "info".into()
}
/// Three: one may die within the second, one may be cut off.
fn default_fanout() -> usize {
    3
}
fn default_life() -> Span {
    Span(NODE_LIFE)
}

impl Config {
    /// The settings `init` starts from.
    pub fn new(name: NodeName, trust_domain: TrustDomain, listen: SocketAddr) -> Self {
        Self {
            name,
            trust_domain,
            listen,
            addresses: Vec::new(),
            agents: Vec::new(),
            metrics: default_metrics(),
            log: default_log(),
            fanout: default_fanout(),
            certificate_life: default_life(),
        }
    }

    /// Reads and checks the text of `file`.
    pub fn parse(file: &str, text: &str) -> Result<Self, SettingsError> {
        let config: Self = settings::parse(file, text)?;
        let fault = |what: String, hint: &str| SettingsError {
            file: file.to_owned(),
            place: None,
            what,
            hint: Some(hint.to_owned()),
        };
        config.addresses().map_err(|e| {
            fault(format!("`addresses`: {e}"), "write for example addresses = [\"192.0.2.2\"]")
        })?;
        config.metrics().map_err(|what| {
            fault(what, "write for example metrics = \"127.0.0.1:7946\", or \"\" for none")
        })?;
        let life = config.certificate_life.0;
        if !(MIN_LIFE..=MAX_LIFE).contains(&life) {
            return Err(fault(
                format!("`certificate_life` is {}", config.certificate_life),
                "allowed is from 1m to 30d; the default is 24h",
            ));
        }
        if let Some(word) = wrong_level(&config.log) {
            return Err(fault(
                format!("`log` is {:?}: {word:?} is no level", config.log),
                "off, error, warn, info, debug or trace; or for example \
                 \"info,hearth_control::push=debug\"",
            ));
        }
        if config.fanout == 0 {
            return Err(fault("`fanout` is 0: nobody would be told".into(), "3 is the default"));
        }
        Ok(config)
    }

    /// The names that stand in the control certificate: those configured, the address listened on, and
    /// this host's own.
    pub fn addresses(&self) -> Result<Vec<Address>, crate::authority::AuthorityError> {
        let mut all: Vec<Address> = Vec::new();
        let listen = Some(self.listen.ip()).filter(|ip| !ip.is_unspecified());
        let own = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let texts = self.addresses.iter().cloned().chain(listen.map(|ip| ip.to_string()));
        for text in texts.chain(own) {
            let address = Address::parse(&text)?;
            if !all.contains(&address) {
                all.push(address);
            }
        }
        Ok(all)
    }

    /// Where metrics are served; `None` is off.
    pub fn metrics(&self) -> Result<Option<SocketAddr>, String> {
        match self.metrics.as_str() {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| format!("`metrics` is {text:?}, which is no address with a port")),
        }
    }

    /// The text `init` writes.
    pub fn render(&self) -> String {
        let list = |items: Vec<String>| {
            let quoted: Vec<String> = items.iter().map(|i| format!("{i:?}")).collect();
            format!("[{}]", quoted.join(", "))
        };
        let agents = self.agents.iter().map(ToString::to_string).collect();
        let lines = [
            (format!("name = \"{}\"", self.name), "this control plane"),
            (
                format!("trust_domain = \"{}\"", self.trust_domain),
                "fixed by root.pem; another one is a new mesh",
            ),
            (format!("listen = \"{}\"", self.listen), "the API (HTTPS)"),
            (
                format!("addresses = {}", list(self.addresses.clone())),
                "IPs and DNS names this host is reached under",
            ),
            (
                format!("agents = {}", list(agents)),
                "mesh addresses to push policy to; joined agents are known anyway",
            ),
            (
                format!("metrics = \"{}\"", self.metrics),
                "/metrics, /live, /ready in plain HTTP; \"\" = off",
            ),
            (format!("log = \"{}\"", self.log), "error, warn, info, debug"),
            (format!("fanout = {}", self.fanout), "agents told directly; gossip tells the rest"),
            (
                format!("certificate_life = \"{}\"", self.certificate_life),
                "of nodes; they renew from half of it",
            ),
        ];
        let mut text = "# Hearth control plane. After a change: systemctl restart hearth-control\n\
                        # (traffic does not notice).\n\n"
            .to_owned();
        for (setting, comment) in lines {
            text.push_str(&format!("{setting:<38} # {comment}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let name = NodeName::parse("control-1").unwrap();
        let domain = TrustDomain::parse("mesh.example").unwrap();
        Config::new(name, domain, "10.77.0.2:7945".parse().unwrap())
    }

    #[test]
    fn what_init_writes_is_read_back_unchanged() {
        let mut written = config();
        written.addresses = vec!["10.77.0.2".into(), "control.example".into()];
        written.agents = vec!["10.77.0.11:7940".parse().unwrap()];
        assert_eq!(Config::parse("control.toml", &written.render()).unwrap(), written);
    }

    #[test]
    fn the_certificate_names_where_we_listen_and_this_host_once_each() {
        let mut c = config();
        c.addresses = vec!["10.77.0.2".into(), "control.example".into()];
        let names: Vec<String> = c.addresses().unwrap().iter().map(|a| format!("{a:?}")).collect();
        assert_eq!(
            names,
            [
                "Ip(10.77.0.2)",
                "Dns(\"control.example\")",
                "Dns(\"localhost\")",
                "Ip(127.0.0.1)",
                "Ip(::1)"
            ]
        );
    }

    #[test]
    fn each_wrong_setting_says_which_and_what_to_write() {
        let told = |change: &str| {
            let base =
                "name = \"control-1\"\ntrust_domain = \"mesh.example\"\nlisten = \"127.0.0.1:0\"\n";
            Config::parse("control.toml", &format!("{base}{change}\n")).unwrap_err().to_string()
        };
        assert_eq!(
            told("metrics = \"7946\""),
            "control.toml: `metrics` is \"7946\", which is no address with a port\n  hint: write for \
             example metrics = \"127.0.0.1:7946\", or \"\" for none"
        );
        assert_eq!(
            told("certificate_life = \"5s\""),
            "control.toml: `certificate_life` is 5s\n  hint: allowed is from 1m to 30d; the default \
             is 24h"
        );
        assert_eq!(
            told("log = \"inof\""),
            "control.toml: `log` is \"inof\": \"inof\" is no level\n  hint: off, error, warn, info, debug \
             or trace; or for example \"info,hearth_control::push=debug\""
        );
        assert_eq!(
            told("addresses = [\"not a name\"]"),
            "control.toml: `addresses`: \"not a name\" is neither an IP address nor a DNS name\n  \
             hint: write for example addresses = [\"192.0.2.2\"]"
        );
        assert_eq!(
            told("agnets = []"),
            "control.toml:4:1: unknown field `agnets`, expected one of `name`, `trust_domain`, \
             `listen`, `addresses`, `agents`, `metrics`, `log`, `fanout`, `certificate_life`\n  hint: \
             did you mean `agents`?"
        );
    }
}
