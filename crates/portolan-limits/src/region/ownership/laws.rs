//! Plays rosters, takeovers, writes and restarts of a region at random: whoever has a shard knows what was spent of it, and
//! nobody else can go on spending from it. What nodes know of their past is what their disks held.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Turn {
    /// The cluster lists these nodes.
    List(u8),
    /// A node hears of the roster after its own, or of the latest.
    Hear { node: usize, next: bool },
    /// A node asks another one for what it knows, and takes what it may.
    Ask { node: usize, other: usize },
    /// So long that nobody is waited for any more.
    Wait,
    /// What a node would have on disk is there.
    Write(usize),
    /// An owner tells its standbys.
    Tell(usize),
    /// A process ends, and begins again from its disk.
    Restart(usize),
    /// The same without the disk: it follows the latest roster then.
    Lose(usize),
}

fn turn() -> impl Strategy<Value = Turn> {
    let node = || 0..NAMES.len();
    prop_oneof![
        2 => (1u8..16).prop_map(Turn::List),
        6 => (node(), any::<bool>()).prop_map(|(node, next)| Turn::Hear { node, next }),
        12 => (node(), node()).prop_map(|(node, other)| Turn::Ask { node, other }),
        1 => Just(Turn::Wait),
        6 => node().prop_map(Turn::Write),
        6 => node().prop_map(Turn::Tell),
        3 => node().prop_map(Turn::Restart),
        1 => node().prop_map(Turn::Lose),
    ]
}

struct Region {
    rosters: Vec<Roster>,
    nodes: Vec<Ownership>,
    /// What is on disk, with the horizon of it.
    disks: Vec<(Past, u64)>,
    /// By shard, the highest horizon that was ever durable at an owner and at its standby.
    released: BTreeMap<Shard, u64>,
    horizon: u64,
    now: Now,
}

fn name(at: usize) -> NodeName {
    NodeName::new(NAMES[at]).expect("a name")
}

fn start(at: usize, past: Past) -> Ownership {
    // Answers come at once here, so none is of a question of an earlier process.
    Ownership::new(name(at), 1, (0..NAMES.len()).map(name), past)
}

impl Region {
    fn new() -> Self {
        let nodes = (0..NAMES.len()).map(|at| start(at, Past::None)).collect();
        let now = Now { mono: Timestamp::ZERO, wall: WallTime::from_unix_millis(1_000_000) };
        let disks = vec![(Past::None, 0); NAMES.len()];
        Self { rosters: Vec::new(), nodes, disks, released: BTreeMap::new(), horizon: 0, now }
    }

    fn own(&self, node: usize) -> Legacy {
        Legacy { horizon: WallTime::from_unix_millis(self.disks[node].1), ..Legacy::default() }
    }

    fn play(&mut self, turn: &Turn) -> Result<(), TestCaseError> {
        match *turn {
            Turn::List(mask) => {
                let nodes = (0..NAMES.len()).filter(|at| mask & (1 << at) != 0).map(name).collect();
                self.rosters.push(Roster { epoch: self.rosters.len() as u64 + 1, nodes });
            }
            Turn::Hear { node, next } => {
                let known = self.nodes[node].ranking.epoch() as usize;
                let roster = if next { self.rosters.get(known) } else { self.rosters.last() };
                roster.and_then(|roster| self.nodes[node].handle_roster(roster, self.now));
            }
            Turn::Ask { node, other } => {
                self.now.mono = self.now.mono + ASK_AGAIN;
                self.nodes[node].handle_timeout(self.now);
                while let Some((to, question)) = self.nodes[node].poll_transmit() {
                    let answer = self.nodes[other].answer(&question, &self.own(other));
                    if let Some(answer) = answer.filter(|_| to == name(other)) {
                        self.nodes[node].handle_answer(&to, answer);
                    }
                }
                let own = self.own(node);
                while let Some(taken) = self.nodes[node].poll_taken(&own, self.now) {
                    let horizon = taken.barrier.instants()[0].as_unix_millis();
                    let of_taken = |shard: &Shard| taken.shards.contains(*shard) && !self.is_fenced(node, *shard);
                    let spent = self.released.iter().filter(|(shard, _)| of_taken(shard));
                    let most = spent.map(|(_, horizon)| *horizon).max().unwrap_or(0);
                    prop_assert!(horizon >= most, "{horizon} of {most} known after {turn:?}");
                }
            }
            Turn::Wait => self.now.mono = self.now.mono + PATIENCE,
            Turn::Write(node) => {
                let of = &mut self.nodes[node];
                let epoch = of.ranking.epoch();
                self.horizon += 1;
                // As `MarkLog` keeps them: within an epoch sets only grow.
                let (held, seated) = match self.disks[node].0 {
                    Past::Known { epoch: before, held, seated } if before == epoch => {
                        (held.or(&of.held()), seated.or(&of.seated()))
                    }
                    _ => (of.held(), of.seated()),
                };
                self.disks[node] = (Past::Known { epoch, held, seated }, self.horizon);
                of.handle_durable(epoch);
            }
            Turn::Tell(node) => self.tell(node),
            Turn::Restart(node) => self.restart(node, self.nodes[node].ranking.epoch()),
            Turn::Lose(node) => {
                self.disks[node] = (Past::Lost, 0);
                self.restart(node, self.rosters.len() as u64);
            }
        }
        Ok(())
    }

    fn restart(&mut self, node: usize, epoch: u64) {
        self.nodes[node] = start(node, self.disks[node].0);
        if let Some(roster) = self.rosters.get((epoch as usize).wrapping_sub(1)) {
            self.nodes[node].handle_roster(roster, self.now);
        }
    }

    fn tell(&mut self, node: usize) {
        let (Past::Known { epoch, held, .. }, horizon) = self.disks[node] else { return };
        let ranking = self.nodes[node].ranking.clone();
        // Of a write before the restart, or under another epoch, nothing is told.
        let held = held.and(&self.nodes[node].held());
        if epoch != ranking.epoch() || held.is_empty() {
            return;
        }
        let mut durable = ShardSet::default();
        for shard in held.iter().filter(|shard| ranking.standby(*shard).is_none()) {
            durable.insert(shard);
        }
        let (floor, closed) = (WallTime::default(), WallTime::default());
        for other in (0..NAMES.len()).filter(|other| *other != node) {
            let held = held.and(&ranking.pair(&name(node), &name(other)));
            let (horizon, marks) = (WallTime::from_unix_millis(horizon), Vec::new());
            let update = Update { epoch, life: 1, after: 0, through: 1, held, horizon, floor, closed, marks };
            if self.nodes[other].handle_update(&name(node), update).is_some() {
                durable = durable.or(&held);
            }
        }
        for shard in durable.iter().step_by(5) {
            let released = self.released.entry(shard).or_default();
            *released = (*released).max(horizon);
        }
    }

    /// Whether a node that takes a shard under an epoch that is over will never spend from it: its standby knows a later one.
    fn is_fenced(&self, node: usize, shard: Shard) -> bool {
        let ranking = &self.nodes[node].ranking;
        let standby = ranking.standby(shard).and_then(|standby| self.nodes.iter().find(|node| node.me == *standby));
        standby.is_some_and(|standby| standby.ranking.epoch() > ranking.epoch())
    }

    /// Nodes that can go on spending from a shard: they have it, and their standby still answers under their epoch.
    fn can_spend(&self, shard: Shard) -> Vec<NodeName> {
        let answers = |of: &Ownership| match of.ranking.standby(shard) {
            None => true,
            Some(standby) => {
                self.nodes.iter().any(|node| node.me == *standby && node.ranking.epoch() == of.ranking.epoch())
            }
        };
        let can = |of: &&Ownership| of.held.contains(shard) && answers(of);
        self.nodes.iter().filter(can).map(|of| of.me.clone()).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nobody_else_can_spend_from_a_shard_that_a_node_has(turns in prop::collection::vec(turn(), 1..120)) {
        let mut region = Region::new();
        region.play(&Turn::List(7))?;
        for turn in &turns {
            region.play(turn)?;
            for shard in Shard::all().step_by(17) {
                let can_spend = region.can_spend(shard);
                prop_assert!(can_spend.len() <= 1, "{can_spend:?} after {turn:?}");
            }
        }
    }
}
