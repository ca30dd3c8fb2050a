//! What makes a warm endpoint serve, and stand by again: an HTTP request or a program.
//!
//! An activation is one attempt at a time ([`run_once`]): how often, and after which pauses, the endpoint's
//! lifecycle decides. A deactivation ([`run`]) is tried until it succeeds or its deadline passes. Either must
//! bear being run twice. A program gets no shell and a process group of its own, which is killed at the deadline; a program that succeeded
//! may leave processes behind (that may have been its task). Dropping the future ends the hook at once.
//! Whether the endpoint then serves is told by its health check, never by the hook.

mod exec;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use hearth_proto::ids::EndpointId;
use hearth_proto::node::HookFailed;
use hearth_proto::time::Span;
use http::{Request, Uri};
use http_body_util::Full;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::{Action, Hook};
use crate::jitter::Backoff;
use crate::loopback;

/// Bytes of a hook's output, or of an answer's body, that are kept for the error.
const OUTPUT_KEPT: usize = 4 * 1024;
/// Waits between tries: an application that starts is ready in tens of milliseconds or in seconds.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What for a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It shall serve.
    Activate,
    /// It shall stand by.
    Deactivate,
}

/// What a hook is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCall {
    /// What for.
    pub purpose: Purpose,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The incident's short id; empty where there is none.
    pub incident: String,
    /// In mode exclusive: the term of the lease it is activated under. Whatever it shares with others is to
    /// refuse older ones.
    pub term: Option<u64>,
}

/// A hook that ended.
#[derive(Debug)]
pub struct HookEvent {
    /// What it was told.
    pub call: HookCall,
    /// How it ended.
    pub result: Result<(), HookError>,
    /// How long it took, all tries together.
    pub took: Duration,
    /// How often it was tried.
    pub tries: u32,
}

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The program cannot be started at all.
    #[error(
        "cannot run {program}: {source}\n  hint: `command` names a program by its path, which must be \
         executable for the user the agent runs as"
    )]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The one attempt failed.
    #[error("{0}")]
    Attempt(Failure),
    /// No try succeeded in time.
    #[error("not done within {} ({}): {last}", Span(*.deadline), times(*.tries))]
    Deadline {
        /// The hook's deadline.
        deadline: Duration,
        /// How often it was tried.
        tries: u32,
        /// How the last one that ended failed; what it was doing, if none ended.
        last: Failure,
    },
}

fn times(tries: u32) -> String {
    if tries == 1 { "1 try".to_owned() } else { format!("{tries} tries") }
}

/// Why one try failed.
#[derive(Debug)]
pub enum Failure {
    /// It was still under way at the deadline.
    Unfinished(String),
    /// It was refused or broke.
    NoAnswer(String),
    /// The application answered with another status than 2xx.
    Status {
        /// The status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// The program ended otherwise than with 0.
    Exit {
        /// The program.
        program: String,
        /// `exit status: 1`, `signal: 9 (SIGKILL)`.
        status: String,
        /// The beginning of what it printed.
        output: String,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |f: &mut fmt::Formatter<'_>, what: &str| match what.trim() {
            "" => Ok(()),
            what => write!(f, ", saying {what:?}"),
        };
        match self {
            Self::Unfinished(what) => write!(f, "{what} was still under way"),
            Self::NoAnswer(why) => f.write_str(why),
            Self::Status { status, body } => {
                write!(f, "answered {status}")?;
                said(f, body)
            }
            Self::Exit { program, status, output } => {
                write!(f, "{program} ended with {status}")?;
                said(f, output)
            }
        }
    }
}

impl HookError {
    /// What the core is told: whether another attempt can do better.
    pub fn told(&self) -> HookFailed {
        match self {
            Self::Start { .. } => HookFailed::Hopeless(self.to_string()),
            Self::Attempt(_) | Self::Deadline { .. } => HookFailed::Once(self.to_string()),
        }
    }
}

/// A hook under way. Dropping it ends the hook.
#[derive(Debug)]
pub struct RunningHook(JoinHandle<()>);

impl RunningHook {
    /// Runs `hook`; one event follows.
    pub fn start(hook: Hook, call: HookCall, events: mpsc::Sender<HookEvent>) -> Self {
        Self(tokio::spawn(async move {
            let event = run(&hook, call).await;
            // Nobody listens any more: the agent is ending.
            let _ = events.send(event).await;
        }))
    }
}

impl Drop for RunningHook {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `hook` once, for at most `within` and its own deadline.
pub async fn run_once(hook: &Hook, call: HookCall, within: Duration) -> HookEvent {
    let started = Instant::now();
    let deadline = within.min(hook.deadline);
    let outcome = tokio::time::timeout(deadline, attempt(&hook.action, &call)).await;
    let result = match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Attempt::Hopeless(error))) => Err(error),
        Ok(Err(Attempt::Failed(failure))) => Err(HookError::Attempt(failure)),
        Err(_) => {
            let last = Failure::Unfinished(name_of(&hook.action));
            Err(HookError::Deadline { deadline, tries: 1, last })
        }
    };
    ended(call, result, started, 1)
}

/// Runs `hook` until it succeeds or its deadline passes.
pub async fn run(hook: &Hook, call: HookCall) -> HookEvent {
    let started = Instant::now();
    let end = started + hook.deadline;
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut tries = 0;
    let mut last: Option<Failure> = None;
    let result = loop {
        tries += 1;
        last = Some(match tokio::time::timeout_at(end, attempt(&hook.action, &call)).await {
            Ok(Ok(())) => break Ok(()),
            Ok(Err(Attempt::Hopeless(error))) => break Err(error),
            Ok(Err(Attempt::Failed(failure))) => failure,
            Err(_) => last.unwrap_or_else(|| Failure::Unfinished(name_of(&hook.action))),
        });
        tracing::debug!(endpoint = %call.endpoint, tries, failure = ?last, "hook try failed");
        let wait = backoff.wait();
        if Instant::now() + wait >= end
            && let Some(last) = last
        {
            break Err(HookError::Deadline { deadline: hook.deadline, tries, last });
        }
        tokio::time::sleep(wait).await;
    };
    ended(call, result, started, tries)
}

fn ended(call: HookCall, result: Result<(), HookError>, started: Instant, tries: u32) -> HookEvent {
    let took = started.elapsed();
    let took_ms = took.as_secs_f64() * 1_000.0;
    let purpose = call.purpose;
    match &result {
        Ok(()) => {
            tracing::info!(endpoint = %call.endpoint, incident = call.incident, ?purpose, took_ms,
                tries, "hook done");
        }
        Err(error) => {
            tracing::warn!(endpoint = %call.endpoint, incident = call.incident, ?purpose, took_ms,
                tries, %error, "hook failed");
        }
    }
    HookEvent { call, result, took, tries }
}

/// How one try ended, if not well.
enum Attempt {
    Failed(Failure),
    Hopeless(HookError),
}

fn name_of(action: &Action) -> String {
    match action {
        Action::Http(url) => format!("POST {url}"),
        Action::Exec(words) => words.first().cloned().unwrap_or_default(),
    }
}

async fn attempt(action: &Action, call: &HookCall) -> Result<(), Attempt> {
    match action {
        Action::Http(url) => post(url, call).await.map_err(Attempt::Failed),
        Action::Exec(words) => exec::run(words, call).await,
    }
}

async fn post(url: &Uri, call: &HookCall) -> Result<(), Failure> {
    let no_answer = |why: String| Failure::NoAnswer(format!("POST {url}: {why}"));
    let host = url.host().unwrap_or_default();
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let port = url.port_u16().unwrap_or(80);
    let body = serde_json::json!({
        "service": call.endpoint.service,
        "endpoint": call.endpoint.to_string(),
        "incident": call.incident,
        "term": call.term,
    });
    let path = url.path_and_query().map_or("/", |p| p.as_str());
    let request = Request::post(path)
        .header(http::header::HOST, format!("{host}:{port}"))
        .header(http::header::USER_AGENT, "hearth-hook")
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|e| no_answer(e.to_string()))?;
    let (status, body) = loopback::ask(TcpStream::connect((bare, port)), request, OUTPUT_KEPT)
        .await
        .map_err(|e| no_answer(e.to_string()))?;
    if status.is_success() {
        return Ok(());
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    Err(Failure::Status { status: status.as_u16(), body })
}
