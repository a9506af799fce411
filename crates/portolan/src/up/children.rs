//! The processes of a local fleet: started with their output in files, ended together, reported when they end alone.
//!
//! Every child holds the reading end of a pipe as its standard input and ends when that closes: so children never
//! outlive `up`, however it ends. A node that ends is not started again: that is the operator's experiment.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::process::{Child, ChildStdin, Command};

/// Time to end in order before a child is killed. A node gives requests under way 10 s, then writes its last words.
const PATIENCE: Duration = Duration::from_secs(15);

/// Lines of output that stand in an error message.
const TAIL_LINES: usize = 12;

/// A child and where its output goes.
pub struct Process {
    /// As messages name it.
    pub name: String,
    /// Its output.
    pub log: PathBuf,
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl Process {
    /// Starts this program with other arguments.
    pub fn start(name: &str, log: &Path, arguments: &[&std::ffi::OsStr]) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        if let Some(folder) = log.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let errors = output.try_clone().context("cannot share a log file")?;
        let mut child = Command::new(program)
            .args(arguments)
            .arg("--exit-with-parent")
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            // Its own group: Ctrl-C in a terminal reaches `up` alone, which ends the children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let lifeline = child.stdin.take();
        Ok(Self { name: name.to_owned(), log: log.to_owned(), child, lifeline })
    }

    /// The process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The end of its output.
    pub fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

/// Ends all `processes`: asks by closing their standard input, waits, then kills.
pub async fn end_all(processes: &mut [Process]) {
    for process in processes.iter_mut() {
        drop(process.lifeline.take());
    }
    let all = async {
        for process in processes.iter_mut() {
            // An error here means that it is gone already.
            let _ = process.child.wait().await;
        }
    };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        for process in processes.iter_mut().filter(|process| process.child.id().is_some()) {
            eprintln!("{} does not end, killing it", process.name);
            let _ = process.child.kill().await;
        }
    }
}

/// Resolves when standard input ends, which for a child means that its parent is gone or lets it go.
async fn parent_gone() {
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    // A thread of its own: tokio's standard input would hold up the end of the runtime.
    let watcher = std::thread::Builder::new().name("parent".to_owned()).spawn(move || {
        let mut sink = std::io::sink();
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut sink);
        drop(sender);
    });
    match watcher {
        Ok(_) => drop(receiver.await),
        Err(_) => std::future::pending().await,
    }
}

/// Resolves on Ctrl-C or SIGTERM.
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Resolves on a signal, or with the parent if that is asked for.
pub async fn end_asked(exit_with_parent: bool) {
    tokio::select! {
        () = signalled() => {}
        () = parent_gone(), if exit_with_parent => {}
    }
}
