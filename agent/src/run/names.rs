//! The DNS server through starts, reloads and stops.

use hearth_proto::ids::ServiceName;
use tokio::runtime::Handle;

use crate::config::Dns;
use crate::dns::{Directory, DnsError, DnsMetrics, Found, Over, Server};
use crate::proxy::Proxy;

/// The server, where one is configured.
pub(super) struct Names {
    proxy: Proxy,
    metrics: DnsMetrics,
    runtime: Handle,
    server: Option<Server>,
}

/// The traffic path knows which port leads where.
struct Ports(Proxy);

impl Directory for Ports {
    fn find(&self, service: &ServiceName, over: Over) -> Found {
        self.0.find(service, over)
    }
}

impl Names {
    pub(super) fn new(proxy: Proxy, metrics: DnsMetrics, runtime: Handle) -> Self {
        Self { proxy, metrics, runtime, server: None }
    }

    /// Opens the ports that `config` wants and that are not open yet; nothing else changes.
    pub(super) fn open(&self, config: Option<&Dns>) -> Result<Option<Server>, DnsError> {
        let Some(config) = config else { return Ok(None) };
        if self.server.as_ref().is_some_and(|server| server.bound() == config.listen) {
            return Ok(None);
        }
        let (names, metrics) = (Ports(self.proxy.clone()), self.metrics.clone());
        let server = Server::start(config, names, metrics, &self.runtime)?;
        tracing::info!(listen = %server.bound(), "names are answered");
        Ok(Some(server))
    }

    /// Makes the server that of `config`, for which `opened` was opened.
    pub(super) fn settle(&mut self, config: Option<&Dns>, opened: Option<Server>) {
        match (config, opened) {
            (None, _) => self.server = None,
            (Some(_), Some(opened)) => self.server = Some(opened),
            (Some(config), None) => {
                if let Some(server) = &self.server {
                    server.reconfigure(config.clone());
                }
            }
        }
    }
}
