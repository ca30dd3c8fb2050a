//! One case: what a client writes, how the application answers, what must come out at both ends.
//!
//! A [`Case`] is built row by row and run with [`Case::run`] on a [`Lane`]: a service with an application
//! of its own, so that what arrives there can only be of this case. Beyond what a case asks for, each run
//! demands that nothing but its answers came, that a connection said to be open still serves, that the
//! agents serve a new one, and that what reached the application is exact HTTP/1.1.

mod want;

use std::net::SocketAddr;
use std::time::Duration;

use super::application::{Application, Request, SENTINEL, SENTINEL_BODY, Script, Step};
use super::client::{Connection, End};
use super::wire::{Whole, answers, shown};

use want::Demand;
pub use want::{Saw, Want, ok, one_of, saw, status};

/// Everything of a case comes within this, on a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// Between two writes, so that they are read apart.
const APART: Duration = Duration::from_millis(3);

/// A service and its application.
#[derive(Debug)]
pub struct Lane {
    /// Its name.
    pub service: String,
    /// The caller's listener of it.
    pub entry: SocketAddr,
    /// The caller's listener of all services.
    pub shared: SocketAddr,
    /// The application.
    pub app: Application,
}

impl Lane {
    /// Whether a request on a new connection is answered.
    ///
    /// # Errors
    /// What came instead.
    pub fn serves(&self) -> Result<(), String> {
        let connection = Connection::open(self.entry);
        let mut connection = connection.map_err(|e| format!("connect again: {e}"))?;
        serves(&mut connection, self, "a new connection", 0)
    }
}

/// One thing the client does.
#[derive(Debug, Clone)]
enum Act {
    Send(Vec<u8>),
    /// Waits for an interim answer.
    Interim(u16),
    /// Waits until so many answers are there.
    Answers(usize),
    /// Waits until this many bytes came after the last head.
    Tunnelled(usize),
    Pause(Duration),
    HalfClose,
}

/// What must have become of the connection after the last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Open,
    Closed,
    Either,
}

/// A case.
pub struct Case {
    /// Its name, a path.
    pub name: String,
    acts: Vec<Act>,
    scripts: Vec<Script>,
    wants: Vec<Want>,
    ends: Ends,
    saws: Option<Vec<Saw>>,
    nothing_whole: bool,
    /// Instead of any answer asked for, none or this one.
    at_most: Option<u16>,
    shared: bool,
    other: Vec<Demand<[Request]>>,
}

/// A case in which nothing is sent yet.
#[must_use]
pub fn case(name: &str) -> Case {
    Case {
        name: name.to_owned(),
        acts: Vec::new(),
        scripts: Vec::new(),
        wants: Vec::new(),
        ends: Ends::Open,
        saws: None,
        nothing_whole: false,
        at_most: None,
        shared: false,
        other: Vec::new(),
    }
}

impl Case {
    /// With this in front of its name.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        self.name.insert_str(0, prefix);
        self
    }

    /// The client writes this. Consecutive ones are written apart.
    #[must_use]
    pub fn send(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.acts.push(Act::Send(bytes.as_ref().to_vec()));
        self
    }

    /// The client writes this in pieces of so many bytes.
    #[must_use]
    pub fn send_by(mut self, size: usize, bytes: impl AsRef<[u8]>) -> Self {
        let pieces = bytes.as_ref().chunks(size);
        self.acts.extend(pieces.map(|piece| Act::Send(piece.to_vec())));
        self
    }

    /// The client waits for an interim answer.
    #[must_use]
    pub fn await_interim(mut self, status: u16) -> Self {
        self.acts.push(Act::Interim(status));
        self
    }

    /// The client waits until so many answers are there.
    #[must_use]
    pub fn await_answers(mut self, count: usize) -> Self {
        self.acts.push(Act::Answers(count));
        self
    }

    /// The client waits until so many bytes came after the last head.
    #[must_use]
    pub fn await_tunnelled(mut self, bytes: usize) -> Self {
        self.acts.push(Act::Tunnelled(bytes));
        self
    }

    /// The client lets time pass.
    #[must_use]
    pub fn pause(mut self, ms: u64) -> Self {
        self.acts.push(Act::Pause(Duration::from_millis(ms)));
        self
    }

    /// The client ends its side.
    #[must_use]
    pub fn half_close(mut self) -> Self {
        self.acts.push(Act::HalfClose);
        self
    }

    /// To the listener that all services share.
    #[must_use]
    pub fn on_shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// The application reads the next request and answers with these bytes.
    #[must_use]
    pub fn app(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.scripts.push(Script::answer(bytes));
        self
    }

    /// The application does this for the next request.
    #[must_use]
    pub fn app_does(mut self, steps: impl Into<Vec<Step>>) -> Self {
        self.scripts.push(Script::steps(steps));
        self
    }

    /// The application does this for requests with this target.
    #[must_use]
    pub fn app_at(mut self, target: &str, steps: impl Into<Vec<Step>>) -> Self {
        self.scripts.push(Script::steps(steps).at(target));
        self
    }

    /// The client must get this answer next.
    #[must_use]
    pub fn want(mut self, want: Want) -> Self {
        self.wants.push(want);
        self
    }

    /// The application must have got this request next, and no other beyond the last.
    #[must_use]
    pub fn saw(mut self, saw: Saw) -> Self {
        self.saws.get_or_insert_default().push(saw);
        self
    }

    /// The application must have got nothing.
    #[must_use]
    pub fn saw_nothing(mut self) -> Self {
        self.saws = Some(Vec::new());
        self
    }

    /// The application must have got no whole request.
    #[must_use]
    pub fn saw_nothing_whole(mut self) -> Self {
        self.nothing_whole = true;
        self
    }

    /// What the application got, in all.
    #[must_use]
    pub fn saw_that(
        mut self,
        what: &str,
        holds: impl Fn(&[Request]) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.other.push(Demand(what.to_owned(), Box::new(holds)));
        self
    }

    /// The connection must be closed after the last answer.
    #[must_use]
    pub fn closed(mut self) -> Self {
        self.ends = Ends::Closed;
        self
    }

    /// The connection may be closed after the last answer.
    #[must_use]
    pub fn either(mut self) -> Self {
        self.ends = Ends::Either;
        self
    }

    /// The connection must be closed, without an answer or with this one.
    #[must_use]
    pub fn closed_without_answer_or(mut self, status: u16) -> Self {
        self.at_most = Some(status);
        self.closed()
    }

    /// It must be refused with one of these, the connection closed, and nothing of it passed on.
    #[must_use]
    pub fn refused(self, statuses: &[u16]) -> Self {
        self.want(one_of(statuses)).closed().saw_nothing()
    }

    /// The head is good and the body is not: refused or, too late for that, cut off; never passed on as
    /// whole.
    #[must_use]
    pub fn broken_off(self) -> Self {
        self.want(status(400)).closed().saw_nothing_whole()
    }

    /// Runs it.
    ///
    /// # Errors
    /// A report: what was sent, what came, what the application got, and each thing that is not so.
    pub fn run(&self, lane: &Lane) -> Result<(), String> {
        lane.app.load(self.scripts.clone());
        let entry = if self.shared { lane.shared } else { lane.entry };
        let mut connection = Connection::open(entry).map_err(|e| format!("connect: {e}"))?;
        let mut complaints = Vec::new();
        let mut sent = Vec::new();
        for act in &self.acts {
            if let Err(why) = self.act(&mut connection, act, lane, &mut sent) {
                complaints.push(why);
                break;
            }
        }
        let arrived = connection.wait(SOON, |bytes, end| self.arrived(bytes, end).then_some(()));
        if arrived.is_err() {
            complaints.push(format!("not all answers within {SOON:?}"));
        }
        complaints.extend(self.ended(&mut connection, lane));
        if let Err(why) = lane.serves() {
            complaints.push(why);
        }
        let (bytes, end) = connection.got();
        let (requests, faults) = lane.app.take();
        complaints.extend(faults.into_iter().map(|f| format!("sent to the application: {f}")));
        complaints.extend(self.judge(&requests));
        if complaints.is_empty() {
            return Ok(());
        }
        Err(report(&sent, &bytes, end, &requests, &complaints))
    }

    fn methods(&self) -> Vec<&'static str> {
        self.wants.iter().map(|w| w.method).collect()
    }

    fn act(
        &self,
        connection: &mut Connection,
        act: &Act,
        lane: &Lane,
        sent: &mut Vec<u8>,
    ) -> Result<(), String> {
        let methods = self.methods();
        let came = |why: String| move |_| why;
        match act {
            Act::Send(bytes) => {
                if !sent.is_empty() {
                    std::thread::sleep(APART);
                }
                let named = replaced(bytes, b"{service}", lane.service.as_bytes());
                sent.extend_from_slice(&named);
                // It may have been refused, and closed, before all is written: the answer tells.
                let _ = connection.send(&named);
                Ok(())
            }
            Act::Pause(time) => {
                std::thread::sleep(*time);
                Ok(())
            }
            Act::HalfClose => {
                connection.half_close();
                Ok(())
            }
            Act::Interim(status) => connection
                .wait(SOON, |bytes, _| has_interim(bytes, *status).then_some(()))
                .map_err(came(format!("no {status} within {SOON:?}"))),
            Act::Answers(count) => connection
                .wait(SOON, |bytes, _| (answers(bytes, &methods).0.len() >= *count).then_some(()))
                .map_err(came(format!("no {count} answers within {SOON:?}"))),
            Act::Tunnelled(count) => connection
                .wait(SOON, |bytes, _| {
                    let (found, ..) = answers(bytes, &methods);
                    (found.last()?.body.len() >= *count).then_some(())
                })
                .map_err(came(format!("no {count} tunnelled bytes within {SOON:?}"))),
        }
    }

    /// Whether all is there, or nothing more can come.
    fn arrived(&self, bytes: &[u8], end: Option<End>) -> bool {
        let (found, _, wrong) = answers(bytes, &self.methods());
        let all = found.len() >= self.wants.len();
        let done = found.last().is_none_or(|a| a.whole == Whole::Yes);
        wrong.is_some() || end.is_some() || (all && done)
    }

    /// Judges the answers and what became of the connection.
    fn ended(&self, connection: &mut Connection, lane: &Lane) -> Vec<String> {
        let mut complaints = Vec::new();
        let closed = || connection.wait(SOON, |_, end| end);
        match self.ends {
            Ends::Closed if closed().is_err() => complaints.push("left open".into()),
            _ => {}
        }
        let (bytes, end) = connection.got();
        let (found, rest, wrong) = answers(&bytes, &self.methods());
        complaints.extend(wrong);
        if let Some(status) = self.at_most {
            let fits = found.len() <= 1 && found.iter().all(|a| a.status == status);
            if !fits {
                complaints.push(format!("answered, expected a close or {status}"));
            }
        } else if found.len() != self.wants.len() {
            let (found, wanted) = (found.len(), self.wants.len());
            complaints.push(format!("{found} answers, expected {wanted}"));
        } else if !rest.is_empty() {
            complaints.push(format!("beyond the answers: {}", shown(rest)));
        }
        for (n, (want, answer)) in self.wants.iter().zip(&found).enumerate() {
            complaints.extend(want.complaints(n + 1, answer, end));
        }
        if self.ends == Ends::Open {
            match end {
                None => {
                    complaints
                        .extend(serves(connection, lane, "the connection", bytes.len()).err());
                }
                Some(end) => complaints.push(format!("closed ({end:?}), expected open")),
            }
        }
        complaints
    }

    fn judge(&self, requests: &[Request]) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.nothing_whole && requests.iter().any(|r| r.whole) {
            complaints.push("the application got a whole request".into());
        }
        for Demand(what, holds) in &self.other {
            if !holds(requests) {
                complaints.push(format!("at the application, not so: {what}"));
            }
        }
        let Some(saws) = &self.saws else { return complaints };
        if requests.len() != saws.len() {
            let (got, wanted) = (requests.len(), saws.len());
            complaints.push(format!("the application got {got} requests, expected {wanted}"));
        }
        let pairs = saws.iter().zip(requests).enumerate();
        complaints.extend(pairs.flat_map(|(n, (saw, request))| saw.complaints(n + 1, request)));
        complaints
    }
}

/// Whether a request on this connection is answered, `after` so many bytes.
fn serves(
    connection: &mut Connection,
    lane: &Lane,
    what: &str,
    after: usize,
) -> Result<(), String> {
    let request = format!("GET {SENTINEL} HTTP/1.1\r\nHost: {}.mesh\r\n\r\n", lane.service);
    let _ = connection.send(request.as_bytes());
    let answer = connection.wait(SOON, |bytes, end| {
        let (found, _, wrong) = answers(&bytes[after..], &["GET"]);
        match found.first() {
            Some(answer) if answer.whole == Whole::Yes => Some(Ok(answer.clone())),
            _ if end.is_some() || wrong.is_some() => Some(Err(bytes[after..].to_vec())),
            _ => None,
        }
    });
    match answer {
        Ok(Ok(answer)) if answer.status == 200 && answer.body == SENTINEL_BODY.as_bytes() => Ok(()),
        Ok(Ok(answer)) => {
            Err(format!("{what} is out of step: {} {}", answer.head.line, shown(&answer.body)))
        }
        Ok(Err(bytes)) => Err(format!("{what} serves no more: {}", shown(&bytes))),
        Err((bytes, _)) => Err(format!("{what} is silent: {}", shown(&bytes[after..]))),
    }
}

fn has_interim(bytes: &[u8], status: u16) -> bool {
    let line = format!("HTTP/1.1 {status} ");
    bytes.windows(line.len()).any(|w| w == line.as_bytes())
}

fn replaced(bytes: &[u8], mark: &[u8], by: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(mark.len()).position(|w| w == mark) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(by);
        rest = &rest[at + mark.len()..];
    }
    out.extend_from_slice(rest);
    out
}

fn report(
    sent: &[u8],
    got: &[u8],
    end: Option<End>,
    requests: &[Request],
    complaints: &[String],
) -> String {
    let mut text = format!("\n  sent: {}\n  got:  {}\n  then: {end:?}\n", shown(sent), shown(got));
    for (n, request) in requests.iter().enumerate() {
        let whole = if request.whole { "whole" } else { "NOT WHOLE" };
        text.push_str(&format!("  app {}: ({whole}) {}\n", n + 1, shown(&request.raw)));
    }
    if requests.is_empty() {
        text.push_str("  app: got nothing\n");
    }
    for complaint in complaints {
        text.push_str(&format!("  ✗ {complaint}\n"));
    }
    text
}
