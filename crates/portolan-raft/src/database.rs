//! The log file: what is written where in redb, and how it is read back. Decides whether a file is whole, damaged or new;
//! never waits.
//!
//! A start reads a copy of the file in memory, so that it needs no space on a full disk, and so that redb's checks of a
//! damaged file cannot change it. redb refuses everything after its first I/O error: a failed write drops the opened
//! database, and the next one opens it anew.

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use portolan_model::{MemberId, RegionId};
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    disk::Disk,
    record,
    types::{Entry, LogId, Vote},
};

/// Encoded entries by log index.
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
/// Everything else by name.
const STATE: TableDefinition<&str, &[u8]> = TableDefinition::new("state");

pub const MEMBER: &str = "member";
/// Whether this log follows one that was lost.
pub const LOST: &str = "lost";
pub const VOTE: &str = "vote";
pub const COMMITTED: &str = "committed";
pub const PURGED: &str = "purged";
/// The last log id: a log that ends elsewhere has lost its tail.
pub const LAST: &str = "last";
/// Ids of the cluster's regions: what the entries mean depends on them.
pub const REGIONS: &str = "regions";
/// Whether limits have ever been in force under this member id.
pub const LIMITS_STARTED: &str = "limits started";
/// The number of the last process under which they were. A log of earlier versions has the other record alone.
pub const LIMITS_LIFE: &str = "limits life";

/// redb caches pages besides; all entries are kept in memory by `Store` anyway.
const CACHE_BYTES: usize = 1 << 20;

/// What one durable transaction writes.
#[derive(Default)]
pub struct Batch {
    /// Entries to put, sealed.
    pub put: Vec<(u64, Arc<[u8]>)>,
    /// Entries to remove: `(first, last)`.
    pub remove: Option<(u64, u64)>,
    /// Named records to put, sealed.
    pub state: Vec<(&'static str, Vec<u8>)>,
}

impl Batch {
    /// Adds a named record.
    pub fn set<T: Serialize>(&mut self, name: &'static str, value: &T) {
        let record = record::seal(name.as_bytes(), value)
            .expect("ids, votes and names of regions are far below the codec's limit");
        self.state.push((name, record));
    }

    /// Adds a named record.
    pub fn with<T: Serialize>(mut self, name: &'static str, value: &T) -> Self {
        self.set(name, value);
        self
    }
}

/// All that a log file holds.
#[derive(Debug)]
pub struct Content {
    pub member: MemberId,
    pub lost: bool,
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// Sealed entries by index.
    pub log: BTreeMap<u64, Arc<[u8]>>,
    /// The last entry's id, or that of the last purged one.
    pub last: Option<LogId>,
    /// `None` until the first start under a list of regions.
    pub regions: Option<Vec<RegionId>>,
    /// `None`: limits were never in force.
    pub limits_life: Option<u64>,
}

/// What a log file turned out to be.
#[derive(Debug)]
pub enum Found {
    /// Empty, or made and never written to.
    New,
    /// As it was left.
    Whole(Content),
    /// Not to be believed.
    Damaged(String),
}

/// Reads a copy of the file. redb panics on some damage in debug builds; that counts as damage found.
pub fn load(bytes: &[u8]) -> Found {
    catch_unwind(AssertUnwindSafe(|| read_all(bytes)))
        .unwrap_or_else(|_| Found::Damaged("the database panicked on it".to_owned()))
}

fn read_all(bytes: &[u8]) -> Found {
    if bytes.is_empty() {
        return Found::New;
    }
    let copied = || -> Result<Database, redb::Error> {
        let backend = redb::backends::InMemoryBackend::new();
        backend.set_len(bytes.len() as u64)?;
        backend.write(0, bytes)?;
        let builder = &mut redb::Builder::new();
        Ok(builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create_with_backend(backend)?)
    };
    match copied().map_err(|error| error.to_string()).and_then(|database| read_tables(&database)) {
        Ok(Some(content)) => Found::Whole(content),
        Ok(None) => Found::New,
        Err(reason) => Found::Damaged(reason),
    }
}

/// `None` when the file was made and the first transaction never came.
fn read_tables(database: &Database) -> Result<Option<Content>, String> {
    let text = |error: redb::Error| error.to_string();
    let read = database.begin_read().map_err(|error| text(error.into()))?;
    let state = match read.open_table(STATE) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(text(error.into())),
    };
    let log_table = read.open_table(LOG).map_err(|error| text(error.into()))?;
    let mut log = BTreeMap::new();
    for item in log_table.iter().map_err(|error| text(error.into()))? {
        let (index, sealed) = item.map_err(|error| text(error.into()))?;
        log.insert(index.value(), Arc::from(sealed.value()));
    }
    let content = Content {
        member: named(&state, MEMBER)?.ok_or("the member id is missing")?,
        lost: named(&state, LOST)?.ok_or("the record `lost` is missing")?,
        vote: named(&state, VOTE)?,
        committed: named(&state, COMMITTED)?.flatten(),
        purged: named(&state, PURGED)?,
        last: named(&state, LAST)?.flatten(),
        regions: named(&state, REGIONS)?,
        limits_life: match named(&state, LIMITS_LIFE)? {
            None => named(&state, LIMITS_STARTED)?.filter(|started: &bool| *started).map(|_| 0),
            life => life,
        },
        log,
    };
    check(&content)?;
    Ok(Some(content))
}

fn named<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<T>, String> {
    match table.get(name).map_err(|error| error.to_string())? {
        None => Ok(None),
        Some(sealed) => match record::open(name.as_bytes(), sealed.value()) {
            Some(value) => Ok(Some(value)),
            None => Err(format!("the record `{name}` is damaged")),
        },
    }
}

/// Every entry opens, none is missing, and the last one is the last one written.
fn check(content: &Content) -> Result<(), String> {
    let first = content.purged.map_or(0, |id| id.index + 1);
    let mut last = content.purged;
    for (expected, (&index, sealed)) in (first..).zip(&content.log) {
        if index != expected {
            return Err(format!("entry {expected} is missing"));
        }
        let entry = open_entry(index, sealed).ok_or_else(|| format!("entry {index} is damaged"))?;
        if entry.log_id.index != index {
            return Err(format!("entry {index} calls itself {}", entry.log_id.index));
        }
        last = Some(entry.log_id);
    }
    if last == content.last { Ok(()) } else { Err("the end of the log is missing".to_owned()) }
}

/// Encodes an entry for its index.
pub fn seal_entry(entry: &Entry) -> Result<Arc<[u8]>, portolan_model::codec::CodecError> {
    Ok(record::seal(&entry.log_id.index.to_be_bytes(), entry)?.into())
}

/// Decodes the entry at `index`; `None` when it is damaged.
pub fn open_entry(index: u64, sealed: &[u8]) -> Option<Entry> {
    record::open(&index.to_be_bytes(), sealed)
}

/// The file, opened for writing when it is needed.
#[derive(Debug, Default)]
pub struct Writer {
    opened: Option<Database>,
}

impl Writer {
    /// Opens the file unless it is open.
    pub fn open(&mut self, disk: &dyn Disk) -> Result<&Database, redb::Error> {
        if self.opened.is_none() {
            let backend = Opened(disk.open_log()?);
            let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend)?;
            self.opened = Some(database);
        }
        Ok(self.opened.as_ref().expect("opened above"))
    }

    /// Writes `batch` in one durable transaction. After an error the file holds all of it or nothing, and writing the
    /// same batch again is safe.
    pub fn commit(&mut self, disk: &dyn Disk, batch: &Batch) -> Result<(), redb::Error> {
        let written = self.open(disk).and_then(|database| write(database, batch));
        if written.is_err() {
            self.opened = None;
        }
        written
    }
}

fn write(database: &Database, batch: &Batch) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut log = transaction.open_table(LOG)?;
        if let Some((first, last)) = batch.remove {
            log.retain_in(first..=last, |_, _| false)?;
        }
        for (index, sealed) in &batch.put {
            log.insert(index, sealed.as_ref())?;
        }
        let mut state = transaction.open_table(STATE)?;
        for (name, sealed) in &batch.state {
            state.insert(name, sealed.as_slice())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Whether a write failed for want of space, or may have: redb reports `PreviousIo` where an error went before it, and
/// the next attempt tells which.
pub fn is_full(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(cause) => matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
        redb::Error::PreviousIo => true,
        _ => false,
    }
}

/// redb takes a backend by value and asks for a type.
#[derive(Debug)]
struct Opened(Box<dyn StorageBackend>);

type Bounds = std::ops::Bound<u64>;

impl StorageBackend for Opened {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }

    fn try_lock_range(&self, start: Bounds, end: Bounds) -> Result<bool, redb::BackendError> {
        self.0.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bounds, end: Bounds) -> Result<bool, redb::BackendError> {
        self.0.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bounds, end: Bounds) -> Result<(), redb::BackendError> {
        self.0.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bounds, end: Bounds) -> Result<(), redb::BackendError> {
        self.0.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bounds, end: Bounds) -> Result<(), redb::BackendError> {
        self.0.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bounds, end: Bounds) -> Result<bool, redb::BackendError> {
        self.0.query_lock_range(start, end)
    }
}
