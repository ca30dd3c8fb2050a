//! A link in user space: for kernels without netem, and for faults netem cannot show.
//!
//! Owns two TAP devices, `eth0` in the host's namespace and the host's port on the switch, and one
//! thread that carries frames between them, delayed, jittered, reordered and duplicated as the
//! [`Weather`] says. TAP frames are complete (checksums made, segments cut), so what arrives is what
//! a real wire would carry.
//!
//! Frames wait in a bounded queue per direction; beyond it they are lost, as in a full switch.
//! Dropping the relay ends the thread, and with its last descriptor both devices vanish.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot;
use tun_rs::{AsyncDevice, DeviceBuilder, Layer, SyncDevice};

use super::error::LabError;
use super::space::Space;
use super::switch::{Switch, port};

/// Frames in flight per direction: 100 ms at 40,000 frames a second.
const QUEUE: usize = 4096;
/// An Ethernet frame at the usual MTU, with room for tags.
const FRAME: usize = 2048;

/// What the link does to frames, each way on its own. The default does nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Weather {
    /// Each frame is this late.
    pub delay: Duration,
    /// Each frame is up to this much later; order is kept.
    pub jitter: Duration,
    /// Share of frames that are overtaken by their followers, 0 to 1.
    pub reorder: f64,
    /// Share of frames that arrive twice, 0 to 1.
    pub duplicate: f64,
}

/// The running link.
#[derive(Debug)]
pub(super) struct Relay {
    weather: Arc<Mutex<Weather>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Makes both devices and starts to carry frames.
    pub(super) fn connect(
        host: &Space,
        switch: &Switch,
        number: u8,
        mac: &str,
    ) -> Result<Self, LabError> {
        let fail = |source| LabError::Space {
            action: "make a TAP device in",
            space: port(number),
            source,
        };
        let inner = tap(host, "eth0".to_owned(), Some(octets(mac))).map_err(fail)?;
        let outer = tap(switch.space(), port(number), None).map_err(fail)?;
        let name = port(number);
        switch.ip(&format!("link set {name} master br0\nlink set {name} up\n"))?;
        let weather = Arc::new(Mutex::new(Weather::default()));
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&weather);
        let thread = std::thread::Builder::new()
            .name(format!("link-{name}"))
            .spawn(move || run(inner, outer, &shared, stopped, u64::from(number)))
            .map_err(fail)?;
        Ok(Self { weather, stop: Some(stop), thread: Some(thread) })
    }

    /// Changes the weather for frames from now on.
    pub(super) fn set(&self, weather: Weather) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn tap(space: &Space, name: String, mac: Option<[u8; 6]>) -> io::Result<SyncDevice> {
    space
        .call(move || {
            let mut builder = DeviceBuilder::new().name(name).layer(Layer::L2).mtu(1500);
            if let Some(mac) = mac {
                builder = builder.mac_addr(mac);
            }
            builder.build_sync()
        })
        .map_err(io::Error::other)?
}

fn octets(mac: &str) -> [u8; 6] {
    let mut octets = [0; 6];
    for (octet, text) in octets.iter_mut().zip(mac.split(':')) {
        *octet = u8::from_str_radix(text, 16).unwrap_or(0);
    }
    octets
}

/// Body of the thread: both directions on one runtime, until told to stop or a device is gone.
fn run(
    inner: SyncDevice,
    outer: SyncDevice,
    weather: &Mutex<Weather>,
    stopped: oneshot::Receiver<()>,
    seed: u64,
) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    runtime.block_on(async {
        let (Ok(inner), Ok(outer)) = (AsyncDevice::new(inner), AsyncDevice::new(outer)) else {
            return;
        };
        tokio::select! {
            _ = stopped => {}
            _ = carry(&inner, &outer, weather, seed * 2) => {}
            _ = carry(&outer, &inner, weather, seed * 2 + 1) => {}
        }
    });
}

/// A frame on its way: due first, then in order of arrival.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct InFlight {
    due: Instant,
    number: u64,
    frame: Vec<u8>,
}

/// One direction.
async fn carry(
    from: &AsyncDevice,
    to: &AsyncDevice,
    weather: &Mutex<Weather>,
    seed: u64,
) -> io::Result<()> {
    let mut lane = Lane::new(seed);
    let mut buffer = [0; FRAME];
    loop {
        let next = lane.next_due();
        tokio::select! {
            length = from.recv(&mut buffer) => {
                let now = *weather.lock().unwrap_or_else(PoisonError::into_inner);
                lane.push(&buffer[..length?], now, Instant::now());
            }
            () = due(next) => {}
        }
        while let Some(frame) = lane.pop(Instant::now()) {
            // A device that is down or full loses the frame, as a wire does.
            let _ = to.send(&frame).await;
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The frames in flight in one direction, and when each is due. Pure but for its seeded chance.
#[derive(Debug)]
struct Lane {
    flight: BinaryHeap<Reverse<InFlight>>,
    last_due: Option<Instant>,
    count: u64,
    chance: StdRng,
}

impl Lane {
    fn new(seed: u64) -> Self {
        Self {
            flight: BinaryHeap::new(),
            last_due: None,
            count: 0,
            chance: StdRng::seed_from_u64(seed),
        }
    }

    fn push(&mut self, frame: &[u8], weather: Weather, now: Instant) {
        let copies = if self.chance.random_bool(weather.duplicate.clamp(0.0, 1.0)) { 2 } else { 1 };
        for _ in 0..copies {
            if self.flight.len() >= QUEUE {
                return;
            }
            let due = self.due(weather, now);
            self.count += 1;
            self.flight.push(Reverse(InFlight { due, number: self.count, frame: frame.to_vec() }));
        }
    }

    /// In order, unless this one is to be overtaken: then it is held back long enough for some
    /// followers to pass, and does not hold *them* back.
    fn due(&mut self, weather: Weather, now: Instant) -> Instant {
        let late = weather.jitter.mul_f64(self.chance.random_range(0.0..=1.0));
        let usual = now + weather.delay + late;
        if self.chance.random_bool(weather.reorder.clamp(0.0, 1.0)) {
            return usual + weather.jitter.max(Duration::from_millis(2));
        }
        let due = self.last_due.map_or(usual, |last| last.max(usual));
        self.last_due = Some(due);
        due
    }

    fn next_due(&self) -> Option<Instant> {
        self.flight.peek().map(|Reverse(f)| f.due)
    }

    fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        self.flight.pop().map(|Reverse(f)| f.frame)
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant, Lane, Weather};

    fn pass(weather: Weather) -> Vec<u8> {
        let (mut lane, start) = (Lane::new(7), Instant::now());
        for n in 0..100u8 {
            lane.push(&[n], weather, start + Duration::from_millis(n.into()));
        }
        let end = start + Duration::from_secs(10);
        std::iter::from_fn(|| lane.pop(end)).map(|f| f[0]).collect()
    }

    #[test]
    fn fair_weather_and_jitter_keep_the_order_and_lose_nothing() {
        let order: Vec<u8> = (0..100).collect();
        assert_eq!(pass(Weather::default()), order);
        let jitter = Duration::from_millis(30);
        let weather = Weather { jitter, ..Weather::default() };
        assert_eq!(pass(weather), order);
    }

    #[test]
    fn a_reordering_link_loses_nothing_and_some_frames_are_overtaken() {
        let weather = Weather { reorder: 0.2, ..Weather::default() };
        let mut seen = pass(weather);
        assert!(!seen.is_sorted());
        seen.sort_unstable();
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn a_duplicating_link_delivers_everything_at_least_once() {
        let weather = Weather { duplicate: 0.3, ..Weather::default() };
        let seen = pass(weather);
        assert!(seen.len() > 110 && seen.len() < 160, "{}", seen.len());
    }

    #[test]
    fn nothing_is_delivered_before_its_delay() {
        let (mut lane, start) = (Lane::new(1), Instant::now());
        let delay = Duration::from_millis(50);
        lane.push(&[1], Weather { delay, ..Weather::default() }, start);
        assert!(lane.pop(start + Duration::from_millis(49)).is_none());
        assert!(lane.pop(start + delay).is_some());
    }
}
