//! The command line: what can be said, and what each word means. Decides nothing; `main` acts on it.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use http::{HeaderName, HeaderValue, Method, Uri};
use portolan_model::{Name, Ratio, RegionId, Revision, parse_duration};

use crate::{
    context::Overrides, dev::Pair, output::Format, probe::Resolve, simulate::Simulate, up::Network, wan::Direction,
};

/// Nodes of one region of a local fleet.
const MAX_NODES_PER_REGION: i64 = 9;

const EXIT_CODES: &str = "Exit codes: 0 done; 1 refused, faults found or an expectation failed; \
    2 wrong usage, or for simulate an invariant broken; 3 for simulate a bad scenario or configuration.";

/// Edge-distributed API gateway: one configuration, every region serving on its own.
#[derive(Debug, Parser)]
#[command(name = "portolan", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: Global,
}

/// What every command understands.
#[derive(Debug, Args)]
pub struct Global {
    /// Form of the answer.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub output: Format,
    /// Folder of the local fleet; `up` fills it, the others find the fleet through it.
    #[arg(long, global = true, default_value = ".portolan", value_name = "DIR")]
    pub dir: PathBuf,
    /// Ask the node at this admin address only.
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    pub admin: Option<SocketAddr>,
    /// Authority to trust in place of the fleet's own (PEM).
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Operator certificate in place of the fleet's own (PEM).
    #[arg(long, global = true, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// Key of the operator certificate (PEM).
    #[arg(long, global = true, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
}

impl Global {
    /// The part that says where the fleet is.
    pub fn overrides(&self) -> Overrides {
        let operator = self.certificate.clone().zip(self.key.clone());
        let operator = operator.map(|(certificate, key)| Pair { certificate, key });
        Overrides { admin: self.admin, ca: self.ca.clone(), operator }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a fleet on this machine and stay until Ctrl-C.
    Up(Up),
    /// Run one node.
    Run(Run),
    /// Check files and print all their faults.
    Check(Check),
    /// Print the worst case of every limit of a gateway document: what may be admitted, and what refused wrongly.
    Plan(Plan),
    /// Print the JSON Schema of the gateway document, for editors.
    Schema,
    /// Make a gateway document the configuration of the whole fleet.
    Apply(Apply),
    /// List the accepted revisions.
    History,
    /// Make an earlier revision the configuration again.
    Rollback {
        /// The revision to return to.
        #[arg(value_parser = revision, value_name = "REVISION")]
        to: Revision,
    },
    /// Send the clients of a region elsewhere.
    Drain {
        /// The region.
        #[arg(value_parser = region)]
        region: RegionId,
        /// Why; stands in the history and in the status.
        #[arg(long)]
        reason: String,
    },
    /// End the drain of a region.
    Restore {
        /// The region.
        #[arg(value_parser = region)]
        region: RegionId,
    },
    /// Show regions, nodes, roles, revision, health and what the nodes know of each other.
    Status,
    /// Show who used what of the limits, where, and under which rights.
    Limits {
        #[command(subcommand)]
        order: Option<Limits>,
    },
    /// Say what would happen to a request and why. Sends nothing, charges nothing.
    Explain(Explain),
    /// Rehearse a configuration and its regions in virtual time, under faults.
    Simulate(Simulate),
    /// Send one request over HTTP/3.
    Probe(Probe),
    /// Sign a token with the demo issuer's key and print it.
    Token(Token),
    /// Run a demo upstream.
    DemoService(DemoService),
    /// Steer the emulated wide-area network of `up --wan`.
    Wan {
        #[command(subcommand)]
        order: Wan,
    },
}

/// `up`
#[derive(Debug, Args)]
pub struct Up {
    /// Forget the data of an earlier start.
    #[arg(long)]
    pub clean: bool,
    /// Loopback network of the fleet, 127.X.0.0/16; node n of region k has the address 127.X.k.n.
    #[arg(long, default_value = "127.10.0.0/16", value_name = "NETWORK")]
    pub network: Network,
    /// Nodes that share each region's traffic and limits.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=MAX_NODES_PER_REGION), value_name = "N")]
    pub nodes_per_region: u8,
    /// Gateway document of the first start.
    #[arg(long, default_value = "gateway.yaml", value_name = "FILE")]
    pub config: PathBuf,
    /// Folder with the region files.
    #[arg(long, default_value = "regions", value_name = "DIR")]
    pub regions: PathBuf,
    /// Carry mesh traffic through a relay that emulates the round trips between the regions.
    #[arg(long)]
    pub wan: bool,
    /// Share of mesh datagrams the relay loses.
    #[arg(long, default_value = "0%", value_parser = share, value_name = "PERCENT", requires = "wan")]
    pub loss: Ratio,
    /// Largest random addition to each one-way delay of the relay.
    #[arg(long, default_value = "2ms", value_parser = duration, value_name = "DURATION", requires = "wan")]
    pub jitter: Duration,
    /// Seed of loss and jitter.
    #[arg(long, default_value_t = 1, requires = "wan")]
    pub wan_seed: u64,
    /// End when standard input ends.
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

/// `run`
#[derive(Debug, Args)]
pub struct Run {
    /// The node file.
    #[arg(long, value_name = "FILE")]
    pub node: PathBuf,
    /// End when standard input ends.
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

/// `check`
#[derive(Debug, Args)]
pub struct Check {
    /// Gateway documents, node files, scenarios, or folders of region files.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Folder with the region files that gateway documents and scenarios are checked against; by default `regions`, or
    /// those of the local fleet.
    #[arg(long, value_name = "DIR")]
    pub regions: Option<PathBuf>,
}

/// `plan`
#[derive(Debug, Args)]
pub struct Plan {
    /// The gateway document.
    #[arg(default_value = "gateway.yaml", value_name = "FILE")]
    pub file: PathBuf,
    /// Folder with the region files; by default `regions`, or those of the local fleet.
    #[arg(long, value_name = "DIR")]
    pub regions: Option<PathBuf>,
    /// Nodes of the largest region; by default as many as it has addresses.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub nodes_per_region: Option<u16>,
    /// Only this limit; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub limit: Vec<Name>,
}

/// `apply`
#[derive(Debug, Args)]
pub struct Apply {
    /// The gateway document.
    pub file: PathBuf,
    /// Refuse unless this is the revision in force.
    #[arg(long, value_parser = revision, value_name = "REVISION")]
    pub expected: Option<Revision>,
}

/// `limits`
#[derive(Debug, Subcommand)]
pub enum Limits {
    /// Show what each region used of a key, and what it may use.
    Explain {
        /// The key as a request has it: `alice`, `192.0.2.7`, `global`; the parts of a tuple separated by commas, a missing
        /// value as an empty part.
        // Not `key`: that is the operator's, among the arguments of every command.
        #[arg(value_name = "KEY")]
        written: String,
        /// Only in this limit.
        #[arg(long, value_parser = name, value_name = "NAME")]
        limit: Option<Name>,
    },
    /// Give the shares of a dead region to the others. Only you can know that it is dead: a region that is merely cut off
    /// goes on spending.
    Fence {
        /// The region.
        #[arg(value_parser = region)]
        region: RegionId,
        /// Why; stands in the history and in the overview.
        #[arg(long)]
        reason: String,
        /// Fence it although nodes of it are heard.
        #[arg(long)]
        alive: bool,
    },
    /// Give a fenced region its shares back.
    Unfence {
        /// The region.
        #[arg(value_parser = region)]
        region: RegionId,
    },
}

/// `explain`
#[derive(Debug, Args)]
pub struct Explain {
    /// Method of the request.
    #[arg(long, default_value = "GET")]
    pub method: Method,
    /// Host of the request.
    #[arg(long)]
    pub host: String,
    /// Path of the request.
    #[arg(long, default_value = "/")]
    pub path: String,
    /// Bearer token of the request.
    #[arg(long)]
    pub token: Option<String>,
    /// Header field of the request, `Name: value`, as far as limits count by it.
    #[arg(short = 'H', long, value_parser = header, value_name = "HEADER")]
    pub header: Vec<(HeaderName, HeaderValue)>,
    /// Address of the client.
    #[arg(long, value_name = "ADDRESS")]
    pub client: Option<IpAddr>,
    /// Ask a node of this region; limits and health are as that node sees them.
    #[arg(long, value_parser = region)]
    pub region: Option<RegionId>,
}

/// `probe`
#[derive(Debug, Args)]
pub struct Probe {
    /// Speak HTTP/3; required, so that what is measured stands in the command.
    #[arg(long, required = true)]
    pub http3: bool,
    /// The URL.
    pub url: Uri,
    /// Method.
    #[arg(short = 'X', long, default_value = "GET")]
    pub request: Method,
    /// Extra header, `Name: value`.
    #[arg(short = 'H', long, value_parser = header, value_name = "HEADER")]
    pub header: Vec<(HeaderName, HeaderValue)>,
    /// Body to send.
    #[arg(short = 'd', long, value_name = "TEXT")]
    pub data: Option<String>,
    /// Address that stands for a host and port.
    #[arg(long, value_name = "HOST:PORT:ADDRESS")]
    pub resolve: Vec<Resolve>,
    /// Authority to trust (PEM); the local fleet's own by default.
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Longest wait.
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub timeout: Duration,
}

/// `token`
#[derive(Debug, Args)]
pub struct Token {
    /// The user, `sub`.
    #[arg(long)]
    pub user: String,
    /// A scope; repeat for more.
    #[arg(long, value_name = "SCOPE")]
    pub scope: Vec<String>,
    /// The issuer, `iss`.
    #[arg(long, default_value = "https://issuer.example.test")]
    pub issuer: String,
    /// The audience, `aud`.
    #[arg(long, default_value = "api")]
    pub audience: String,
    /// How long the token is good for.
    #[arg(long, default_value = "1h", value_parser = duration, value_name = "DURATION")]
    pub validity: Duration,
}

/// `demo-service`
#[derive(Debug, Args)]
pub struct DemoService {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Region named in the answers.
    #[arg(long)]
    pub region: String,
    /// Instance named in the answers.
    #[arg(long)]
    pub instance: String,
    /// End when standard input ends.
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

/// `wan`
#[derive(Debug, Subcommand)]
pub enum Wan {
    /// Stop mesh traffic of a region.
    Cut {
        /// The region.
        #[arg(value_parser = region)]
        region: RegionId,
        /// Which way, seen from the region.
        #[arg(long, value_enum, default_value = "both")]
        direction: Direction,
        /// Only towards and from this region.
        #[arg(long, value_parser = region, value_name = "REGION")]
        peer: Option<RegionId>,
    },
    /// End the cuts that touch a region, or all.
    Heal {
        /// The region.
        #[arg(value_parser = region)]
        region: Option<RegionId>,
    },
    /// Show every link with its counts.
    Show,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

fn share(text: &str) -> Result<Ratio, String> {
    let share: Ratio = text.parse().map_err(|error: portolan_model::UnitError| error.to_string())?;
    if share > Ratio::ONE { Err("a share is at most 100%".to_owned()) } else { Ok(share) }
}

fn name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|error| error.to_string())
}

fn region(text: &str) -> Result<RegionId, String> {
    Name::new(text).and_then(|name| RegionId::new(name.as_str())).map_err(|error| error.to_string())
}

fn revision(text: &str) -> Result<Revision, String> {
    text.parse().map(Revision).map_err(|_| "a revision is a whole number".to_owned())
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write `Name: value`")?;
    let name = name.trim().parse().map_err(|_| format!("`{name}` is not a header name"))?;
    let value = value.trim().parse().map_err(|_| format!("`{value}` is not a header value"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_more_than_everything_is_lost() {
        let parse = |loss| Cli::try_parse_from(["portolan", "up", "--wan", "--loss", loss]);
        assert!(parse("100%").is_ok() && parse("0.5%").is_ok());
        let error = parse("200%").expect_err("more than everything").to_string();
        assert!(error.contains("at most 100%"), "{error}");
    }

    #[test]
    fn a_key_of_a_limit_is_not_the_operators() {
        let cli = Cli::try_parse_from(["portolan", "limits", "explain", "alice", "--limit", "per-user"]);
        let cli = cli.unwrap_or_else(|error| panic!("{error}"));
        assert!(cli.global.overrides().operator.is_none());
        let Command::Limits { order: Some(Limits::Explain { written, .. }) } = cli.command else { panic!("explain") };
        assert_eq!(written, "alice");
    }

    #[test]
    fn an_operator_certificate_comes_with_its_key() {
        assert!(Cli::try_parse_from(["portolan", "status", "--certificate", "a.pem"]).is_err());
        let cli = Cli::try_parse_from(["portolan", "status", "--certificate", "a.pem", "--key", "a.key"]);
        assert!(cli.is_ok_and(|cli| cli.global.overrides().operator.is_some()));
    }
}
