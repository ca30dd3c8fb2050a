//! `hearth`: the operator's command line.
//!
//! Asks the agent on this host (unix socket) what it sees, or the control plane (HTTPS) to change
//! something, and lays the answer out for people, or prints the API's JSON untouched. Decides nothing:
//! what is shown is what was answered.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ::http::Method;
use clap::{Args, Parser, Subcommand, ValueEnum};
use hearth_proto::api::{
    ControlStatus, PolicyAnswer, PolicyRequest, PolicyVersion, TokenAnswer, TokenRequest,
};
use hearth_proto::ids::{NodeName, ServiceName};
use hearth_proto::time::Span;
use hearth_proto::view::{
    AcrossView, CheckView, DrainRequest, ExplainView, FailbackRequest, FailbackView, IncidentView,
    MemberView, PlanView, RouteView, StatusView,
};
use hyper::body::Bytes;

use crate::failure::{Exit, Failure, print};
use crate::moment;

mod agent;
mod control;
mod drill;
mod http;
mod plan;
pub mod replay;
pub mod show;
pub mod show_across;
pub mod show_control;
mod show_plan;
pub mod table;

use agent::Agent;
use control::{Control, Given};
use http::{Ask, read};
use show::Page;
use table::Style;

/// Look at a Hearth mesh from this host, and steer it.
#[derive(Parser)]
#[command(
    name = "hearth",
    version,
    after_help = "The agent on this host answers for the whole mesh, control plane alive or not:\n  \
        hearth status | members | routes | explain ledger | incidents | check\n  \
        hearth drill ledger --lose web-1\n\
        How available a service will be, with or without a mesh to ask:\n  \
        hearth plan --hot 3 --warm 1; hearth plan --from-live ledger\n\
        The control plane is asked for changes:\n  \
        export HEARTH_CONTROL=https://192.0.2.2:7945 HEARTH_CA=root.pem HEARTH_TOKEN=…\n  \
        hearth policy apply mesh.toml --dry-run; hearth token create web-1\n\
        On the control plane's own host, --dir stands for all three:\n  \
        hearth --dir /var/lib/hearth-control policy history\n\n\
        Exit codes: 0 done (check: 1 warnings, 2 errors), 64 command line, 65 refused or not known there, 66 missing file,\n\
        69 nobody answers, 74 cannot write, 75 try again later, 77 not allowed, 78 settings."
)]
pub struct CommandLine {
    #[command(flatten)]
    to: To,
    /// Output for people (table) or programs (json: the API's answer, times in microseconds)
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// Options of the commands that ask the agent (status, members, routes, explain, incidents, drill, drain,
/// failback, debug).
const AGENT: &str = "Asking the agent";
/// Options of the commands that ask the control plane (policy, token).
const CONTROL: &str = "Asking the control plane";

#[derive(Args)]
struct To {
    /// The agent's admin socket
    #[arg(
        long,
        global = true,
        env = "HEARTH_SOCKET",
        value_name = "PATH",
        default_value = "/run/hearth/agent.sock",
        help_heading = AGENT
    )]
    socket: PathBuf,
    /// The control plane, https://HOST:PORT
    #[arg(long, global = true, env = "HEARTH_CONTROL", value_name = "URL", help_heading = CONTROL)]
    control: Option<String>,
    /// Operator token
    #[arg(
        long,
        global = true,
        env = "HEARTH_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        help_heading = CONTROL
    )]
    token: Option<String>,
    /// Root certificates by which the control plane is known (its root.pem)
    #[arg(long, global = true, env = "HEARTH_CA", value_name = "FILE", help_heading = CONTROL)]
    ca: Option<PathBuf>,
    /// Directory of hearth-control on this host: gives address, token and root
    #[arg(
        long,
        global = true,
        env = "HEARTH_CONTROL_DIR",
        value_name = "DIR",
        help_heading = CONTROL
    )]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// This node: phase, members, links, policy, certificate, own endpoints
    Status,
    /// All nodes, as this one sees them
    Members,
    /// Where requests for each service go now, and why
    Routes,
    /// Who serves, who stands by, who is out, since when and why
    Explain {
        /// The service
        service: ServiceName,
    },
    /// Failovers: all that this agent remembers, or the timeline of one across hosts
    Incidents(Incidents),
    /// The timeline of one failover across hosts (as incidents ID)
    Incident {
        /// Its id, such as ledger-4f1d09ab, or its trace id
        id: String,
    },
    /// Lose some of a service on purpose, for a while, and see what happens
    #[command(after_help = drill::AFTER_HELP)]
    Drill(drill::Drill),
    /// What somebody else needs to understand what happened
    #[command(subcommand)]
    Debug(Debug),
    /// Run a flight recording again, offline: the same core, every decision compared with the recorded one
    #[command(
        after_help = "FILE is a file of STATE_DIR/flight, that directory, or a debug bundle.\n\
        Exit code 65 when the replay decides otherwise than was recorded."
    )]
    Replay {
        /// The recording
        file: PathBuf,
        /// How things stood then: +12.5s after its beginning, -30s before its end, or a time in UTC
        #[arg(long, value_name = "MOMENT", allow_hyphen_values = true, value_parser = replay::Moment::parse)]
        at: Option<replay::Moment>,
    },
    /// What can never fail over, or not as meant, and how to mend it
    #[command(
        after_help = "An error is a loss no failover will answer, a warning one that is answered \
        worse than it\ncould be, a note something that could not be judged from here.\n\
        Exit codes: 0 clean, 1 warnings, 2 errors; others as of every command."
    )]
    Check {
        /// Only this service
        service: Option<ServiceName>,
    },
    /// How available a service with hot and warm endpoints will be, and what buys most
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(Box<plan::PlanArgs>),
    /// Take this node's endpoints out of service, requests under way finish
    Drain {
        /// End draining
        #[arg(long)]
        off: bool,
    },
    /// Have activated endpoints of a service stand down now, if they are not needed
    #[command(
        after_help = "For services whose policy says failback = \"manual\"; with a hold it is not waited \
        for. Any agent\ncarries the word to the owners, who stay up if they see a need."
    )]
    Failback {
        /// The service
        service: ServiceName,
    },
    /// The mesh's policy (control plane)
    #[command(subcommand)]
    Policy(Policy),
    /// Join tokens (control plane)
    #[command(subcommand)]
    Token(Token),
}

#[derive(Args)]
struct Incidents {
    /// An incident's id, such as ledger-4f1d09ab, or its trace id: its timeline, as all hosts saw it
    id: Option<String>,
    /// Only those of this service
    #[arg(long, value_name = "SERVICE", conflicts_with = "id")]
    service: Option<ServiceName>,
    /// Only those that opened within this time, such as 1h
    #[arg(long, value_name = "DURATION", conflicts_with = "id", value_parser = Span::parse)]
    since: Option<Span>,
    /// At most so many, the newest first
    #[arg(long, value_name = "N", conflicts_with = "id")]
    limit: Option<usize>,
}

impl Incidents {
    fn path(&self) -> String {
        let mut query = Vec::new();
        query.extend(self.service.as_ref().map(|s| format!("service={s}")));
        let since = self.since.map(|span| moment::before(moment::now(), span.0).0);
        query.extend(since.map(|since| format!("since={since}")));
        query.extend(self.limit.map(|n| format!("limit={n}")));
        match query.is_empty() {
            true => "/v1/incidents".to_owned(),
            false => format!("/v1/incidents?{}", query.join("&")),
        }
    }
}

#[derive(Subcommand)]
enum Debug {
    /// Pack this agent's flight recordings, incidents, table, routes, policy, metrics and configuration
    #[command(
        after_help = "No key, token or private part of a certificate is in it; names and addresses \
        of nodes\nand services are. hearth replay reads it as it is."
    )]
    Bundle {
        /// Where to write it [default: hearth-bundle-TIME.tar.gz here]
        #[arg(short = 'O', long = "out", value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

const PLAN_EXAMPLES: &str = "\
    Three that serve and one that stands by; a host fails every two months, activation takes 30 s:\n  \
    hearth plan --hot 3 --warm 1 --mttf 60d --mttr 2h --activation 30s\n\
    Two of three must serve; one failure in a hundred goes unnoticed, two strike all at once:\n  \
    hearth plan --hot 3 --warm 0 --needed 2 --coverage 99% --common-cause 2%\n\
    As the mesh is, but with one more warm endpoint, and the curve as a picture:\n  \
    hearth plan --from-live ledger --warm 3 --chart warm --svg ledger.svg\n\
    Every time is exponential, one failure rate holds for all endpoints: designs are compared well,\n\
    a single year is promised nothing. A number that is neither given nor measured is assumed, and\n\
    said to be.";

#[derive(Subcommand)]
enum Policy {
    /// Put a policy file into force on all nodes
    #[command(
        after_help = "The file is the whole policy: a service it does not name has the defaults \
        again.\nBack to an older version: hearth policy show 3 | hearth policy apply -"
    )]
    Apply {
        /// The file (TOML); - is standard input
        file: PathBuf,
        /// Only check it and show what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the policy in force, or an older version
    Show {
        /// The version
        version: Option<u64>,
    },
    /// All versions: when, and by whom
    History,
    /// Which node has which version
    Status,
}

#[derive(Subcommand)]
enum Token {
    /// Make a one-time token by which NODE joins
    Create {
        /// The node's name
        node: NodeName,
        /// How long it is good, from 1s to 7d
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = Span::parse)]
        ttl: Span,
    },
}

/// Runs a command line; what is printed is the answer.
pub fn run(line: &CommandLine) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Temporary, format!("cannot start: {e}"), ""))?;
    runtime.block_on(dispatch(line))
}

async fn dispatch(line: &CommandLine) -> Result<ExitCode, Failure> {
    let out = Out { json: line.output == Output::Json };
    let agent = Agent::new(&line.to.socket);
    let shown = match &line.command {
        Command::Check { service } => {
            let query = service.as_ref().map(|s| format!("?service={s}")).unwrap_or_default();
            let body = agent.ask(Ask::get(format!("/v1/check{query}"))).await?;
            out.agent::<CheckView>(&body, |view, page| show_plan::check(view, page.style))?;
            return Ok(ExitCode::from(show_plan::exit_code(&read("the agent", &body)?)));
        }
        Command::Plan(args) => {
            let seen = match &args.from_live {
                None => None,
                Some(service) => {
                    let body = agent.ask(Ask::get(format!("/v1/plan/{service}"))).await?;
                    Some(read::<PlanView>("the agent", &body)?)
                }
            };
            let plan = args.solve(seen)?;
            args.draw(&plan)?;
            out.plan(&plan, args.shortcuts)
        }
        Command::Status => {
            let body = agent.ask(Ask::get("/v1/status")).await?;
            out.agent::<StatusView>(&body, show::status)
        }
        Command::Members => {
            let body = agent.ask(Ask::get("/v1/members")).await?;
            out.agent::<Vec<MemberView>>(&body, |view, page| show::members(view, page))
        }
        Command::Routes => {
            let body = agent.ask(Ask::get("/v1/routes")).await?;
            out.agent::<Vec<RouteView>>(&body, |view, page| show::routes(view, page))
        }
        Command::Explain { service } => {
            let body = agent.ask(Ask::get(format!("/v1/explain/{service}"))).await?;
            out.agent::<ExplainView>(&body, show::explain)
        }
        Command::Incidents(Incidents { id: Some(id), .. }) | Command::Incident { id } => {
            let body = agent.ask(Ask::get(format!("/v1/incidents/{}/mesh", checked(id)?))).await?;
            out.agent::<AcrossView>(&body, show_across::incident)
        }
        Command::Incidents(incidents) => {
            let body = agent.ask(Ask::get(incidents.path())).await?;
            out.agent::<Vec<IncidentView>>(&body, |view, page| show::incidents(view, page))
        }
        Command::Drill(drill) => drill::run(drill, &agent, out).await,
        Command::Debug(Debug::Bundle { out: file }) => bundle(&agent, file.as_deref()).await,
        Command::Replay { file, at } => out.replayed(&replay::run(file, *at)?),
        Command::Drain { off } => {
            let ask = Ask::send(Method::POST, "/v1/drain", &DrainRequest { on: !off })?;
            let body = agent.ask(ask).await?;
            out.drained(&body, *off)
        }
        Command::Failback { service } => {
            let request = FailbackRequest { service: service.clone() };
            let ask = Ask::send(Method::POST, "/v1/failback", &request)?;
            let body = agent.ask(ask).await?;
            out.agent::<FailbackView>(&body, |view, _| show::failback(view))
        }
        Command::Policy(command) => policy(command, &control(&line.to)?, out).await,
        Command::Token(command) => token(command, &control(&line.to)?, out).await,
    };
    shown.map(|()| ExitCode::SUCCESS)
}

/// Fetches a debug bundle and writes it. It is for its owner's eyes: names and addresses are in it.
async fn bundle(agent: &Agent, file: Option<&Path>) -> Result<(), Failure> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let bytes = agent.ask(Ask::send(Method::POST, "/v1/debug/bundle", &())?).await?;
    let now = moment::utc(moment::now()).replace([' ', ':'], "-");
    let path = file.map_or_else(|| format!("hearth-bundle-{now}.tar.gz").into(), Path::to_owned);
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
    opened.and_then(|mut file| file.write_all(&bytes)).map_err(|e| {
        let what = format!("cannot write {}: {e}", path.display());
        Failure::new(Exit::CannotCreate, what, "name another file: --out FILE")
    })?;
    print(&format!(
        "{} ({} KiB); replay it with: hearth replay {0}\n",
        path.display(),
        bytes.len() / 1024
    ))
}

fn control(to: &To) -> Result<Control, Failure> {
    Control::new(&Given {
        url: to.control.as_deref(),
        token: to.token.as_deref(),
        ca: to.ca.as_deref(),
        dir: to.dir.as_deref(),
    })
}

/// An incident's id as it may stand in a path.
fn checked(id: &str) -> Result<&str, Failure> {
    match !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        true => Ok(id),
        false => Err(Failure::new(
            Exit::Usage,
            format!("{id:?} is no incident's id"),
            "ids read like ledger-4f1d09ab: see hearth incidents",
        )),
    }
}

async fn policy(command: &Policy, control: &Control, out: Out) -> Result<(), Failure> {
    match command {
        Policy::Apply { file, dry_run } => {
            let text = read_policy(file)?;
            let name = file.display().to_string();
            let request = PolicyRequest { text, file: name, dry_run: *dry_run };
            let body = control.ask(Ask::send(Method::PUT, "/v1/policy", &request)?).await?;
            out.control::<PolicyAnswer>(&body, |a, _| show_control::applied(a, *dry_run))
        }
        Policy::Show { version } => {
            let path = match version {
                Some(version) => format!("/v1/policy/{version}"),
                None => "/v1/policy".to_owned(),
            };
            let body = control.ask(Ask::get(path)).await?;
            out.control::<PolicyVersion>(&body, show_control::policy)
        }
        Policy::History => {
            let body = control.ask(Ask::get("/v1/policy/history")).await?;
            out.control::<Vec<PolicyVersion>>(&body, |v, page| show_control::history(v, page))
        }
        Policy::Status => {
            let body = control.ask(Ask::get("/v1/status")).await?;
            out.control::<ControlStatus>(&body, show_control::status)
        }
    }
}

async fn token(command: &Token, control: &Control, out: Out) -> Result<(), Failure> {
    let Token::Create { node, ttl } = command;
    let request = TokenRequest { name: node.clone(), ttl_seconds: ttl.0.as_secs() };
    let body = control.ask(Ask::send(Method::POST, "/v1/tokens", &request)?).await?;
    if out.json {
        return out.control::<TokenAnswer>(&body, |_, _| String::new());
    }
    let answer: TokenAnswer = read("the control plane", &body)?;
    // The token alone on standard output, for TOKEN=$(hearth token create …).
    print(&format!("{}\n", answer.token))?;
    eprint!("{}", show_control::token(&answer, node.as_str(), ttl.0));
    Ok(())
}

fn read_policy(file: &Path) -> Result<String, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(
            Exit::NoInput,
            format!("cannot read the policy {}: {e}", file.display()),
            "check the path; - reads standard input",
        )
    };
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(failed)
}

/// How answers are printed.
#[derive(Clone, Copy)]
struct Out {
    json: bool,
}

impl Out {
    fn page(self) -> Page {
        Page { style: Style::from_environment(), now: moment::now() }
    }

    fn print<T: serde::de::DeserializeOwned>(
        self,
        who: &str,
        body: &Bytes,
        render: impl Fn(&T, Page) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            return json(body);
        }
        print(&render(&read(who, body)?, self.page()))
    }

    fn agent<T: serde::de::DeserializeOwned>(
        self,
        body: &Bytes,
        render: impl Fn(&T, Page) -> String,
    ) -> Result<(), Failure> {
        self.print("the agent", body, render)
    }

    fn control<T: serde::de::DeserializeOwned>(
        self,
        body: &Bytes,
        render: impl Fn(&T, Page) -> String,
    ) -> Result<(), Failure> {
        self.print("the control plane", body, render)
    }

    fn replayed(self, outcome: &replay::Outcome) -> Result<(), Failure> {
        match self.json {
            true => {
                let failed =
                    |e| Failure::new(Exit::Software, format!("cannot write JSON: {e}"), "");
                print(&format!("{}\n", serde_json::to_string(outcome).map_err(failed)?))?;
            }
            false => print(&replay::text(outcome, self.page()))?,
        }
        match outcome.identical {
            true => Ok(()),
            false => Err(Failure::new(
                Exit::Data,
                "the replay decided otherwise than was recorded",
                "report it with the recording: decisions must follow from what is recorded",
            )),
        }
    }

    fn plan(self, plan: &plan::Plan, shortcuts: bool) -> Result<(), Failure> {
        if !self.json {
            return print(&show_plan::plan(plan, shortcuts, Style::from_environment()));
        }
        let text = serde_json::to_string(plan).map_err(|e| {
            Failure::new(Exit::Software, format!("cannot write the plan as JSON: {e}"), "")
        })?;
        print(&format!("{text}\n"))
    }

    fn drained(self, body: &Bytes, off: bool) -> Result<(), Failure> {
        match (self.json, off) {
            (true, _) => json(body),
            (false, false) => print(
                "draining: no new work comes here, what is under way finishes\n\
                 watch it with hearth status, end it with hearth drain --off\n",
            ),
            (false, true) => print("no longer draining: endpoints return as their checks allow\n"),
        }
    }
}

/// The API's answer as it came.
fn json(body: &Bytes) -> Result<(), Failure> {
    print(&format!("{}\n", String::from_utf8_lossy(body).trim_end()))
}
