//! Runs Raft on a thread of its own: its heartbeats must not wait behind anything else the node does.

use std::{path::PathBuf, sync::Arc, thread};

use portolan_config::NodeFile;
use portolan_raft::{Raft, RaftConfig, Store};
use tokio::{runtime, sync::oneshot};
use tracing::warn;

use crate::{clock::Clock, error::Error, files::NodeFiles, raft_link::MeshTransport};

/// Folder of Raft's files in the data directory, and name of the thread.
const RAFT: &str = "raft";

/// A running Raft; its thread ends when this is dropped.
pub(crate) struct RaftThread {
    pub(crate) raft: Raft,
    alive: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl RaftThread {
    /// Opens the store and starts. Returns with the last good intent from disk.
    pub(crate) async fn start(
        node: &NodeFile,
        files: &NodeFiles,
        transport: MeshTransport,
        clock: Clock,
    ) -> Result<Self, Error> {
        let path = files.data.join(RAFT);
        let store = Store::open_directory(&path, &files.regions)
            .map_err(|source| Error::Store { path: path.clone(), source })?;
        for damage in store.damage() {
            let (file, kept_as, reason) = (damage.file, &damage.kept_as, &damage.reason);
            warn!(?file, kept_as, reason, "a damaged file of Raft was set aside");
        }
        let config = RaftConfig::new(
            node.node.clone(),
            node.region.clone(),
            node.bootstrap.clone(),
            Arc::clone(&files.regions),
            Arc::new(move || clock.now().wall),
        );
        let failed = |source| Error::File { path: PathBuf::from("the thread of Raft"), source };
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (started, raft) = oneshot::channel();
        let (alive, stopped) = oneshot::channel::<()>();
        let body = async move {
            match Raft::start(config, store, transport).await {
                Ok(raft) => {
                    if started.send(Ok(raft)).is_ok() {
                        // Resolves with an error, when the node drops its end: the tasks of Raft live until then.
                        let _ = stopped.await;
                    }
                }
                Err(error) => drop(started.send(Err(error))),
            }
        };
        let thread = thread::Builder::new().name(RAFT.to_owned()).spawn(move || runtime.block_on(body));
        let thread = thread.map_err(failed)?;
        match raft.await {
            Ok(raft) => Ok(Self { raft: raft?, alive, thread }),
            Err(_) => Err(Error::Ended { part: "Raft", reason: "its thread has ended".to_owned() }),
        }
    }

    /// Stops Raft and waits for its thread.
    pub(crate) async fn stop(self) {
        self.raft.shutdown().await;
        drop((self.raft, self.alive));
        // An error says that the thread has panicked: ended in either case.
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}
