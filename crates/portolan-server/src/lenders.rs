//! The lenders that the document in force names, each with its task. Decides when one starts and ends: with the document.
//! Never talks to a server itself.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use portolan_config::Snapshot;
use portolan_limits::LoanRequest;
use portolan_model::{MemberId, Name, RegionId};
use tokio::sync::mpsc;
use tracing::warn;

use crate::{
    clock::Clock,
    lender::{Asker, Lender, LenderCounters, LenderNews},
};

/// News that wait for the node's loop; a lender with more waits for the loop.
const NEWS: usize = 1024;

/// Counts of every lender, for whoever scrapes; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LenderStats(Arc<Mutex<BTreeMap<Name, Arc<LenderCounters>>>>);

impl LenderStats {
    /// The counts of each lender, by its name.
    pub fn all(&self) -> BTreeMap<Name, Arc<LenderCounters>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the node's loop holds.
pub struct Lenders {
    running: BTreeMap<Name, Lender>,
    cluster: Name,
    region: RegionId,
    clock: Clock,
    news: mpsc::Sender<LenderNews>,
    stats: LenderStats,
}

impl Lenders {
    /// None yet; their news arrive at the other end.
    pub fn new(cluster: Name, region: RegionId, clock: Clock) -> (Self, mpsc::Receiver<LenderNews>) {
        let (news, heard) = mpsc::channel(NEWS);
        (Self { running: BTreeMap::new(), cluster, region, clock, news, stats: LenderStats::default() }, heard)
    }

    /// Counts, for whoever scrapes.
    pub fn stats(&self) -> LenderStats {
        self.stats.clone()
    }

    /// Starts and ends lenders so that exactly those of `snapshot` run; one that reads the same goes on. None runs before
    /// the cluster is founded. Must be called on a Tokio runtime.
    pub fn follow(&mut self, snapshot: &Snapshot, founder: Option<MemberId>) {
        let Some(founder) = founder else { return };
        let asker = Asker { cluster: self.cluster.clone(), founder, region: self.region.clone() };
        self.running.retain(|name, lender| snapshot.lenders.get(name) == Some(lender.config()));
        for (name, config) in &snapshot.lenders {
            if self.running.contains_key(name) {
                continue;
            }
            match Lender::start(config, &asker, self.clock, self.news.clone()) {
                Ok(lender) => {
                    self.running.insert(name.clone(), lender);
                }
                Err(error) => warn!(lender = %name, %error, "the lender cannot be used; limits go on without it"),
            }
        }
        let counters = self.running.iter().map(|(name, lender)| (name.clone(), Arc::clone(lender.counters())));
        *self.stats.0.lock().unwrap_or_else(PoisonError::into_inner) = counters.collect();
    }

    /// Whether each lender that runs is to be counted on at this moment; one that has just started is.
    pub fn states(&self) -> impl Iterator<Item = (&Name, bool)> {
        self.running.iter().map(|(name, lender)| (name, lender.counters().is_reachable()))
    }

    /// Asks a lender for a chunk; false when it has too much to do, or does not run. Never waits.
    pub fn ask(&self, lender: &Name, request: LoanRequest) -> bool {
        self.running.get(lender).is_some_and(|lender| lender.ask(request))
    }
}

impl fmt::Debug for Lenders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lenders").field("running", &self.running.keys()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use portolan_config::LimitId;
    use portolan_limits::Key;
    use portolan_model::{HashKey, WallTime};

    use super::*;

    fn naming(address: SocketAddr) -> Snapshot {
        let name = Name::new("main").expect("a name");
        let config = portolan_config::Lender { name: name.clone(), redis: format!("redis://{address}") };
        Snapshot { lenders: [(name, Arc::new(config))].into(), ..Snapshot::default() }
    }

    fn request() -> LoanRequest {
        LoanRequest {
            limit: LimitId(1),
            key: Key::new(&HashKey::new([7; 16]), LimitId(1), &[]),
            slot: 1,
            sequence: 1,
            held: 0,
            units: 1,
            quota: 1,
            slot_begins: WallTime::default(),
            slot_ends: WallTime::from_unix_millis(u64::MAX / 2),
        }
    }

    #[tokio::test]
    async fn a_lender_that_was_given_up_is_counted_on_again_under_another_address() {
        let (cluster, region) = (Name::new("test").expect("a name"), RegionId::new("a").expect("a name"));
        let (mut lenders, mut news) = Lenders::new(cluster, region, Clock::start());
        let founder = Some(MemberId(1));
        // Nobody accepts at either: the first is closed, the second never answers.
        let closed = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("an address");
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let name = Name::new("main").expect("a name");
        lenders.follow(&naming(closed), founder);
        lenders.ask(&name, request());
        while news.recv().await != Some(LenderNews::Judged) {}
        assert_eq!(lenders.states().collect::<Vec<_>>(), [(&name, false)]);
        lenders.follow(&naming(silent.local_addr().expect("an address")), founder);
        assert_eq!(lenders.states().collect::<Vec<_>>(), [(&name, true)]);
    }
}
