//! `hearth-control`: the daemon, and what is done on its host without it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use hearth_control::authority::Address;
use hearth_control::config::Config;
use hearth_control::daemon;
use hearth_control::directory::{Directory, FIRST_OPERATOR, store_failure};
use hearth_control::failure::{Exit, Failure, command_line, print};
use hearth_control::moment;
use hearth_control::plane::{CreateTokenError, create_token};
use hearth_proto::ids::{NodeName, TrustDomain};
use hearth_proto::time::Span;

/// Hearth's control plane: signs identities and policy. Traffic never needs it.
#[derive(Parser)]
#[command(
    name = "hearth-control",
    version,
    after_help = "A new mesh:\n  \
        hearth-control init --dir /var/lib/hearth-control --trust-domain mesh.example --address 192.0.2.2\n  \
        hearth-control serve --dir /var/lib/hearth-control\n  \
        hearth --dir /var/lib/hearth-control token create web-1\n\n\
        Exit codes: 0 done, 64 command line, 69 port taken, 73 cannot create, 74 disk, 75 try again \
        later,\n77 not allowed, 78 settings."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a new mesh: root certificate, settings, store and the first operator's token
    Init(Init),
    /// Run the daemon until SIGTERM
    Serve(Serve),
    /// Make a one-time join token while the daemon is not running
    #[command(after_help = "While the daemon runs, use: hearth token create NODE")]
    Token(Token),
    /// Make a new operator token while the daemon is not running; the operator's old one ends
    #[command(after_help = "For a token that was lost or seen by others, or a second operator.")]
    Operator(Operator),
}

#[derive(Args)]
struct Init {
    /// Directory to make, or an empty one that only its owner may enter; holds the root key
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Name of the mesh: a-z, 0-9, '.', '-', '_'; stands in every identity and is fixed for ever
    #[arg(long, value_name = "NAME")]
    trust_domain: TrustDomain,
    /// This control plane's name
    #[arg(long, value_name = "NAME", default_value = "control-1")]
    name: NodeName,
    /// Where the API listens
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:7945")]
    listen: SocketAddr,
    /// IP address or DNS name this host is reached under; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<String>,
    /// Mesh address of an agent to push policy to; joined agents are known anyway
    #[arg(long, value_name = "IP:PORT")]
    agent: Vec<SocketAddr>,
    /// Plain HTTP for /metrics, /live, /ready; "" is off
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7946")]
    metrics: String,
}

#[derive(Args)]
struct Serve {
    /// Directory that `init` made
    #[arg(long, value_name = "DIR", default_value = "/var/lib/hearth-control")]
    dir: PathBuf,
}

#[derive(Args)]
struct Token {
    /// Directory that `init` made
    #[arg(long, value_name = "DIR", default_value = "/var/lib/hearth-control")]
    dir: PathBuf,
    /// The node that will join with it
    #[arg(long, value_name = "NAME")]
    node: NodeName,
    /// How long it is good, from 1s to 7d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = Span::parse)]
    ttl: Span,
}

#[derive(Args)]
struct Operator {
    /// Directory that `init` made
    #[arg(long, value_name = "DIR", default_value = "/var/lib/hearth-control")]
    dir: PathBuf,
    /// The operator, as history and log name them
    #[arg(long, value_name = "NAME", default_value = FIRST_OPERATOR)]
    name: NodeName,
}

fn main() -> ExitCode {
    let line: CommandLine = match command_line() {
        Ok(line) => line,
        Err(code) => return code,
    };
    let outcome = match line.command {
        Command::Init(args) => init(args),
        Command::Serve(args) => daemon::serve(&args.dir),
        Command::Token(args) => token(&args),
        Command::Operator(args) => operator(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn init(args: Init) -> Result<(), Failure> {
    for address in &args.address {
        Address::parse(address).map_err(|e| {
            Failure::new(
                Exit::Usage,
                format!("--address: {e}"),
                "write for example --address 192.0.2.2",
            )
        })?;
    }
    let mut config = Config::new(args.name, args.trust_domain, args.listen);
    config.addresses = args.address;
    config.agents = args.agent;
    config.metrics = args.metrics;
    config.metrics().map_err(|e| {
        Failure::new(
            Exit::Usage,
            e,
            "write for example --metrics 127.0.0.1:7946, or --metrics \"\"",
        )
    })?;
    let made = Directory::init(&args.dir, &config)?;
    let dir = made.directory.path().display().to_string();
    let mut text = format!(
        "made the mesh {} in {dir}\n\n\
         operator token (shown once; only its hash is stored):\n  {}\n\
         kept for this host in {dir}/operator.token; move it elsewhere if you like\n\n\
         next:\n  hearth-control serve --dir {dir}\n  \
         hearth --dir {dir} token create NODE     # for each node that joins\n\
         elsewhere: hearth --control https://HOST:{} --ca root.pem --token TOKEN …\n",
        config.trust_domain,
        made.operator_token,
        config.listen.port()
    );
    if config.addresses.is_empty() && config.listen.ip().is_unspecified() {
        text.push_str(
            "no --address was given: for hearth on other hosts, write this host's name or IP into \
             `addresses` in control.toml\n",
        );
    }
    text.push_str(&format!(
        "back up {dir}/root.key: whoever has it is the mesh, without it no node can join\n"
    ));
    print(&text)
}

fn token(args: &Token) -> Result<(), Failure> {
    let directory = Directory::find(&args.dir)?;
    let (_, authority) = directory.authority()?;
    let store = directory.open_store().map_err(|e| store_failure(&e))?;
    let made = create_token(&store, &authority, &args.node, args.ttl.0, "offline", moment::now())
        .map_err(|e| match &e {
        CreateTokenError::Ttl(_) => {
            Failure::new(Exit::Usage, format!("--ttl: {e}"), "an hour is the default")
        }
        CreateTokenError::Random(_) => Failure::new(Exit::Temporary, &e, "try again"),
        CreateTokenError::Store(e) => store_failure(e),
    })?;
    print(&format!("{}\n", made.token))?;
    eprintln!("good once, for node {}, until {}", args.node, moment::utc(made.expires));
    Ok(())
}

fn operator(args: &Operator) -> Result<(), Failure> {
    let directory = Directory::find(&args.dir)?;
    let token = directory.new_operator(args.name.as_str(), moment::now())?;
    print(&format!("{token}\n"))?;
    eprintln!("operator token of {}, shown once; their old one is not good any more", args.name);
    Ok(())
}
