//! What we know of our own endpoints: http and tcp checks, by their owner only.
//!
//! [`CheckState`] decides (pure); a task per endpoint asks the application and tells the driver of
//! changes. The first check is made at once, and so is one after each sign that the application is gone: it
//! refused a connection, broke one off, or its process ended. The first and the last are a verdict, until a
//! check says otherwise; the second makes the next failure one. A task owns nothing but its counters: dropping its
//! [`Checker`] ends it, and a new one starts from nothing.

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use hearth_proto::ids::ServiceName;
use hearth_proto::time::Span;
use http::Request;
use http_body_util::Full;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::{Check, CheckKind, Endpoint, HttpVersion};
use crate::pipe::AppAddress;
use crate::process::Exits;
use crate::{jitter, loopback};

/// An application that breaks off one request after the other is not checked more often.
const SUSPICIONS_APART: Duration = Duration::from_millis(20);

/// What the checks of an endpoint found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckEvent {
    /// The service.
    pub service: ServiceName,
    /// Its instance on this node.
    pub instance: u16,
    /// Whether it may serve.
    pub healthy: bool,
    /// What the last check saw, in words.
    pub detail: String,
}

/// A verdict that differs from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// From now on it may serve.
    Healthy,
    /// From now on it may not.
    Unhealthy,
}

/// The verdict on one endpoint, from its checks' results.
///
/// Before the first verdict one failure suffices for "unhealthy": nothing is taken away from anyone.
/// After that `fall` failures in a row make it unhealthy, `rise` successes in a row healthy.
#[derive(Clone, Debug)]
pub struct CheckState {
    fall: u32,
    rise: u32,
    verdict: Option<Change>,
    /// Results in a row that speak against the verdict.
    against: u32,
}

impl CheckState {
    /// No verdict yet.
    pub fn new(fall: u32, rise: u32) -> Self {
        Self { fall: fall.max(1), rise: rise.max(1), verdict: None, against: 0 }
    }

    /// Takes one result; says so if it changes the verdict.
    pub fn observe(&mut self, ok: bool) -> Option<Change> {
        let (found, needed) = match (ok, self.verdict) {
            (true, Some(Change::Healthy)) | (false, Some(Change::Unhealthy)) => {
                self.against = 0;
                return None;
            }
            (true, _) => (Change::Healthy, self.rise),
            (false, Some(_)) => (Change::Unhealthy, self.fall),
            (false, None) => (Change::Unhealthy, 1),
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.verdict = Some(found);
        self.verdict
    }

    /// Somebody saw the application refuse: unhealthy at once, until `rise` successes follow.
    pub fn refused(&mut self) {
        self.verdict = Some(Change::Unhealthy);
        self.against = 0;
    }

    /// Somebody saw the application break something off: the next failure makes it unhealthy.
    pub fn suspected(&mut self) {
        if self.is_healthy() {
            self.against = self.fall - 1;
        }
    }

    /// Whether the verdict is "healthy".
    pub fn is_healthy(&self) -> bool {
        self.verdict == Some(Change::Healthy)
    }
}

/// What can be asked of a running check.
#[derive(Clone, Copy, Debug)]
enum Command {
    /// Check now, and tell the verdict whether or not it changed.
    Now,
    /// A request found the application refusing.
    Refused,
    /// A request was broken off by the application.
    Suspected,
    /// The application was stopped on purpose.
    Stopped,
}

/// Tells a running check that the application was stopped.
#[derive(Clone, Debug)]
pub struct Stopper(mpsc::Sender<Command>);

impl Stopper {
    /// Its verdict is "unhealthy" from here on, which is told: what the last check saw is gone, and an activation
    /// that follows at once waits for a check of its own. `rise` successes bring a "healthy" one.
    pub async fn stopped(&self) {
        // The check has ended with its endpoint.
        let _ = self.0.send(Command::Stopped).await;
    }

    /// Of no check.
    #[cfg(test)]
    pub fn of_none() -> Self {
        Self(mpsc::channel(1).0)
    }
}

/// A running check. Dropping it ends the task.
#[derive(Debug)]
pub struct Checker {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl Checker {
    /// Starts checking `endpoint`. Events are changes of the verdict, and answers to
    /// [`Self::check_now`]; the task waits when the channel is full, so none is lost.
    pub fn start(endpoint: &Endpoint, events: mpsc::Sender<CheckEvent>) -> Self {
        // One command waits at most: more of them mean the same.
        let (commands, inbox) = mpsc::channel(1);
        let task = Task {
            service: endpoint.service.clone(),
            instance: endpoint.instance,
            address: endpoint.address.clone(),
            http: endpoint.http,
            state: CheckState::new(endpoint.check.fall, endpoint.check.rise),
            check: endpoint.check.clone(),
            exits: Exits::of(endpoint.pid_file.clone()),
            events,
        };
        Self { commands, task: tokio::spawn(task.run(inbox)) }
    }

    /// Checks at once; an event with the verdict follows, changed or not.
    pub fn check_now(&self) {
        // Full: a check is about to be made anyway.
        let _ = self.commands.try_send(Command::Now);
    }

    /// Says that the application just refused a request: the verdict is "unhealthy" from here on, without
    /// an event (the caller knows), and `rise` successes bring a "healthy" one.
    pub fn refused(&self) {
        let _ = self.commands.try_send(Command::Refused);
    }

    /// For who stops the application.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.commands.clone())
    }

    /// Says that the application just broke a request off: it is checked at once, and is "unhealthy" if that
    /// fails.
    pub fn suspected(&self) {
        let _ = self.commands.try_send(Command::Suspected);
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    service: ServiceName,
    instance: u16,
    address: AppAddress,
    http: HttpVersion,
    check: Check,
    state: CheckState,
    exits: Exits,
    events: mpsc::Sender<CheckEvent>,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut asked = false;
        let mut rests = false;
        loop {
            let started = Instant::now();
            if !std::mem::take(&mut rests) && !self.check(asked).await {
                return;
            }
            asked = false;
            tokio::select! {
                () = tokio::time::sleep_until(started + jitter::about(self.check.interval)) => {}
                command = commands.recv() => match command {
                    Some(Command::Now) => asked = true,
                    Some(Command::Refused) => self.state.refused(),
                    Some(Command::Stopped) => {
                        // It may answer for a moment yet.
                        rests = true;
                        self.state.refused();
                        if !self.tell("it was stopped".to_owned()).await {
                            return;
                        }
                    }
                    Some(Command::Suspected) => {
                        self.state.suspected();
                        tokio::time::sleep_until(started + SUSPICIONS_APART).await;
                    }
                    None => return,
                },
                pid = self.exits.next() => if !self.exited(pid).await {
                    return;
                },
            }
        }
    }

    /// Checks once, and tells the verdict if it changed or was asked for. `false`: nobody listens any more.
    async fn check(&mut self, asked: bool) -> bool {
        let result = loop {
            tokio::select! {
                biased;
                pid = self.exits.next() => if !self.exited(pid).await {
                    return false;
                },
                result = probe(&self.address, self.http, &self.check) => break result,
            }
        };
        let change = self.state.observe(result.is_ok());
        let detail = result.unwrap_or_else(|why| why);
        if let Some(change) = change {
            tracing::info!(
                service = %self.service,
                instance = self.instance,
                verdict = ?change,
                detail,
                "health check verdict changed"
            );
        }
        !(asked || change.is_some()) || self.tell(detail).await
    }

    /// The application's process ended. `false`: nobody listens any more.
    async fn exited(&mut self, pid: i32) -> bool {
        tracing::info!(service = %self.service, instance = self.instance, pid, "its process ended");
        self.state.refused();
        self.tell(format!("its process {pid} ended")).await
    }

    async fn tell(&self, detail: String) -> bool {
        let event = CheckEvent {
            service: self.service.clone(),
            instance: self.instance,
            healthy: self.state.is_healthy(),
            detail,
        };
        self.events.send(event).await.is_ok()
    }
}

/// One check: what was seen, in words, as success or failure.
async fn probe(
    address: &AppAddress,
    version: HttpVersion,
    check: &Check,
) -> Result<String, String> {
    let started = Instant::now();
    let seen = async {
        match &check.kind {
            CheckKind::Tcp => tcp(address).await,
            CheckKind::Http { path } => http(address, version, path).await,
            CheckKind::Grpc => grpc(address).await,
            CheckKind::Udp => udp(address).await,
        }
    };
    match tokio::time::timeout(check.timeout, seen).await {
        Ok(Ok(what)) => Ok(format!("{what} in {}", brief(started.elapsed()))),
        Ok(Err(why)) => Err(format!("{address}: {why}")),
        Err(_) => Err(format!("{address}: no answer within {}", Span(check.timeout))),
    }
}

fn brief(d: Duration) -> String {
    format!("{:.1} ms", d.as_secs_f64() * 1_000.0)
}

async fn tcp(address: &AppAddress) -> Result<String, String> {
    let connected = address.connect().await;
    connected.map(|_| "connected".to_owned()).map_err(|e| format!("cannot connect: {e}"))
}

async fn http(address: &AppAddress, version: HttpVersion, path: &str) -> Result<String, String> {
    let asked = loopback::get(address, version, path, "hearth-check", 0).await;
    let (status, _) = asked.map_err(|e| e.to_string())?;
    let said = format!("GET {path} answered {}", status.as_u16());
    if status.is_success() || status.is_redirection() { Ok(said) } else { Err(said) }
}

/// The health protocol of gRPC (github.com/grpc/grpc/blob/master/doc/health-checking.md), asked about the
/// server as a whole: an empty message, answered by a message whose field 1 is 1, SERVING.
async fn grpc(address: &AppAddress) -> Result<String, String> {
    const EMPTY: &[u8] = &[0, 0, 0, 0, 0];
    const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 0x01];
    let uri = format!("http://{}/grpc.health.v1.Health/Check", address.host());
    let request = Request::post(uri)
        .version(http::Version::HTTP_2)
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .header(http::header::USER_AGENT, "hearth-check")
        .body(Full::new(Bytes::from_static(EMPTY)))
        .map_err(|e| format!("its health cannot be asked for: {e}"))?;
    let (status, body) = loopback::ask(address.connect(), request, SERVING.len())
        .await
        .map_err(|e| e.to_string())?;
    match body.as_slice() {
        SERVING => Ok("health answered SERVING".to_owned()),
        [] => {
            Err(format!("health answered {} without a message; is it registered?", status.as_u16()))
        }
        _ => Err("health answered, but not SERVING".to_owned()),
    }
}

/// A closed port of this host is told by the system at once (ICMP port unreachable), an open one by
/// silence: what is not told within the moment is open.
async fn udp(address: &AppAddress) -> Result<String, String> {
    const MOMENT: Duration = Duration::from_millis(20);
    let AppAddress::Port(address) = address else {
        return Err("a socket has no datagrams".to_owned());
    };
    let closed = |e: std::io::Error| format!("nobody there: {e}");
    let own: std::net::IpAddr = match address {
        std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((own, 0)).await.map_err(closed)?;
    socket.connect(address).await.map_err(closed)?;
    socket.send(&[]).await.map_err(closed)?;
    match tokio::time::timeout(MOMENT, socket.recv(&mut [0; 1])).await {
        Ok(Err(error)) => Err(closed(error)),
        Ok(Ok(_)) => Ok("answered".to_owned()),
        Err(_) => Ok("not refused".to_owned()),
    }
}
