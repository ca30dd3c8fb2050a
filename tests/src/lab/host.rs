//! A host of the lab: a namespace with one address, a directory, and the processes started on it.
//!
//! Owns: its namespace, its processes and its faults. Two kinds of fault: to the *processes*
//! (freeze, kill) and to the *link* (carried out by the switch, where they are silent).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::sys::signal::Signal;

use super::error::LabError;
use super::process::{Process, Program};
use super::relay::{Relay, Weather};
use super::run::{Outcome, run_in};
use super::space::Space;
use super::switch::{Switch, Way, ip_batch, port};

/// How a host is connected to the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// The kernel's virtual cable: fast, faults by rule.
    #[default]
    Cable,
    /// A user-space link (TAP) that can also delay, reorder and duplicate; costs a copy a frame.
    Relay,
}

/// A host. Dropping it kills its processes and its namespace goes with them.
#[derive(Debug)]
pub struct Host {
    name: String,
    number: u8,
    ip: Ipv4Addr,
    dir: PathBuf,
    ledger: PathBuf,
    // Before `space`: processes are killed, then the relay ends, then the namespace.
    processes: Mutex<Vec<Arc<Process>>>,
    relay: Option<Relay>,
    space: Space,
    switch: Arc<Switch>,
}

impl Host {
    /// Makes the namespace and connects it. It is to [`meet`](Self::meet) the others before it sends anything.
    pub(super) fn new(seat: Seat<'_>, switch: &Arc<Switch>) -> Result<Self, LabError> {
        let space = Space::new(seat.name)?;
        // Router solicitations and duplicate address detection would be noise on the wire.
        let _ = space.call(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"))?;
        let mac = mac(seat.number);
        let relay = match seat.link {
            Link::Cable => {
                switch.connect(seat.number, &mac, space.path())?;
                None
            }
            Link::Relay => Some(Relay::connect(&space, switch, seat.number, &mac)?),
        };
        let batch = format!("link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\n", seat.ip);
        ip_batch(&space, seat.name, &batch)?;
        let dir = seat.root.join(seat.name);
        std::fs::create_dir_all(&dir).map_err(LabError::file("create", &dir))?;
        Ok(Self {
            name: seat.name.to_owned(),
            number: seat.number,
            ip: seat.ip,
            dir,
            ledger: seat.root.join(super::sweep::LEDGER),
            processes: Mutex::default(),
            relay,
            space,
            switch: Arc::clone(switch),
        })
    }

    /// Tells it where these others are; itself among them does not matter.
    pub(super) fn meet<'a>(
        &self,
        others: impl IntoIterator<Item = &'a Arc<Self>>,
    ) -> Result<(), LabError> {
        let others = others.into_iter().filter(|other| other.number != self.number);
        let batch: String = others.map(|other| neighbour(other.ip, other.number)).collect();
        if batch.is_empty() { Ok(()) } else { ip_batch(&self.space, &self.name, &batch) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number in the lab, from 1.
    pub(super) fn number(&self) -> u8 {
        self.number
    }

    /// Its address on the lab's network.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// `ip:port` on the lab's network.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.ip, port))
    }

    /// Its directory: configuration, state, logs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its namespace, for threads of the driver's own.
    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Where processes of its lab are noted.
    pub(super) fn ledger(&self) -> &Path {
        &self.ledger
    }

    /// Writes a file into its directory.
    ///
    /// # Errors
    /// [`LabError::File`].
    pub fn write(&self, file: &str, text: &str) -> Result<PathBuf, LabError> {
        let path = self.dir.join(file);
        std::fs::write(&path, text).map_err(LabError::file("write", &path))?;
        Ok(path)
    }

    /// Starts a program on it.
    ///
    /// # Errors
    /// [`LabError::Start`].
    pub fn spawn(&self, program: &Program) -> Result<Arc<Process>, LabError> {
        let (program, name) = (program.clone(), self.name.clone());
        let (dir, ledger) = (self.dir.clone(), self.ledger.clone());
        let process = self.space.call(move || Process::start(&program, &name, &dir, &ledger))??;
        let process = Arc::new(process);
        let mut all = self.lock();
        all.retain(|p| p.running());
        all.push(Arc::clone(&process));
        Ok(process)
    }

    /// Runs a program on it to its end.
    ///
    /// # Errors
    /// [`LabError::Start`] when it cannot be started; an exit code is not an error here.
    pub fn run(&self, program: impl AsRef<Path>, args: &[&str]) -> Result<Outcome, LabError> {
        run_in(&self.space, &self.name, program, args, None)
    }

    /// Runs an async function on it, on a thread and runtime of its own.
    ///
    /// # Errors
    /// [`LabError::Space`] when the thread cannot be started.
    pub fn run_async<T, F, Fut>(&self, name: &str, f: F) -> Result<JoinHandle<T>, LabError>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T>,
    {
        self.space.thread(name, move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap_or_else(|e| panic!("cannot start a runtime: {e}"));
            runtime.block_on(f())
        })
    }

    /// SIGKILLs every process on it: the operating system goes on and resets their connections.
    ///
    /// # Errors
    /// [`LabError::Signal`].
    pub fn kill_all(&self) -> Result<(), LabError> {
        // All are told before the end of any is waited for: a host does not die piece by piece.
        let mut all = self.lock();
        let told = all.iter().try_for_each(|process| process.signal(Signal::SIGKILL));
        all.drain(..).try_for_each(|process| process.kill())?;
        told
    }

    /// Stops every process on it; the kernel still acknowledges TCP.
    ///
    /// # Errors
    /// [`LabError::Signal`].
    pub fn freeze(&self) -> Result<(), LabError> {
        self.lock().iter().try_for_each(|p| p.stop())
    }

    /// Ends a freeze.
    ///
    /// # Errors
    /// [`LabError::Signal`].
    pub fn thaw(&self) -> Result<(), LabError> {
        self.lock().iter().try_for_each(|p| p.cont())
    }

    /// Nothing to or from it arrives, and nobody is told.
    ///
    /// # Errors
    /// [`LabError::Failed`] with what nftables said.
    pub fn black_hole(&self) -> Result<(), LabError> {
        Self::black_holes(&[self])
    }

    /// All of these hosts (of one lab) fall silent in the same instant.
    ///
    /// # Errors
    /// [`LabError::Failed`] with what nftables said.
    pub fn black_holes(hosts: &[&Self]) -> Result<(), LabError> {
        let Some(first) = hosts.first() else { return Ok(()) };
        let numbers: Vec<u8> = hosts.iter().map(|host| host.number).collect();
        first.switch.block(&numbers, &[Way::In, Way::Out])
    }

    /// Only one way of its link is dead.
    ///
    /// # Errors
    /// [`LabError::Failed`] with what nftables said.
    pub fn one_way(&self, dead: Way) -> Result<(), LabError> {
        self.switch.block(&[self.number], &[dead])
    }

    /// No UDP passes its link, TCP does: what many a firewall is.
    ///
    /// # Errors
    /// [`LabError::Failed`] with what nftables said.
    pub fn block_udp(&self) -> Result<(), LabError> {
        self.switch.block_udp(self.number)
    }

    /// Loses this share of frames each way, by chance. 0 ends it.
    ///
    /// # Errors
    /// [`LabError::Failed`] with what nftables said.
    pub fn loss(&self, percent: f32) -> Result<(), LabError> {
        let thousandths = (percent.clamp(0.0, 100.0) * 10.0).round();
        // In range by the clamp above.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.switch.lose(self.number, thousandths as u16)
    }

    /// This host and `other` no longer hear each other.
    ///
    /// # Errors
    /// [`LabError::Failed`] with what nftables said.
    pub fn cut_from(&self, other: &Self) -> Result<(), LabError> {
        self.switch.cut(self.number, other.number)
    }

    /// Delay, jitter, reordering and duplication, from now on.
    ///
    /// # Errors
    /// [`LabError::Unable`] on a host that was not connected by [`Link::Relay`].
    pub fn weather(&self, weather: Weather) -> Result<(), LabError> {
        let Some(relay) = &self.relay else {
            return Err(LabError::Unable {
                host: self.name.clone(),
                reason: "its link is a cable; make the host with Link::Relay to delay frames \
                         (kernels without netem cannot do it)"
                    .to_owned(),
            });
        };
        relay.set(weather);
        Ok(())
    }

    /// Limits its link to `kbit` per second each way (token bucket).
    ///
    /// # Errors
    /// [`LabError::Failed`] with what `tc` said.
    pub fn rate(&self, kbit: u32) -> Result<(), LabError> {
        let rate = format!("{kbit}kbit");
        let port = port(self.number);
        for (space, device) in [(&self.space, "eth0"), (self.switch.space(), port.as_str())] {
            let bucket = ["rate", &rate, "burst", "32kb", "latency", "100ms"];
            let mut args = vec!["qdisc", "replace", "dev", device, "root", "tbf"];
            args.extend(bucket);
            run_in(space, &self.name, "tc", &args, None)?.success()?;
        }
        Ok(())
    }

    /// Has its kernel cut what is sent in one go into frames before the link counts them, as a wire would see them.
    ///
    /// # Errors
    /// [`LabError::Failed`] with what `ip` said.
    pub fn cut_frames(&self) -> Result<(), LabError> {
        ip_batch(&self.space, &self.name, "link set dev eth0 gso_max_segs 1\n")
    }

    /// Ends every fault of its link; frozen processes stay frozen (see [`Host::thaw`]).
    ///
    /// # Errors
    /// [`LabError::Failed`] with what nftables said.
    pub fn heal(&self) -> Result<(), LabError> {
        self.switch.heal(self.number)?;
        if let Some(relay) = &self.relay {
            relay.set(Weather::default());
        }
        let port = port(self.number);
        for (space, device) in [(&self.space, "eth0"), (self.switch.space(), port.as_str())] {
            // "No such qdisc" when no rate was set: the link is as it should be.
            let args = ["qdisc", "del", "dev", device, "root"];
            run_in(space, &self.name, "tc", &args, None)?;
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Process>>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.kill_all();
    }
}

/// Where a new host goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat<'a> {
    pub(super) name: &'a str,
    pub(super) number: u8,
    pub(super) ip: Ipv4Addr,
    pub(super) root: &'a Path,
    pub(super) link: Link,
}

/// A locally administered address, the same for the same number.
fn mac(number: u8) -> String {
    format!("02:77:00:00:00:{number:02x}")
}

/// A permanent neighbour entry. Without it a black-holed peer would be *noticed*: its address no
/// longer resolves and the kernel itself tells senders "no route to host" within seconds.
fn neighbour(ip: Ipv4Addr, number: u8) -> String {
    let mac = mac(number);
    format!("neigh replace {ip} lladdr {mac} dev eth0 nud permanent\n")
}
