//! One region of a run: the real state machine and limiter, a clock of its own, and a disk that a crash leaves as it was.
//! The only file here that knows the crate's interface.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use portolan_limits::{
    Admission, Algorithm, Claim, Definition, Found, KeyUsage, LimitId, Limiter, Limits, LimitsConfig, Mark, MarkLog,
    MarkSequence, Message, PageWrite, Recovery, SEGMENT_LEN, SharePlan, Waited, Window,
};
use portolan_model::{ByteSize, HashKey, Name, NodeName, Now, Ratio, RegionId, Timestamp, WallTime};

use crate::{network::RTT, table::Row};

/// Civil time near the start: not a round number of anything.
const EPOCH_MS: u64 = 1_795_312_345_678;

/// Parts of a slot by which the starts of one seed and the next lie apart: the golden ratio spreads them evenly.
const APART: f64 = 0.618_034;

/// From asking for a write until it is on disk.
const DISK_US: u64 = 2000;

const LIMIT: LimitId = LimitId(1);
const HASH_KEY: HashKey = HashKey::new(*b"0123456789abcdef");
const CAPACITY: usize = 64;

/// More than the rows need.
const BUDGET: ByteSize = ByteSize(1 << 20);

/// The answer to one request, with the slot that the gateway named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Allow { slot: u64 },
    Deny { slot: u64 },
    Wait { slot: u64, at_most: Duration },
}

pub struct Region {
    id: RegionId,
    limits: Option<Limits>,
    limiter: Option<Arc<Limiter>>,
    /// Clock minus the run's.
    pub clock_ms: i64,
    epoch: WallTime,
    log: MarkLog,
    disk: [Vec<u8>; 2],
    writes: VecDeque<Write>,
    /// Highest mark on disk per slot.
    durable: BTreeMap<u64, u64>,
}

/// A write on its way to the disk.
struct Write {
    ready: u64,
    sequence: MarkSequence,
    marks: Vec<Mark>,
    pages: Vec<PageWrite>,
}

/// The one node of a region.
fn node(region: &RegionId) -> NodeName {
    NodeName::new(&format!("{region}-1")).expect("a name")
}

pub fn region_id(at: usize) -> RegionId {
    RegionId::new(&format!("region-{at:02}")).expect("a name")
}

fn definition(row: &Row) -> Definition {
    let algorithm = Algorithm::FixedWindow { quota: row.quota, window: Window::Length(row.window) };
    Definition {
        on_partition: row.policy,
        shares: SharePlan { weights: row.weights(), change: None },
        overdraft: Ratio::from_parts(row.overdraft * 100),
        borrow_wait: row.borrow_wait,
        expose_slot: true,
        ..Definition::new(LIMIT, Name::new("row").expect("a name"), algorithm)
    }
}

/// Civil time at the start of a run: each seed starts in another part of the slot.
pub fn epoch(row: &Row, seed: u64) -> WallTime {
    let part = (seed as f64 * APART).fract();
    WallTime::from_unix_millis(EPOCH_MS + (part * row.window.as_millis() as f64) as u64)
}

impl Region {
    pub fn new(at: usize, epoch: WallTime) -> Self {
        let (log, _) = MarkLog::recover([&[], &[]]);
        let disk = [vec![0; SEGMENT_LEN], vec![0; SEGMENT_LEN]];
        Self {
            id: region_id(at),
            limits: None,
            limiter: None,
            clock_ms: 0,
            epoch,
            log,
            disk,
            writes: VecDeque::new(),
            durable: BTreeMap::new(),
        }
    }

    pub fn now(&self, us: u64) -> Now {
        let passed = Duration::from_micros(us);
        let wall = (self.epoch + passed).as_unix_millis().saturating_add_signed(self.clock_ms);
        Now { mono: Timestamp::ZERO + passed, wall: WallTime::from_unix_millis(wall) }
    }

    pub fn runs(&self) -> bool {
        self.limits.is_some()
    }

    pub fn boot(&mut self, row: &Row, recovery: Recovery, us: u64) {
        let config = LimitsConfig {
            node: node(&self.id),
            region: self.id.clone(),
            neighbours: Vec::new(),
            rosters: BTreeMap::new(),
            life: us,
            regions: (0..row.demand.regions()).map(region_id).collect(),
            hash_key: HASH_KEY,
            capacity: CAPACITY,
            worst_rtt: RTT,
            budget: BUDGET,
        };
        let now = self.now(us);
        let mut limits = Limits::new(config, recovery, now);
        limits.handle_definitions(&[definition(row)], now);
        self.limiter = Some(limits.limiter());
        self.limits = Some(limits);
    }

    /// Ends the process. Of the writes under way the first may have reached the disk.
    pub fn crash(&mut self, first_write_lands: bool) {
        self.limits = None;
        if let Some(write) = self.writes.pop_front().filter(|_| first_write_lands) {
            self.write(&write);
        }
        self.writes.clear();
    }

    pub fn lose_disk(&mut self) {
        self.disk = [vec![0; SEGMENT_LEN], vec![0; SEGMENT_LEN]];
        self.durable.clear();
    }

    /// Starts the process again from what the disk kept.
    pub fn restart(&mut self, row: &Row, us: u64) {
        let (log, found) = MarkLog::recover([&self.disk[0], &self.disk[1]]);
        self.log = log;
        let recovery = match found {
            Found::Marks(marks) => Recovery::Marks(marks),
            Found::Nothing | Found::Damaged { .. } => Recovery::Lost,
        };
        self.boot(row, recovery, us);
    }

    /// Asks for one unit; none when the process does not run.
    pub fn ask(&self, us: u64) -> Option<Answer> {
        self.ask_by(Limiter::admit, us)
    }

    /// Asks once more for a request that waits, and was asked for in `slot` last.
    pub fn ask_again(&self, slot: u64, us: u64) -> Option<Answer> {
        let waited = Waited { limit: LIMIT, slot };
        self.ask_by(|limiter, claims, now| limiter.admit_again(claims, waited, now), us)
    }

    fn ask_by(&self, admit: impl Fn(&Limiter, &[Claim], Now) -> Admission, us: u64) -> Option<Answer> {
        self.limits.as_ref()?;
        let limiter = self.limiter.as_ref()?;
        let now = self.now(us);
        let claim = Claim { limit: LIMIT, key: limiter.key(LIMIT, &[b"row"]), cost: 1 };
        Some(match admit(limiter, &[claim], now) {
            Admission::Allow(charges) => Answer::Allow { slot: charges[0].slot },
            Admission::Deny(denial) => Answer::Deny { slot: denial.slot },
            Admission::Wait(wait) => Answer::Wait { slot: wait.otherwise.slot, at_most: wait.at_most },
        })
    }

    /// Whether the state machine wants to be woken at once.
    pub fn take_attention(&self) -> bool {
        self.runs() && self.limiter.as_ref().is_some_and(|limiter| limiter.take_attention())
    }

    /// When the state machine wants to be woken, in microseconds of the run.
    pub fn timeout(&self) -> Option<u64> {
        let timeout = self.limits.as_ref()?.poll_timeout()?;
        Some(timeout.as_nanos().div_ceil(1000))
    }

    pub fn wake(&mut self, us: u64) {
        let now = self.now(us);
        if let Some(limits) = &mut self.limits {
            limits.handle_timeout(now);
        }
    }

    pub fn take(&mut self, from: usize, message: Message, us: u64) {
        let now = self.now(us);
        if let Some(limits) = &mut self.limits {
            // Rows of a slot that is over for the receiver are refused; everything else is known to both.
            let _ = limits.handle_message(&region_id(from), &node(&region_id(from)), message, now);
        }
    }

    /// What the state machine sends, by the position of the receiver. Starts the writes that it asks for.
    pub fn drain(&mut self, us: u64) -> Vec<(usize, Message)> {
        let Some(limits) = &mut self.limits else { return Vec::new() };
        let mut sent = Vec::new();
        while let Some((to, message)) = limits.poll_transmit() {
            let at = to.region.as_str().rsplit('-').next().and_then(|at| at.parse().ok());
            sent.push((at.expect("regions are numbered"), message));
        }
        while let Some(write) = limits.poll_marks() {
            let pages = self.log.append(&write);
            let (ready, sequence, marks) = (us + DISK_US, write.sequence, write.marks);
            self.writes.push_back(Write { ready, sequence, marks, pages });
        }
        while limits.poll_event().is_some() {}
        sent
    }

    /// When the oldest write is on disk.
    pub fn durable_at(&self) -> Option<u64> {
        self.writes.front().map(|write| write.ready)
    }

    /// Reports the writes that are on disk.
    pub fn sync(&mut self, us: u64) {
        let mut durable = None;
        while let Some(write) = self.writes.pop_front_if(|write| write.ready <= us) {
            self.write(&write);
            durable = Some(write.sequence);
        }
        let now = self.now(us);
        if let (Some(sequence), Some(limits)) = (durable, &mut self.limits) {
            limits.handle_durable(sequence, now);
        }
    }

    /// What the region knows of its one key.
    pub fn usage(&self, us: u64) -> Option<KeyUsage> {
        let key = self.limiter.as_ref()?.key(LIMIT, &[b"row"]);
        self.limits.as_ref()?.explain(LIMIT, key, self.now(us))
    }

    /// The highest mark of a slot that is on disk.
    pub fn durable(&self, slot: u64) -> u64 {
        self.durable.get(&slot).copied().unwrap_or(0)
    }

    fn write(&mut self, write: &Write) {
        for page in &write.pages {
            self.disk[page.segment][page.offset as usize..][..page.bytes.len()].copy_from_slice(&page.bytes);
        }
        for mark in &write.marks {
            let durable = self.durable.entry(mark.slot).or_default();
            *durable = mark.spent.max(*durable);
        }
    }
}
