//! A fleet of real processes, started by `portolan up` in a folder and a network of its own.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Host, Network, binary, root};

/// The regions of the shipped fleet, in the order of their addresses.
const REGIONS: [&str; 3] = ["ap-southeast", "eu-west", "us-east"];

/// Longest wait for `up`; an unoptimised build on a busy machine takes a few seconds.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// One fleet at a time in this process.
static ONE_FLEET: Mutex<()> = Mutex::new(());

/// How a fleet is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// More arguments of `up`, for example `--wan`.
    pub arguments: Vec<String>,
    /// A gateway document in place of the shipped one, written for 127.10.0.0/16.
    pub document: Option<String>,
    /// Commands of a shell that run before `up`, in its mount namespace: `DIR` is the folder of the fleet.
    pub namespace: Option<String>,
}

/// A running fleet; it ends with this value.
pub struct Fleet {
    /// Its network.
    pub network: Network,
    dir: TempDir,
    options: Options,
    up: Option<Child>,
    restarted: BTreeMap<String, Child>,
    _alone: MutexGuard<'static, ()>,
}

impl Fleet {
    /// Starts a fleet and waits until it is ready.
    pub fn start(options: Options) -> Self {
        let alone = ONE_FLEET.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let network = Network::take();
        if let Some(document) = &options.document {
            fs::write(dir.path().join("document.yaml"), document).expect("the document is written");
        }
        let mut fleet = Self { network, dir, options, up: None, restarted: BTreeMap::new(), _alone: alone };
        fleet.up();
        fleet
    }

    /// Ends `up` and all its children in order.
    pub fn end(&mut self) {
        for (_, mut child) in std::mem::take(&mut self.restarted) {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Closing its standard input lets `up` end its children.
        if let Some(mut up) = self.up.take() {
            drop(up.stdin.take());
            let _ = up.wait();
        }
    }

    /// Waits for `up` to end after a signal.
    pub fn wait_for_end(&mut self) {
        if let Some(mut up) = self.up.take() {
            up.wait().expect("up can be waited for");
        }
    }

    /// Runs `up` (again) and waits for its last line; returns how long that took.
    pub fn up(&mut self) -> Duration {
        self.up_with(&[])
    }

    /// As [`Fleet::up`], with more arguments.
    pub fn up_with(&mut self, more: &[&str]) -> Duration {
        let started = Instant::now();
        let mut command = self.up_command();
        command.args(more);
        let log = fs::File::create(self.up_log()).expect("a log file");
        command.stdin(Stdio::piped()).stderr(log.try_clone().expect("a handle")).stdout(log).current_dir(root());
        self.up = Some(command.spawn().expect("the binary starts"));
        loop {
            let text = self.printed();
            if text.contains("ready after") {
                return started.elapsed();
            }
            let ended = self.up.as_mut().and_then(|up| up.try_wait().ok().flatten());
            assert!(ended.is_none(), "`up` ended ({ended:?}):\n{text}");
            assert!(started.elapsed() < UP_WITHIN, "`up` is not ready:\n{text}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn up_command(&self) -> Command {
        let mut arguments: Vec<String> = vec!["--dir".into(), self.dir().display().to_string(), "up".into()];
        arguments.extend(["--network".into(), self.network.name(), "--exit-with-parent".into()]);
        if self.options.document.is_some() {
            arguments.extend(["--config".into(), self.dir.path().join("document.yaml").display().to_string()]);
        }
        arguments.extend(self.options.arguments.iter().cloned());
        match &self.options.namespace {
            None => {
                let mut command = Command::new(binary());
                command.args(arguments);
                command
            }
            Some(script) => {
                let mut command = Command::new("unshare");
                let script = format!("set -e; mkdir -p \"$DIR\"; {script}; exec \"$0\" \"$@\"");
                command.args(["--mount", "sh", "-c", &script]).arg(binary()).args(arguments);
                command.env("DIR", self.dir());
                command
            }
        }
    }

    /// What `up` has printed so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(self.up_log()).unwrap_or_default()
    }

    fn up_log(&self) -> PathBuf {
        self.dir.path().join("up.log")
    }

    /// The folder of the fleet.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("fleet")
    }

    /// A place for files of the test itself.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The process of `up`, whose mount namespace the nodes share.
    pub fn up_id(&self) -> u32 {
        self.up.as_ref().expect("up runs").id()
    }

    /// The names of the regions.
    pub fn regions(&self) -> [&'static str; 3] {
        REGIONS
    }

    /// Where clients reach a region, at its first node.
    pub fn https(&self, region: &str) -> SocketAddr {
        self.at(region, 8443)
    }

    /// Where clients reach a node, `REGION-N`.
    pub fn https_of(&self, node: &str) -> SocketAddr {
        let (region, n) = node.rsplit_once('-').expect("a node's name");
        let IpAddr::V4(first) = self.at(region, 8443).ip() else { unreachable!("loopback networks are IPv4") };
        let [a, b, k, _] = first.octets();
        SocketAddr::from(([a, b, k, n.parse().expect("a node's number")], 8443))
    }

    /// Where resolvers reach a region.
    pub fn dns(&self, region: &str) -> SocketAddr {
        self.at(region, 8053)
    }

    /// Where operators reach a region.
    pub fn admin(&self, region: &str) -> SocketAddr {
        self.at(region, 8900)
    }

    fn at(&self, region: &str, port: u16) -> SocketAddr {
        let index = REGIONS.iter().position(|name| *name == region).expect("a shipped region");
        SocketAddr::new(self.network.address(u8::try_from(index + 1).expect("three regions")), port)
    }

    /// A client that trusts the fleet.
    pub fn host(&self) -> Host {
        Host::new(&self.dir().join("ca.pem")).expect("the fleet has an authority")
    }

    /// Runs a command of the binary from the repository root.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary starts")
    }

    /// A command of the binary, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--dir").arg(self.dir()).args(arguments).current_dir(root()).stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed, and returns its JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--output", "json"]].concat());
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {errors}{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// What the node of `region` says of itself, or nothing if it does not answer.
    pub fn status(&self, region: &str) -> Option<Value> {
        let admin = self.admin(region).to_string();
        let output = self.run(&["status", "--admin", &admin, "--output", "json"]);
        let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(answer["nodes"][0]["status"].clone()).filter(|status| !status.is_null())
    }

    /// The region of the Raft leader, as a majority of the nodes that answer say.
    pub fn leader(&self) -> Option<String> {
        let roles = REGIONS.map(|region| (region, self.status(region)));
        let leads = |status: &Value| status["raft"]["role"] == "leader";
        let mut leaders = roles.iter().filter(|(_, status)| status.as_ref().is_some_and(leads));
        leaders.next().map(|(region, _)| (*region).to_owned())
    }

    /// A token of the demo issuer with the scope `orders`.
    pub fn token(&self, user: &str) -> String {
        let output = self.run(&["token", "--user", user, "--scope", "orders"]);
        String::from_utf8(output.stdout).expect("a token is text").trim().to_owned()
    }

    /// Kills the first node of `region` at once.
    pub fn kill(&mut self, region: &str) {
        self.kill_node(&format!("{region}-1"));
    }

    /// Kills the node `REGION-N` at once.
    pub fn kill_node(&mut self, node: &str) {
        if let Some(mut child) = self.restarted.remove(node) {
            child.kill().expect("the node runs");
            child.wait().expect("the node ends");
            return;
        }
        let id = self.processes()[node].as_u64().expect("the node has a process");
        let status = Command::new("kill").args(["-9", &id.to_string()]).status().expect("kill runs");
        assert!(status.success(), "{node} was not running");
    }

    /// The processes that `up` started, by name.
    fn processes(&self) -> Value {
        let text = fs::read_to_string(self.dir().join("processes.json")).expect("up wrote its processes");
        let mut listed: Value = serde_json::from_str(&text).expect("JSON");
        listed["processes"].take()
    }

    /// Starts the first node of `region` again after [`Fleet::kill`].
    pub fn restart(&mut self, region: &str) {
        self.restart_node(&format!("{region}-1"));
    }

    /// Starts the node `REGION-N` again after [`Fleet::kill_node`].
    pub fn restart_node(&mut self, node: &str) {
        let file = self.dir().join("nodes").join(node).join("node.yaml");
        let log = fs::File::options().append(true).open(file.with_file_name("node.log")).expect("the node has a log");
        let mut command = Command::new(binary());
        command.arg("run").arg("--node").arg(file).arg("--exit-with-parent").current_dir(root());
        command.stdin(Stdio::piped()).stdout(log.try_clone().expect("a handle")).stderr(log);
        self.restarted.insert(node.to_owned(), command.spawn().expect("the binary starts"));
    }

    /// Kills everything at once, `up` included; a region has one node.
    pub fn kill_all(&mut self) {
        for region in REGIONS {
            self.kill(region);
        }
        if let Some(mut up) = self.up.take() {
            up.kill().expect("up runs");
            up.wait().expect("up ends");
        }
    }

    /// The ends of all logs, for messages.
    pub fn logs(&self) -> String {
        let last = |region: &&str| {
            let text = self.log(region);
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {region}\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        REGIONS.iter().map(last).collect()
    }

    /// All that the node of a region has logged since it was started last.
    pub fn log(&self, region: &str) -> String {
        let path = self.dir().join("nodes").join(format!("{region}-1")).join("node.log");
        fs::read_to_string(path).unwrap_or_default()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        self.end();
    }
}
