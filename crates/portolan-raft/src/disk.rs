//! Where a node keeps its Raft data: the log file (a redb database) and the snapshot file. Decides file names and how a
//! damaged file is set aside; never looks into either.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use redb::{StorageBackend, backends::FileBackend};

/// One of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFile {
    /// Log, vote and member id.
    Log,
    /// The last snapshot.
    Snapshot,
}

impl DiskFile {
    /// Its name in the data directory.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "raft.redb",
            Self::Snapshot => "raft.snapshot",
        }
    }
}

/// A directory, or what a simulator puts in its place.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// All bytes of a file; `None` when there is none.
    fn read(&self, file: DiskFile) -> io::Result<Option<Vec<u8>>>;

    /// Opens the log for redb, and makes it when there is none. One opening at a time.
    fn open_log(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// Replaces the snapshot; durable and all or nothing.
    fn write_snapshot(&self, bytes: &[u8]) -> io::Result<()>;

    /// Gives a damaged file another name, which is returned, and never overwrites one.
    fn set_aside(&self, file: DiskFile) -> io::Result<String>;

    /// Bytes that may still be written; `None` when nobody knows.
    fn free_space(&self) -> io::Result<Option<u64>>;
}

/// Damaged files kept side by side; when all names are taken the node does not start.
const MAX_SET_ASIDE: u32 = 1000;

/// A directory of the operating system, locked while this value lives.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Takes `path` and makes it when there is none; `WouldBlock` when another process has it.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(path.join("raft.lock"))?;
        lock.try_lock()?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    fn path_of(&self, file: DiskFile) -> PathBuf {
        self.path.join(file.name())
    }

    /// Makes renames and new files survive a power cut.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl Disk for Directory {
    fn read(&self, file: DiskFile) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path_of(file)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open_log(&self) -> io::Result<Box<dyn StorageBackend>> {
        let path = self.path_of(DiskFile::Log);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        self.sync()?;
        let backend = FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Box::new(backend))
    }

    fn write_snapshot(&self, bytes: &[u8]) -> io::Result<()> {
        let fresh = self.path.join(format!("{}.new", DiskFile::Snapshot.name()));
        let written = File::create(&fresh).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        if let Err(error) = written {
            // A half-written file would keep the space that is missing.
            let _ = fs::remove_file(&fresh);
            return Err(error);
        }
        fs::rename(&fresh, self.path_of(DiskFile::Snapshot))?;
        self.sync()
    }

    fn set_aside(&self, file: DiskFile) -> io::Result<String> {
        let name = (1..=MAX_SET_ASIDE)
            .map(|n| format!("{}.damaged-{n}", file.name()))
            .find(|name| !self.path.join(name).exists())
            .ok_or_else(|| io::Error::other("too many damaged files are kept; remove some"))?;
        fs::rename(self.path_of(file), self.path.join(&name))?;
        self.sync()?;
        Ok(name)
    }

    fn free_space(&self) -> io::Result<Option<u64>> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }
}
