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

    /// Makes the server that of `config`. On an error the one there was goes on.
    pub(super) fn set(&mut self, config: Option<&Dns>) -> Result<(), DnsError> {
        match (config, &self.server) {
            (Some(config), Some(server)) if server.bound() == config.listen => {
                server.reconfigure(config.clone());
            }
            (Some(config), _) => {
                let (names, metrics) = (Ports(self.proxy.clone()), self.metrics.clone());
                let server = Server::start(config, names, metrics, &self.runtime)?;
                tracing::info!(listen = %server.bound(), "names are answered");
                self.server = Some(server);
            }
            (None, _) => self.server = None,
        }
        Ok(())
    }
}
