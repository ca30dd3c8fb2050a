//! The lab: hosts that are network namespaces, with real processes and real faults.
//!
//! Owns a switch and its hosts. Nothing here touches the machine's own network: hosts hang on a
//! bridge in a namespace of its own, addresses are `10.77.x.y`, and all of it vanishes with the
//! driver process, because namespaces are anonymous and every child asks to be killed with its
//! parent. What a dead lab leaves is a directory of logs, which a later lab sweeps.
//!
//! ```text
//!   switch namespace ── br0 ┬─ p1 ═══ eth0  host "caller"   10.77.x.1
//!                           ├─ p2 ═══ eth0  host "hot-1"    10.77.x.2
//!                           └─ …            rules in the bridge family drop silently
//! ```
//!
//! Start with [`entry::in_lab`] in a test or [`Lab::new`] in a program that is already root (or in
//! its own user namespace); then [`Lab::host`], [`agent`], [`control`], [`web`], or all of it with [`mesh`].

pub mod agent;
pub mod binaries;
pub mod control;

pub mod entry;
pub mod error;
pub mod hooked;
pub mod host;
pub mod http;
pub mod mesh;
pub mod process;
pub mod relay;
pub mod run;
pub mod space;
pub mod spec;
mod sweep;
mod switch;
pub mod wait;
pub mod web;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use error::LabError;
pub use host::{Host, Link};
pub use process::{Process, Program};
pub use relay::Weather;
pub use switch::{Sent, Way};

use host::Seat;
use switch::Switch;

/// Hosts of one lab: they share a /24.
pub const MOST_HOSTS: u8 = 250;

/// One lab. Dropping it kills every process and removes every namespace; its directory stays when
/// the thread is panicking or `HEARTH_LAB_KEEP` is set, so that the logs can be read.
#[derive(Debug)]
pub struct Lab {
    id: String,
    subnet: u8,
    dir: PathBuf,
    keep: AtomicBool,
    // Hosts first: their processes must be gone before the switch is.
    hosts: Mutex<Vec<Arc<Host>>>,
    switch: Arc<Switch>,
}

impl Lab {
    /// Makes an empty lab, after sweeping what dead ones left.
    ///
    /// # Errors
    /// [`LabError`] when namespaces, `ip` or `nft` are not to be had.
    pub fn new() -> Result<Self, LabError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let id = format!("hl{pid}-{count}");
        let root = binaries::target_dir().join("lab");
        sweep::sweep(&root);
        let dir = root.join(&id);
        std::fs::create_dir_all(&dir).map_err(LabError::file("create", &dir))?;
        let owner = format!("{pid} {}\n", sweep::born(pid.cast_signed()).unwrap_or(0));
        let owner_file = dir.join(sweep::OWNER);
        std::fs::write(&owner_file, owner).map_err(LabError::file("write", &owner_file))?;
        Ok(Self {
            switch: Arc::new(Switch::new(&id)?),
            id,
            // Any value serves: each lab's network is its own. Different ones read better in logs.
            subnet: u8::try_from(count % 250).unwrap_or(0) + 1,
            dir,
            keep: AtomicBool::new(std::env::var_os("HEARTH_LAB_KEEP").is_some()),
            hosts: Mutex::default(),
        })
    }

    /// Its id: `hl<pid>-<n>`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its directory under `target/lab`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves its directory when it ends: something went wrong and the logs are to be read.
    pub fn keep_files(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Adds a host on a cable.
    ///
    /// # Errors
    /// [`LabError`] with the step that failed.
    pub fn host(&self, name: &str) -> Result<Arc<Host>, LabError> {
        self.host_on(name, Link::Cable)
    }

    /// Adds a host on the given kind of link.
    ///
    /// # Errors
    /// [`LabError`] with the step that failed.
    pub fn host_on(&self, name: &str, link: Link) -> Result<Arc<Host>, LabError> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = self.seated(name, link, hosts.len())?;
        host.meet(hosts.iter())?;
        hosts.iter().try_for_each(|other| other.meet([&host]))?;
        hosts.push(Arc::clone(&host));
        Ok(host)
    }

    /// Adds many hosts on cables. They are told of each other all at once: one after the other costs a program
    /// for each pair.
    ///
    /// # Errors
    /// [`LabError`] with the step that failed.
    pub fn crowd(&self, names: &[String]) -> Result<Vec<Arc<Host>>, LabError> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let before = hosts.len();
        for name in names {
            let host = self.seated(name, Link::Cable, hosts.len())?;
            hosts.push(host);
        }
        let (old, new) = hosts.split_at(before);
        old.iter().try_for_each(|host| host.meet(new))?;
        new.iter().try_for_each(|host| host.meet(hosts.iter()))?;
        Ok(new.to_vec())
    }

    /// What each host has sent so far, in the order in which they were made.
    ///
    /// # Errors
    /// [`LabError`] when the switch's counters cannot be read.
    pub fn sent(&self) -> Result<Vec<Sent>, LabError> {
        let by_port = self.switch.received()?;
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |host: &Arc<Host>| by_port.get(&host.number()).copied().unwrap_or_default();
        Ok(hosts.iter().map(of).collect())
    }

    /// A host behind so many others, whom it has not met.
    fn seated(&self, name: &str, link: Link, before: usize) -> Result<Arc<Host>, LabError> {
        let number = u8::try_from(before + 1).ok().filter(|&number| number <= MOST_HOSTS);
        let number = number.ok_or_else(|| LabError::Unable {
            host: name.to_owned(),
            reason: format!("a lab has at most {MOST_HOSTS} hosts"),
        })?;
        let ip = Ipv4Addr::new(10, 77, self.subnet, number);
        let seat = Seat { name, number, ip, root: &self.dir, link };
        Host::new(seat, &self.switch).map(Arc::new)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let hosts = std::mem::take(&mut *self.hosts.lock().unwrap_or_else(PoisonError::into_inner));
        for host in &hosts {
            let _ = host.kill_all();
        }
        // What a hook started is nobody's child here.
        sweep::end_all(&self.dir.join(sweep::LEDGER));
        let keep = std::thread::panicking() || self.keep.load(Ordering::Relaxed);
        if keep {
            eprintln!("lab {}: logs stay in {}", self.id, self.dir.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
