//! What the service manager is told (sd_notify(3)), and the thread that watches the driver for it.
//!
//! Without `NOTIFY_SOCKET` the messages go nowhere. The watchdog is an OS thread, not a task: it must see
//! a runtime that hangs. It pings the service manager only while the driver's heartbeat moves, so that a
//! stuck agent is restarted instead of half living; a short stall is logged before that.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// How often the heartbeat is looked at where no service manager asks for pings.
const LOOK: Duration = Duration::from_secs(1);
/// A heartbeat that stood still for so long is logged: the driver beats at least once a second.
const STALL: Duration = Duration::from_secs(3);

/// The way to the service manager, if there is one. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Notify {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn from_environment() -> Self {
        let text = |name: &str| std::env::var(name).ok();
        let pid = text("WATCHDOG_PID").and_then(|pid| pid.parse().ok());
        let watchdog = text("WATCHDOG_USEC")
            .and_then(|micros| micros.parse().ok())
            .filter(|micros| *micros > 0 && pid.is_none_or(|pid: u32| pid == std::process::id()))
            .map(Duration::from_micros);
        let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        Self::to(&address, watchdog).unwrap_or_else(|error| {
            tracing::warn!(socket = ?address, %error, "service manager cannot be notified");
            Self::default()
        })
    }

    /// To the socket at `address` (a path, or `@name` for an abstract one), which wants a ping within
    /// every `watchdog`.
    pub fn to(address: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Some(Arc::new((socket, address))), watchdog })
    }

    fn send(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.0.send_to_addr(message.as_bytes(), &socket.1) {
            tracing::debug!(message, %error, "service manager not notified");
        }
    }

    /// The agent serves. Also ends a reload.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// The configuration is read anew; [`Self::ready`] follows.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
        let micros = now.unwrap_or_default().as_micros();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The agent drains and leaves.
    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    /// A line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    /// Watches `heartbeat`, a number that the driver changes at least once a second. Ends when dropped.
    pub fn watch(&self, heartbeat: Arc<AtomicU64>) -> io::Result<Watchdog> {
        // Three looks per period: one lost ping does not kill the agent.
        let look = self.watchdog.map_or(LOOK, |period| (period / 3).min(LOOK));
        let (stop, stopped) = mpsc::channel::<()>();
        let notify = self.clone();
        let thread = std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || notify.watch_until(&heartbeat, look, &stopped))?;
        Ok(Watchdog { stop: Some(stop), thread: Some(thread) })
    }

    fn watch_until(&self, heartbeat: &AtomicU64, look: Duration, stopped: &mpsc::Receiver<()>) {
        let mut seen = heartbeat.load(Ordering::Relaxed);
        let mut moved = Instant::now();
        let mut told = false;
        while stopped.recv_timeout(look) == Err(RecvTimeoutError::Timeout) {
            let now = heartbeat.load(Ordering::Relaxed);
            if now != seen {
                if told {
                    let stalled_ms = moved.elapsed().as_millis() as u64;
                    tracing::warn!(stalled_ms, "driver goes on after a stall");
                }
                (seen, moved, told) = (now, Instant::now(), false);
                if self.watchdog.is_some() {
                    self.send("WATCHDOG=1");
                }
            } else if !told && moved.elapsed() >= STALL {
                told = true;
                let stalled_ms = moved.elapsed().as_millis() as u64;
                tracing::error!(
                    stalled_ms,
                    "driver stands still; the service manager is not pinged"
                );
            }
        }
    }
}

/// Messages are lines: what comes from elsewhere must not make two of one.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// The running watch over the driver. Dropping it ends the thread.
#[derive(Debug)]
pub struct Watchdog {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It wakes at once, the channel being closed; had it panicked, there is nothing to save.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::disk::tests::Scratch;

    /// A service manager: a socket that reads messages.
    fn manager(scratch: &Scratch, watchdog: Option<Duration>) -> (UnixDatagram, Notify) {
        let path = scratch.0.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (socket, Notify::to(path.as_os_str(), watchdog).unwrap())
    }

    fn next(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let n = socket.recv(&mut buffer).expect("no message within 10 s");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }

    #[test]
    fn messages_are_those_of_sd_notify() {
        let scratch = Scratch::new();
        let (socket, notify) = manager(&scratch, None);
        notify.ready("serving 2 endpoints\nX=1");
        assert_eq!(next(&socket), "READY=1\nSTATUS=serving 2 endpoints X=1");
        notify.reloading();
        let reloading = next(&socket);
        let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(micros.parse::<u64>().unwrap() > 0);
        notify.status("draining");
        assert_eq!(next(&socket), "STATUS=draining");
        notify.stopping("left");
        assert_eq!(next(&socket), "STOPPING=1\nSTATUS=left");
        Notify::default().ready("to nobody");
    }

    #[test]
    fn an_abstract_socket_is_reached_by_its_at_sign() {
        let name = format!("hearth-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Notify::to(OsStr::new(&format!("@{name}")), None).unwrap().status("here");
        assert_eq!(next(&socket), "STATUS=here");
    }

    #[test]
    fn pings_come_while_the_heartbeat_moves_and_only_then() {
        let scratch = Scratch::new();
        let (socket, notify) = manager(&scratch, Some(Duration::from_millis(30)));
        let heartbeat = Arc::new(AtomicU64::new(0));
        let beating = Arc::new(AtomicBool::new(true));
        let (beat, on) = (heartbeat.clone(), beating.clone());
        let driver = std::thread::spawn(move || {
            while on.load(Ordering::SeqCst) {
                beat.fetch_add(1, Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        let watchdog = notify.watch(heartbeat).unwrap();
        assert_eq!(next(&socket), "WATCHDOG=1");
        assert_eq!(next(&socket), "WATCHDOG=1");
        beating.store(false, Ordering::SeqCst);
        driver.join().unwrap();
        // What was sent, and the one look that may still see the last beat; then silence.
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let silent = (0..1_000).any(|_| socket.recv(&mut [0; 64]).is_err());
        assert!(silent, "pinged on although the heartbeat stands still");
        drop(watchdog);
    }
}
