//! A disk in memory for simulations and tests: it can be full, lose what was not synced in a crash, and rot. Outlives
//! the node that uses it, so that a restart finds its data. Deterministic.

use std::{
    fmt, io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redb::StorageBackend;

use crate::disk::{Disk, DiskFile};

/// Clones share the disk.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    shared: Arc<Mutex<Content>>,
}

#[derive(Default)]
struct Content {
    /// What the running node sees.
    log: Vec<u8>,
    /// What a crash leaves.
    synced_log: Vec<u8>,
    /// Where the two differ.
    unsynced: Vec<Range<usize>>,
    snapshot: Option<Vec<u8>>,
    set_aside: Vec<(String, Vec<u8>)>,
    full: bool,
    /// Raised by a crash: a backend opened before it reaches nothing any more.
    opening: u64,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on writes fail for want of space.
    pub fn fill(&self) {
        self.content().full = true;
    }

    /// Ends [`MemoryDisk::fill`].
    pub fn free(&self) {
        self.content().full = false;
    }

    /// Drops what was not synced, and cuts off whoever has the log open.
    pub fn crash(&self) {
        let mut content = self.content();
        content.log = content.synced_log.clone();
        content.unsynced.clear();
        content.opening += 1;
    }

    /// Changes the bytes of a file behind the node's back; `false` when there is no such file.
    pub fn damage(&self, file: DiskFile, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut content = self.content();
        match file {
            DiskFile::Log if content.synced_log.is_empty() => return false,
            DiskFile::Log => {
                change(&mut content.synced_log);
                content.log = content.synced_log.clone();
                content.unsynced.clear();
            }
            DiskFile::Snapshot => match &mut content.snapshot {
                Some(bytes) => change(bytes),
                None => return false,
            },
        }
        true
    }

    /// Names of the damaged files that were set aside, oldest first.
    pub fn damaged_files(&self) -> Vec<String> {
        self.content().set_aside.iter().map(|(name, _)| name.clone()).collect()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryDisk(..)")
    }
}

impl Disk for MemoryDisk {
    fn read(&self, file: DiskFile) -> io::Result<Option<Vec<u8>>> {
        let content = self.content();
        Ok(match file {
            DiskFile::Log => (!content.log.is_empty()).then(|| content.log.clone()),
            DiskFile::Snapshot => content.snapshot.clone(),
        })
    }

    fn open_log(&self) -> io::Result<Box<dyn StorageBackend>> {
        let mut content = self.content();
        content.opening += 1;
        Ok(Box::new(MemoryLog { disk: self.clone(), opening: content.opening }))
    }

    fn write_snapshot(&self, bytes: &[u8]) -> io::Result<()> {
        let mut content = self.content();
        content.space_left()?;
        content.snapshot = Some(bytes.to_vec());
        Ok(())
    }

    fn set_aside(&self, file: DiskFile) -> io::Result<String> {
        let mut content = self.content();
        let bytes = match file {
            DiskFile::Log => {
                content.opening += 1;
                content.synced_log = Vec::new();
                content.unsynced.clear();
                std::mem::take(&mut content.log)
            }
            DiskFile::Snapshot => content.snapshot.take().unwrap_or_default(),
        };
        let kept = content.set_aside.iter().filter(|(name, _)| name.starts_with(file.name())).count();
        let name = format!("{}.damaged-{}", file.name(), kept + 1);
        content.set_aside.push((name.clone(), bytes));
        Ok(name)
    }

    fn free_space(&self) -> io::Result<Option<u64>> {
        Ok(self.content().full.then_some(0))
    }
}

impl Content {
    fn sync(&mut self) {
        let len = self.log.len();
        self.synced_log.resize(len, 0);
        for range in self.unsynced.drain(..) {
            // A file that shrank since has lost the rest of the range.
            let range = range.start.min(len)..range.end.min(len);
            self.synced_log[range.clone()].copy_from_slice(&self.log[range]);
        }
    }

    fn space_left(&self) -> io::Result<()> {
        if self.full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

/// The log as redb sees it.
#[derive(Debug)]
struct MemoryLog {
    disk: MemoryDisk,
    opening: u64,
}

impl MemoryLog {
    fn with<R>(&self, action: impl FnOnce(&mut Content) -> io::Result<R>) -> io::Result<R> {
        let mut content = self.disk.content();
        if content.opening != self.opening {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        action(&mut content)
    }
}

/// The bytes `offset..offset + len` of a file, or an error where it ends before.
fn range(file: &[u8], offset: u64, len: usize) -> io::Result<Range<usize>> {
    let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
    let end = start.checked_add(len).filter(|&end| end <= file.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(start..end)
}

impl StorageBackend for MemoryLog {
    fn len(&self) -> io::Result<u64> {
        self.with(|content| Ok(content.log.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|content| {
            out.copy_from_slice(&content.log[range(&content.log, offset, out.len())?]);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|content| {
            let len = usize::try_from(len).map_err(|_| io::ErrorKind::StorageFull)?;
            if len > content.log.len() {
                content.space_left()?;
            }
            let before = content.log.len();
            content.log.resize(len, 0);
            content.unsynced.push(before.min(len)..len);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|content| {
            content.sync();
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|content| {
            content.space_left()?;
            let range = range(&content.log, offset, data.len())?;
            content.log[range.clone()].copy_from_slice(data);
            content.unsynced.push(range);
            Ok(())
        })
    }
}
