//! Keeps the durable marks of the limits on disk: reads them at start, writes them in place from a thread of its own.
//!
//! Decides nothing about marks, whose layout is `portolan_limits::MarkLog`. Both files have their full size before the
//! first write and are never extended, so a disk that fills up later does not stop them, and with them traffic.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use portolan_limits::{Found, MarkLog, MarkSequence, MarkWrite, PageWrite, SEGMENT_LEN};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::error::Error;

/// Names of the two segments in the data directory.
const NAMES: [&str; 2] = ["marks-0", "marks-1"];

/// Pause between attempts of a write that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Writes that wait one by one; further ones are merged into the last, which marks allow: they are maxima.
const MAX_PENDING: usize = 256;

/// Most files of damaged marks kept for inspection.
const MAX_ASIDE: u32 = 8;

/// What was read, and where to go on writing.
pub struct MarksFiles {
    directory: PathBuf,
    log: MarkLog,
    /// What the files held.
    pub found: Found,
}

impl MarksFiles {
    /// Reads the marks in `directory`. Damaged files are renamed aside, named in the log, and begun anew.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let failed = |path: PathBuf| move |source| Error::File { path, source };
        let paths = NAMES.map(|name| directory.join(name));
        let segments = [
            read_segment(&paths[0]).map_err(failed(paths[0].clone()))?,
            read_segment(&paths[1]).map_err(failed(paths[1].clone()))?,
        ];
        let (mut log, found) = MarkLog::recover([&segments[0], &segments[1]]);
        if let Found::Damaged { segment, page } = &found {
            for path in &paths {
                let aside = set_aside(path).map_err(failed(path.clone()))?;
                error!(file = %path.display(), ?aside, segment, page, "the limits' marks are damaged and were set aside");
            }
            (log, _) = MarkLog::recover([&[], &[]]);
        }
        Ok(Self { directory: directory.to_owned(), log, found })
    }

    /// Starts the thread that writes. The receiver shows the highest write that is on disk with all before it.
    pub fn start(self) -> Result<(MarksWriter, watch::Receiver<MarkSequence>), Error> {
        let (durable, receiver) = watch::channel(MarkSequence::default());
        let queue = Arc::new(Queue::default());
        let writer = MarksWriter { queue: Arc::clone(&queue) };
        let path = self.directory.clone();
        thread::Builder::new()
            .name("marks".to_owned())
            .spawn(move || write_all(self.directory, self.log, &queue, &durable))
            .map_err(|source| Error::File { path, source })?;
        Ok((writer, receiver))
    }
}

/// Hands writes to the thread. When dropped, the thread writes what waits and ends.
pub struct MarksWriter {
    queue: Arc<Queue>,
}

impl MarksWriter {
    /// Queues one write; never waits.
    pub fn write(&self, write: MarkWrite) {
        let mut pending = self.queue.lock();
        let full = pending.writes.len() >= MAX_PENDING;
        match pending.writes.back_mut() {
            Some(last) if full => merge(last, write),
            _ => pending.writes.push_back(write),
        }
        self.queue.wake.notify_one();
    }
}

impl Drop for MarksWriter {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.wake.notify_one();
    }
}

#[derive(Default)]
struct Queue {
    pending: Mutex<Pending>,
    wake: Condvar,
}

#[derive(Default)]
struct Pending {
    writes: VecDeque<MarkWrite>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that waits; `None` when nothing does and no writer is left.
    fn take(&self) -> Option<VecDeque<MarkWrite>> {
        let mut pending = self.lock();
        while pending.writes.is_empty() {
            if pending.closed {
                return None;
            }
            pending = self.wake.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
        Some(std::mem::take(&mut pending.writes))
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

/// One flush covers everything that waited for it.
fn write_all(directory: PathBuf, mut log: MarkLog, queue: &Queue, durable: &watch::Sender<MarkSequence>) {
    let mut files = None;
    while let Some(writes) = queue.take() {
        let Some(last) = writes.back().map(|write| write.sequence) else { continue };
        let pages: Vec<PageWrite> = writes.iter().flat_map(|write| log.append(write)).collect();
        let mut reported = false;
        while let Err(fault) = flush(&directory, &mut files, &pages) {
            if queue.is_closed() {
                return;
            }
            if !reported {
                error!(directory = %directory.display(), error = %fault, "the limits' marks cannot be written");
            }
            reported = true;
            files = None;
            thread::sleep(RETRY);
        }
        if reported {
            info!(directory = %directory.display(), "the limits' marks can be written again");
        }
        durable.send_replace(last);
    }
}

fn flush(directory: &Path, files: &mut Option<[File; 2]>, pages: &[PageWrite]) -> io::Result<()> {
    let files = match files {
        Some(files) => files,
        None => files.insert([prepare(&directory.join(NAMES[0]))?, prepare(&directory.join(NAMES[1]))?]),
    };
    for page in pages {
        files[page.segment].write_all_at(&page.bytes, page.offset)?;
    }
    for (segment, file) in files.iter().enumerate() {
        if pages.iter().any(|page| page.segment == segment) {
            file.sync_data()?;
        }
    }
    Ok(())
}

/// Opens a segment for writing in place. One that has not its full size is filled up with zeros first: space that was
/// only promised (a sparse file) could be gone when it is needed.
fn prepare(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let len = file.metadata()?.len();
    if len < SEGMENT_LEN as u64 {
        let missing = SEGMENT_LEN - usize::try_from(len).unwrap_or(0);
        file.write_all_at(&vec![0; missing], len)?;
        file.sync_all()?;
        let directory = path.parent().unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()?;
    }
    Ok(file)
}

/// At most a segment's length: whatever else a file holds was not written by this program.
fn read_segment(path: &Path) -> io::Result<Vec<u8>> {
    match File::open(path) {
        Ok(file) => {
            let mut bytes = Vec::with_capacity(SEGMENT_LEN);
            file.take(SEGMENT_LEN as u64).read_to_end(&mut bytes)?;
            Ok(bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Renames a file out of the way; the oldest ones make room.
fn set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    if !path.exists() {
        return Ok(None);
    }
    let name = |number: u32| path.with_extension(format!("damaged-{number}"));
    let free = (0..MAX_ASIDE).map(name).find(|candidate| !candidate.exists());
    let target = free.unwrap_or_else(|| {
        warn!(file = %path.display(), "many damaged files were set aside already, the last one is replaced");
        name(MAX_ASIDE - 1)
    });
    fs::rename(path, &target)?;
    Ok(Some(target))
}

/// Both writes in one; of two marks for one slot the higher one counts.
fn merge(into: &mut MarkWrite, write: MarkWrite) {
    into.sequence = into.sequence.max(write.sequence);
    into.horizon = into.horizon.max(write.horizon);
    into.floor = into.floor.max(write.floor);
    into.closed = into.closed.max(write.closed);
    (into.epoch, into.held, into.seated) = (write.epoch, write.held, write.seated);
    into.marks.extend(write.marks);
    into.marks.sort_unstable_by(|a, b| {
        (a.limit, a.key, a.slot).cmp(&(b.limit, b.key, b.slot)).then_with(|| b.spent.cmp(&a.spent))
    });
    into.marks.dedup_by_key(|mark| (mark.limit, mark.key, mark.slot));
}

#[cfg(test)]
mod tests {
    use portolan_limits::RecoveredMarks;
    use portolan_model::WallTime;
    use tempfile::TempDir;

    use super::*;

    fn write(sequence: u64, horizon: u64) -> MarkWrite {
        MarkWrite {
            sequence: MarkSequence(sequence),
            horizon: WallTime::from_unix_millis(horizon),
            floor: WallTime::default(),
            closed: WallTime::default(),
            epoch: 1,
            held: portolan_limits::ShardSet::ALL,
            seated: portolan_limits::ShardSet::ALL,
            marks: Vec::new(),
        }
    }

    /// Opens, writes each horizon and waits until it is on disk.
    fn session(directory: &Path, horizons: &[u64]) -> Found {
        let files = MarksFiles::open(directory).expect("opens");
        let found = files.found.clone();
        let (writer, durable) = files.start().expect("starts");
        for (sequence, horizon) in (1..).zip(horizons) {
            writer.write(write(sequence, *horizon));
        }
        let last = MarkSequence(horizons.len() as u64);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let mut durable = durable;
        let wait = async { durable.wait_for(|sequence| *sequence >= last).await.map(|_| ()) };
        let waited = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), wait).await });
        waited.expect("in time").expect("the thread runs");
        found
    }

    fn horizon(found: &Found) -> Option<u64> {
        match found {
            Found::Marks(RecoveredMarks { horizon, .. }) => Some(horizon.as_unix_millis()),
            _ => None,
        }
    }

    #[test]
    fn the_next_process_reads_what_this_one_wrote() {
        let directory = TempDir::new().expect("a directory");
        assert_eq!(session(directory.path(), &[1000, 2000, 3000]), Found::Nothing);
        assert_eq!(horizon(&session(directory.path(), &[4000])), Some(3000));
        assert_eq!(horizon(&session(directory.path(), &[])), Some(4000));
    }

    #[test]
    fn files_keep_their_size_however_much_is_written() {
        let directory = TempDir::new().expect("a directory");
        let many: Vec<u64> = (1..500).collect();
        session(directory.path(), &many);
        session(directory.path(), &many);
        for name in NAMES {
            let len = fs::metadata(directory.path().join(name)).expect("the segment").len();
            assert_eq!(len, SEGMENT_LEN as u64);
        }
        assert_eq!(horizon(&session(directory.path(), &[])), Some(499));
    }

    #[test]
    fn damaged_files_are_set_aside_and_begun_anew() {
        let directory = TempDir::new().expect("a directory");
        for horizon in [1000, 2000, 3000] {
            session(directory.path(), &[horizon]);
        }
        session(directory.path(), &[4000, 5000]);
        for name in NAMES {
            let path = directory.path().join(name);
            let mut bytes = fs::read(&path).expect("the segment");
            // Everything but what was written last: the end of the newest segment may be an unfinished write.
            for byte in bytes.iter_mut().take(portolan_limits::PAGE_LEN) {
                *byte ^= 0x55;
            }
            fs::write(&path, bytes).expect("the segment");
        }
        let found = session(directory.path(), &[6000]);
        assert!(horizon(&found).is_none_or(|horizon| horizon == 5000), "{found:?}");
        if matches!(found, Found::Damaged { .. }) {
            assert!(directory.path().join("marks-0.damaged-0").exists());
        }
        assert_eq!(horizon(&session(directory.path(), &[])), Some(6000));
    }

    #[test]
    fn writes_beyond_the_queue_are_merged_without_losing_a_mark() {
        let mut last = write(1, 50);
        merge(&mut last, write(2, 40));
        assert_eq!((last.sequence, last.horizon.as_unix_millis()), (MarkSequence(2), 50));
    }
}
