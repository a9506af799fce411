//! What happens in the limits, as lines of the log: each event once, with the figures an operator asks for first. Decides
//! the level and the words, nothing else.

use portolan_config::LimitId;
use portolan_limits::{Event, PartitionTally};
use portolan_model::{Name, RegionId};
use portolan_node::View;
use tracing::{error, info, warn};

/// Logs one event; `view` knows the names of limits.
pub fn log(event: &Event, view: &View) {
    match event {
        Event::Active => info!("limits admit"),
        Event::Roster { epoch, owned } => info!(epoch, owned, "the nodes that share this region's limits have changed"),
        Event::PeerStale { region } => warn!(%region, "limits do not hear a region, or are not heard by it"),
        Event::PeerHealing { region, silent } => info!(%region, ?silent, "limits hear a region again"),
        Event::PeerFresh { region, silent } => info!(%region, ?silent, "limits count on a region again"),
        Event::Mode { mode } => info!(?mode, "limits changed state"),
        Event::PartitionStart { peers } => {
            warn!(event = "partition_start", peers = list(peers), "regions cannot hear each other");
        }
        Event::PartitionHeal { peers, lasted, limits } => {
            info!(event = "partition_heal", peers = list(peers), duration = ?lasted, "regions hear each other again");
            limits.iter().for_each(|tally| log_tally(tally, view));
        }
        Event::EpochChange { limits } => {
            let names: Vec<String> = limits.iter().map(|limit| name(*limit, view)).collect();
            info!(event = "epoch_change", limits = names.join(", "), "limits have another count or split");
        }
        Event::Lender { limit, reachable: true } => info!(limit = name(*limit, view), "the limit has its lender back"),
        Event::Lender { limit, reachable: false } => {
            warn!(limit = name(*limit, view), "the limit has lost its lender; its policy for partitions is in force");
        }
        Event::ClockAhead { region, by } => {
            warn!(event = "clock_skew", %region, ?by, "a region's clock is too far ahead; its time is not adopted");
        }
        Event::ClockLeapt { by } => {
            error!(event = "clock_leap", ?by, "our clock is far ahead of most others; limits keep the time they had");
        }
    }
}

/// What a limit did during a partition; silent limits are left out.
fn log_tally(tally: &PartitionTally, view: &View) {
    let PartitionTally { limit, policy, admitted, overshoot, rejected } = tally;
    if *admitted == 0 && *rejected == 0 && *overshoot == 0 {
        return;
    }
    info!(
        event = "partition_heal",
        scope = name(*limit, view),
        policy,
        admitted,
        overshoot,
        rejected,
        "what a limit did meanwhile"
    );
}

fn list(regions: &[RegionId]) -> String {
    let names: Vec<&str> = regions.iter().map(RegionId::as_str).collect();
    names.join(", ")
}

/// The limit's name; its number where the document in force does not have it any more.
fn name(limit: LimitId, view: &View) -> String {
    let named = view.budget(limit).map(|(binding, _)| Name::to_string(&binding.limit.name));
    named.unwrap_or_else(|| limit.0.to_string())
}
