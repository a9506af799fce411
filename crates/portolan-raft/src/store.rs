//! What a node keeps about Raft, in memory and on disk. Decides when a file is damaged and what then, and what a full
//! disk means. Never blocks: a write that finds no space waits in the caller's task and is tried again.
//!
//! Member id, vote and log live in one file and are lost together: whoever loses them comes back as another member,
//! since a voter that forgot an acknowledged entry could help to elect a leader without it. The snapshot is a file of
//! its own and can be fetched from any peer.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use openraft::{AsyncRuntime, StorageIOError};
use portolan_config::RegionMap;
use portolan_model::MemberId;
use rand_08::RngCore;
use thiserror::Error;

use crate::{
    database::{self, Batch, Content, Found, Writer},
    disk::{Directory, Disk, DiskFile},
    facts,
    purging::Held,
    runtime::Runtime,
    saved_snapshot::SavedSnapshot,
    types::{LogId, StorageError, Vote},
    waiting::Waiting,
};

/// Pause between two attempts of a write that found no space.
const RETRY: Duration = Duration::from_millis(500);
/// Space that must be left besides twice a record's length: pages that redb copies, the vote, the commit index.
const SPARE_BYTES: u64 = 128 << 10;

/// A node's Raft data. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Box<dyn Disk>,
    member: MemberId,
    lost: bool,
    damage: Vec<Damage>,
    /// Writes that wait for space.
    waiting: AtomicUsize,
    /// Locked for the length of a commit, never over a wait.
    log: Mutex<LogState>,
    snapshot: Mutex<Option<SavedSnapshot>>,
}

/// The log as it is on disk, but for a purge that is held back.
#[derive(Debug)]
pub(crate) struct LogState {
    writer: Writer,
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    pub entries: BTreeMap<u64, Arc<[u8]>>,
    /// A purge that is not on disk yet.
    pub held: Option<Held>,
    pub limits_life: Option<u64>,
}

impl LogState {
    pub fn bytes(&self) -> usize {
        self.entries.values().map(|sealed| sealed.len()).sum()
    }
}

/// A file that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which.
    pub file: DiskFile,
    /// Its name from then on.
    pub kept_as: String,
    /// What was wrong.
    pub reason: String,
}

/// Why a store does not open.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process has the data directory.
    #[error("the data directory is in use by another process")]
    InUse,
    /// Files cannot be read, made or renamed.
    #[error("the data directory cannot be used")]
    Io(#[source] io::Error),
    /// The first record cannot be written.
    #[error("the log cannot be written")]
    Database(#[source] Box<redb::Error>),
    /// A record cannot be written.
    #[error("the log cannot be written")]
    Log(#[source] Box<openraft::StorageError<u64>>),
    /// The data is of a cluster with other regions. Nothing was changed.
    #[error(
        "the data is of a cluster with the regions {saved}, and the region files name {known}; the regions of a cluster \
         cannot be changed: restore the region files, or found a new cluster in empty data directories"
    )]
    OtherRegions {
        /// The regions under which the data was written.
        saved: String,
        /// The regions of the region files.
        known: String,
    },
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::WouldBlock { Self::InUse } else { Self::Io(error) }
    }
}

impl Store {
    /// Opens the data in a directory, which is made when there is none.
    pub fn open_directory(path: &Path, regions: &Arc<RegionMap>) -> Result<Self, StoreError> {
        Self::open(Directory::open(path)?, regions)
    }

    /// Opens the data on `disk`. A damaged file is set aside and reported by [`Store::damage`]; without a log the node
    /// gets a member id that it never had. Data of a cluster with other `regions` is refused and left as it is.
    pub fn open(disk: impl Disk, regions: &Arc<RegionMap>) -> Result<Self, StoreError> {
        let log = database::load(&disk.read(DiskFile::Log)?.unwrap_or_default());
        let snapshot = disk.read(DiskFile::Snapshot)?.map(|bytes| SavedSnapshot::from_bytes(&bytes));
        let whole = if let Found::Whole(content) = &log { Some(content) } else { None };
        facts::check_regions(whole, snapshot.as_ref().and_then(Option::as_ref), regions)?;

        let mut damage = Vec::new();
        let lost = snapshot.is_some();
        if let Some(None) = snapshot {
            set_aside(&disk, DiskFile::Snapshot, "its checksum does not match".to_owned(), &mut damage)?;
        }
        let content = match log {
            Found::Whole(content) => content,
            Found::New => found(&disk, lost, regions)?,
            Found::Damaged(reason) => {
                set_aside(&disk, DiskFile::Log, reason, &mut damage)?;
                found(&disk, true, regions)?
            }
        };
        let Content { member, lost, vote, committed, purged, log: entries, last, regions: of, limits_life } = content;
        let mut log =
            LogState { writer: Writer::default(), vote, committed, purged, last, entries, held: None, limits_life };
        if of.is_none() {
            let batch = Batch::default().with(database::REGIONS, &regions.ids());
            match log.writer.commit(&disk, &batch) {
                // A later start will find space.
                Err(error) if !database::is_full(&error) => return Err(StoreError::Database(Box::new(error))),
                Ok(()) | Err(_) => {}
            }
        }
        let shared = Shared {
            disk: Box::new(disk),
            member,
            lost,
            damage,
            waiting: AtomicUsize::new(0),
            log: Mutex::new(log),
            snapshot: Mutex::new(snapshot.flatten()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The id under which this node is or will be a member.
    pub fn member(&self) -> MemberId {
        self.shared.member
    }

    /// Files that were set aside when the store was opened.
    pub fn damage(&self) -> &[Damage] {
        &self.shared.damage
    }

    /// Length of the log in bytes, in memory.
    pub fn log_bytes(&self) -> usize {
        self.log().bytes()
    }

    /// Whether a write waits for space, or the next one would not find enough.
    pub fn disk_full(&self) -> bool {
        self.shortage(0).is_some()
    }

    /// Why a record of `len` bytes should not be begun; `None` when there is space.
    pub(crate) fn shortage(&self, len: usize) -> Option<String> {
        if self.shared.waiting.load(Ordering::Relaxed) > 0 {
            return Some("a write waits for space in the data directory".to_owned());
        }
        let needed = SPARE_BYTES + 2 * len as u64;
        let free = self.shared.disk.free_space().ok().flatten()?;
        (free < needed).then(|| {
            format!("{} KiB are left in the data directory, {} KiB are needed", free >> 10, needed.div_ceil(1024))
        })
    }

    /// Whether this node never had an entry of a cluster, as far as its disk tells. It may have voted: a founder that
    /// is wiped before its first entry has spread must be able to begin anew.
    pub(crate) fn is_pristine(&self) -> bool {
        !self.shared.lost && self.log().last.is_none() && self.snapshot().is_none()
    }

    /// Whether entries were purged that no snapshot covers.
    pub(crate) fn lacks_snapshot(&self) -> bool {
        let covered = self.snapshot().and_then(|snapshot| snapshot.meta.last_log_id);
        self.log().purged > covered
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, LogState> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshot(&self) -> Option<SavedSnapshot> {
        self.shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes `batch`, waiting for space as long as it takes, and changes the state in memory likewise.
    pub(crate) async fn commit(&self, batch: Batch, change: impl FnOnce(&mut LogState)) -> Result<(), StorageError> {
        let mut wait = Waiting::none(&self.shared.waiting);
        loop {
            {
                let mut log = self.log();
                if self.attempt_on(&mut log, &batch)? {
                    change(&mut log);
                    return Ok(());
                }
            }
            wait.begin("log");
            Runtime::sleep(RETRY).await;
        }
    }

    /// Writes `batch` once; a disk without space is not an error, and the next commit makes up for it.
    pub(crate) fn commit_if_possible(
        &self,
        batch: &Batch,
        change: impl FnOnce(&mut LogState),
    ) -> Result<(), StorageError> {
        let mut log = self.log();
        if self.attempt_on(&mut log, batch)? {
            change(&mut log);
        }
        Ok(())
    }

    /// Whether a start from what is on disk comes as far as `applied` with no peer in reach.
    pub(crate) fn keeps(&self, applied: Option<LogId>) -> bool {
        let of_snapshot = || self.snapshot().and_then(|saved| saved.meta.last_log_id);
        applied <= self.log().committed || applied <= of_snapshot()
    }

    /// Whether there was space. Takes a few milliseconds; the owner of the runtime gives Raft a thread of its own.
    pub(crate) fn attempt_on(&self, log: &mut LogState, batch: &Batch) -> Result<bool, StorageError> {
        match log.writer.commit(&*self.shared.disk, batch) {
            Ok(()) => Ok(true),
            Err(error) if database::is_full(&error) => Ok(false),
            Err(error) => Err(StorageIOError::write_logs(&error).into()),
        }
    }

    /// Saves `snapshot` in place of the last one, waiting for space as long as it takes, and then purges what waited for
    /// it. A snapshot that is not later than the last one is dropped: openraft builds one while it installs another, and
    /// whatever is purged must stay covered.
    pub(crate) async fn save_snapshot(&self, snapshot: SavedSnapshot) -> Result<(), StorageError> {
        let bytes = snapshot.to_bytes();
        let mut wait = Waiting::none(&self.shared.waiting);
        while !self.attempt_snapshot(&snapshot, &bytes)? {
            wait.begin("snapshot");
            Runtime::sleep(RETRY).await;
        }
        self.flush_purge()
    }

    /// Whether there was space.
    fn attempt_snapshot(&self, snapshot: &SavedSnapshot, bytes: &[u8]) -> Result<bool, StorageError> {
        let mut saved = self.shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        if saved.as_ref().is_some_and(|saved| saved.meta.last_log_id >= snapshot.meta.last_log_id) {
            return Ok(true);
        }
        match self.shared.disk.write_snapshot(bytes) {
            Ok(()) => *saved = Some(snapshot.clone()),
            Err(error) if is_full(&error) => return Ok(false),
            Err(error) => return Err(StorageIOError::write_snapshot(None, &error).into()),
        }
        Ok(true)
    }

    /// Sets the snapshot aside, which proved unreadable after its checksum had matched.
    pub(crate) fn reject_snapshot(&self, reason: String) -> io::Result<()> {
        let mut noted = Vec::new();
        *self.shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = None;
        set_aside(&*self.shared.disk, DiskFile::Snapshot, reason, &mut noted)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Begins a log under a member id that was never used. `lost`: there was one before.
fn found(disk: &dyn Disk, lost: bool, regions: &RegionMap) -> Result<Content, StoreError> {
    let member = MemberId(Runtime::thread_rng().next_u64().max(1));
    let batch = Batch::default()
        .with(database::MEMBER, &member)
        .with(database::LOST, &lost)
        .with(database::REGIONS, &regions.ids());
    let written = Writer::default().commit(disk, &batch);
    written.map_err(|error| StoreError::Database(Box::new(error)))?;
    Ok(Content {
        member,
        lost,
        vote: None,
        committed: None,
        purged: None,
        log: BTreeMap::new(),
        last: None,
        regions: Some(regions.ids().to_vec()),
        limits_life: None,
    })
}

fn set_aside(disk: &dyn Disk, file: DiskFile, reason: String, damage: &mut Vec<Damage>) -> io::Result<()> {
    let kept_as = disk.set_aside(file)?;
    tracing::error!(file = file.name(), kept_as, reason, "a damaged file is set aside");
    damage.push(Damage { file, kept_as, reason });
    Ok(())
}
