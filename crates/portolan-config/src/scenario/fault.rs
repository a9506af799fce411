//! What can break in a scenario.

use std::{fmt, str::FromStr, time::Duration};

use portolan_model::{ByteSize, NodeName, Ratio, RegionId, parse_duration, render_duration};

/// A fault. Those of links concern the mesh between nodes; clients reach their gateway all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScenarioFault {
    /// Links lose everything.
    Partition(Cut),
    /// Links get worse.
    Link {
        /// Which links.
        links: Cut,
        /// What they do.
        effect: LinkEffect,
    },
    /// Processes stop at once, and start again when the step ends.
    Crash {
        /// Whose.
        target: Target,
        /// What they find on their disks.
        disk: Disk,
    },
    /// Processes are stopped and go on when the step ends, as after `SIGSTOP`: time went by without them.
    Pause {
        /// Whose.
        target: Target,
    },
    /// Everything that a node is told reaches it late.
    Slow {
        /// Whose.
        target: Target,
        /// How late.
        by: Duration,
    },
    /// A civil clock is set. It is set back when the step ends.
    ClockStep {
        /// Whose.
        target: Target,
        /// By how much.
        by: Shift,
    },
    /// A civil clock runs fast or slow. What it is off by then stays.
    ClockDrift {
        /// Whose.
        target: Target,
        /// How fast.
        drift: Drift,
    },
    /// A disk gets worse.
    Disk {
        /// Whose.
        target: Target,
        /// How.
        state: DiskState,
    },
    /// More than half of the voters crash at once: every second member of the region list and the leader.
    QuorumLoss,
    /// Clients send more, or less.
    Surge {
        /// Clients of these regions; empty for all.
        regions: Vec<RegionId>,
        /// Times the usual load.
        factor: Ratio,
    },
    /// An operator pushes a document with faults, which must be refused.
    BadConfig,
    /// The lender of limits gets worse.
    Lender {
        /// How.
        state: LenderState,
        /// As seen from these regions; empty for all.
        regions: Vec<RegionId>,
    },
}

/// Links between regions, or between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All links.
    All,
    /// Between these regions and all others.
    Side {
        /// The side.
        regions: Vec<RegionId>,
        /// Of the side: which packets.
        direction: Direction,
    },
    /// Between the two regions of each pair. With three regions and one pair the third is a bridge.
    Pairs {
        /// The pairs.
        pairs: Vec<(RegionId, RegionId)>,
        /// Of the first of a pair: which packets.
        direction: Direction,
    },
    /// Between these nodes and others, in the same region as well. For partitions only.
    Nodes {
        /// The side.
        nodes: Vec<NodeName>,
        /// The others are all nodes of these regions that are not of the side; empty for all regions.
        regions: Vec<RegionId>,
        /// Of the side: which packets.
        direction: Direction,
    },
}

impl Cut {
    /// Whether a packet between any nodes of these two regions is concerned.
    pub fn concerns(&self, from: &RegionId, to: &RegionId) -> bool {
        match self {
            Self::All => true,
            Self::Side { regions, direction } => match (regions.contains(from), regions.contains(to)) {
                (true, false) => *direction != Direction::In,
                (false, true) => *direction != Direction::Out,
                _ => false,
            },
            Self::Pairs { pairs, direction } => pairs.iter().any(|(a, b)| {
                (a == from && b == to && *direction != Direction::In)
                    || (b == from && a == to && *direction != Direction::Out)
            }),
            Self::Nodes { .. } => false,
        }
    }

    /// Whether a packet between these two nodes, each with its region, is concerned.
    pub fn concerns_nodes(&self, from: (&NodeName, &RegionId), to: (&NodeName, &RegionId)) -> bool {
        let Self::Nodes { nodes, regions, direction } = self else { return self.concerns(from.1, to.1) };
        let is_other = |region| regions.is_empty() || regions.contains(region);
        match (nodes.contains(from.0), nodes.contains(to.0)) {
            (true, false) => *direction != Direction::In && is_other(to.1),
            (false, true) => *direction != Direction::Out && is_other(from.1),
            _ => false,
        }
    }
}

/// Packets that a cut takes, as the cut-off side sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    #[default]
    Both,
    /// What is sent to it.
    In,
    /// What it sends.
    Out,
}

/// What worse links do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEffect {
    /// Every packet is later by this, one way.
    Latency(Duration),
    /// This share of packets is lost; on a stream they are sent again.
    Loss(Ratio),
    /// This share of datagrams arrives twice.
    Duplicate(Ratio),
    /// This share of datagrams is overtaken by others.
    Reorder(Ratio),
    /// No more than this passes in a second, in each direction; the rest queues and, beyond a second, is lost.
    Bandwidth(ByteSize),
}

/// Which nodes a fault concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All of this region.
    Region(RegionId),
    /// This one.
    Node(NodeName),
    /// The Raft leader of that moment.
    Leader,
    /// All.
    Fleet,
}

/// What a crashed node finds when it starts again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disk {
    /// Everything that was made durable.
    #[default]
    Kept,
    /// Everything that was made durable, and a part of what was being written.
    Torn,
    /// Nothing.
    Lost,
}

/// How a disk gets worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskState {
    /// Writes fail until the step ends.
    Full,
    /// Writes take this much longer.
    Slow(Duration),
}

/// How a lender gets worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LenderState {
    /// It cannot be reached.
    Down,
    /// Its answers come this much later.
    Slow(Duration),
    /// It cannot be reached, and has forgotten what it lent when it can be again.
    Lost,
}

/// A span of time with a sign: `+5s`, `-200ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    /// Nanoseconds.
    nanos: i64,
}

impl Shift {
    /// Milliseconds with a sign.
    pub const fn from_millis(millis: i32) -> Self {
        Self { nanos: millis as i64 * 1_000_000 }
    }

    /// Nanoseconds with a sign.
    pub const fn as_nanos(self) -> i64 {
        self.nanos
    }
}

/// Longest shift of a clock.
const MAX_SHIFT: Duration = Duration::from_secs(366 * 86_400);

impl FromStr for Shift {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (sign, rest) = signed(text);
        let span = parse_duration(rest.trim()).ok().filter(|span| *span <= MAX_SHIFT).ok_or(())?;
        Ok(Self { nanos: sign * i64::try_from(span.as_nanos()).map_err(|_| ())? })
    }
}

impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.nanos < 0 { '-' } else { '+' };
        write!(f, "{sign}{}", render_duration(Duration::from_nanos(self.nanos.unsigned_abs())))
    }
}

/// How fast a clock gains on true time: `200ppm`, `-1%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Parts per million.
    pub ppm: i32,
}

/// Fastest drift: a tenth.
const MAX_DRIFT: i32 = 100_000;

impl FromStr for Drift {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (sign, rest) = signed(text);
        let ppm = match rest.trim().strip_suffix("ppm") {
            Some(number) => number.trim().parse::<i32>().map_err(|_| ())?,
            None => i32::try_from(rest.parse::<Ratio>().map_err(|_| ())?.parts()).map_err(|_| ())?.saturating_mul(100),
        };
        if !(0..=MAX_DRIFT).contains(&ppm) {
            return Err(());
        }
        Ok(Self { ppm: if sign < 0 { -ppm } else { ppm } })
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ppm", self.ppm)
    }
}

fn signed(text: &str) -> (i64, &str) {
    let text = text.trim();
    match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    }
}
