//! Telling systemd how we are (sd_notify(3)): ready, stopping, and that we are not stuck.
//!
//! Without `NOTIFY_SOCKET` everything here does nothing.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to systemd, if it started us.
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

impl Notify {
    /// Looks for systemd in the environment.
    pub fn from_environment() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let address = match name.as_bytes() {
                [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
                _ => SocketAddr::from_pathname(&name),
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        });
        Self { socket }
    }

    fn send(&self, state: &str) {
        if let Some((socket, address)) = &self.socket {
            // systemd that does not listen any more is no reason to stop.
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }

    /// The API answers.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// We end.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// We are not stuck.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// How often to say so: half of what systemd waits for.
    pub fn interval(&self) -> Option<Duration> {
        let microseconds: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
        self.socket.as_ref()?;
        Some(Duration::from_micros(microseconds / 2).max(Duration::from_millis(100)))
    }
}
