//! Metrics of limits: what each limit used, lent and owes, how the other regions are heard, and what lenders do. The
//! decisions on requests are counted by the data path. Decides names and help texts, nothing else.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use portolan_limits::{LimitUsage, Mode, PeerState};
use portolan_model::Name;
use portolan_node::NodeStatus;

use super::{Labels, Readings, flag};
use crate::lender::LenderCounters;

/// Reads everything that concerns limits.
pub(super) fn read(readings: &mut Readings, node: &NodeStatus, lenders: &BTreeMap<Name, Arc<LenderCounters>>) {
    readings.gauge("portolan_limits_active", "Whether limits may admit", flag(node.limits_active));
    read_states(readings, node);
    read_use(readings, node);
    read_exchange(readings, node);
    read_lenders(readings, lenders);
}

fn read_states(readings: &mut Readings, node: &NodeStatus) {
    let each = |value: fn(&LimitUsage) -> f64| node.limits.iter().map(move |limit| (of(limit), value(limit)));
    let name = "portolan_limit_policy_active";
    let help = "Whether the policy for partitions is in force: a region or the lender of the limit is not heard";
    readings.gauges(name, help, each(|limit| flag(limit.mode == Mode::Degraded)));
    readings.gauges(
        "portolan_limit_keys",
        "Keys used in the slot, of those that this node owns",
        each(|limit| limit.keys as f64),
    );
    let own = node.region.clone();
    let busiest = |limit: &LimitUsage| {
        let key = limit.busiest.first()?;
        let part = key.regions.iter().find(|part| part.region == own)?;
        Some((of(limit), part.rights, part.consumed))
    };
    let all: Vec<_> = node.limits.iter().filter_map(busiest).collect();
    let help = "Units of the slot that this region may use of its busiest key, loans included";
    let rights = all.iter().map(|(labels, rights, _)| (labels.clone(), *rights as f64));
    readings.gauges("portolan_limit_rights", help, rights);
    let help = "Units of these that are left";
    let left = all.iter().map(|(labels, rights, used)| (labels.clone(), rights.saturating_sub(*used) as f64));
    readings.gauges("portolan_limit_available", help, left);
}

fn read_use(readings: &mut Readings, node: &NodeStatus) {
    let used = node.limits.iter().flat_map(|limit| {
        let part = move |(region, used): &(portolan_model::RegionId, u64)| {
            (with(of(limit), "region", region.to_string()), *used as f64)
        };
        limit.spent.iter().map(part)
    });
    let help = "Units used in the slot over the keys that this node owns, by region, as far as known here";
    readings.gauges("portolan_limit_used", help, used);
    let counters: [(&str, &str, Count); 6] = [
        ("portolan_limit_lent", "Units lent to other regions", |limit| limit.tally.lent),
        ("portolan_limit_borrowed", "Units borrowed from other regions", |limit| limit.tally.borrowed),
        ("portolan_limit_overdraft", "Units that rights were raised by beyond share and loans", |limit| {
            limit.tally.overdraft
        }),
        (
            "portolan_limit_overshoot",
            "Units that all regions together used above the quota, over all slots, as found when slots ended",
            |limit| limit.tally.overshoot,
        ),
        ("portolan_limit_refused_under_pressure", "Units refused of keys close to their limit", |limit| {
            limit.tally.refused
        }),
        (
            "portolan_limit_false_reject_estimate",
            "Units refused while all regions together had room for them, as far as known here",
            |limit| limit.tally.refused_below,
        ),
    ];
    for (name, help, value) in counters {
        readings.counters(name, help, node.limits.iter().map(|limit| (of(limit), value(limit))));
    }
    let last = node.limits.iter().map(|limit| (of(limit), limit.tally.last_overshoot as f64));
    let help = "Units above the quota in the last slot and key that had any";
    readings.gauges("portolan_limit_last_overshoot", help, last);
}

/// Reads a count off a limit.
type Count = fn(&LimitUsage) -> u64;

fn read_exchange(readings: &mut Readings, node: &NodeStatus) {
    let ages = node.limit_views.iter().map(|view| (peer(&view.region), view.age.as_secs_f64()));
    readings.gauges("portolan_limits_view_age_seconds", "Age of what is known of a region's counters", ages);
    let states = node.limit_peers.iter().flat_map(|status| {
        let each = [
            ("fresh", PeerState::Fresh),
            ("healing", PeerState::Healing),
            ("stale", PeerState::Stale),
            ("unheard", PeerState::Unheard),
        ];
        each.map(|(word, state)| (with(peer(&status.region), "state", word.to_owned()), flag(status.state == state)))
    });
    readings.gauges("portolan_limits_peer_state", "Whether a region is in this state for limits", states);
    let unacknowledged = node.limit_views.iter().map(|view| (peer(&view.region), view.unacknowledged as f64));
    let help = "Messages with loans to a region that it has not acknowledged";
    readings.gauges("portolan_limits_loans_unacknowledged", help, unacknowledged);
    let offsets = node
        .peers
        .iter()
        .filter_map(|(name, status)| Some((vec![("peer", name.to_string())], status.clock_offset_ms? as f64 / 1000.0)));
    let help = "A node's clock less ours when its last heartbeat came, so less the way it took";
    readings.gauges("portolan_clock_offset_seconds", help, offsets);
    let counts = node.limit_counts;
    for (name, help, value) in [
        ("portolan_limits_delta_bytes", "Bytes of counter rows sent to other regions", counts.row_bytes),
        (
            "portolan_limits_rows_deferred",
            "Rounds in which rows waited for a region's byte budget",
            counts.rows_deferred,
        ),
        (
            "portolan_limits_digest_mismatch",
            "Digests of other regions that differed from ours",
            counts.digest_mismatches,
        ),
        ("portolan_limits_gc_dropped_late", "Rows of slots that were over", counts.dropped_late),
        ("portolan_limits_key_overflow", "Charges to a counter that keys share for lack of room", counts.overflowed),
        ("portolan_limits_clocks_ahead", "Times a region's clock was found too far ahead", counts.clocks_ahead),
        (
            "portolan_limits_clock_leaps",
            "Times this node's clock was found more than 10 s ahead of most others and was not followed",
            counts.clock_leaps,
        ),
        (
            "portolan_limits_marks_full",
            "Marks of long windows there was no room for: such a limit is held to a tenth of its share",
            counts.marks_full,
        ),
        ("portolan_limits_mark_writes", "Durable writes asked for", counts.mark_writes),
        ("portolan_limits_messages_rejected", "Messages of other regions that were refused", counts.rejected),
    ] {
        readings.counter(name, help, value);
    }
    let help = "Most rows that ever waited to be told";
    readings.gauge("portolan_limits_unsent_max", help, counts.unsent_most as f64);
    readings.gauge("portolan_limits_keys_watched", "Keys close to their limit", counts.watched as f64);
}

fn read_lenders(readings: &mut Readings, lenders: &BTreeMap<Name, Arc<LenderCounters>>) {
    let reachable = lenders.iter().map(|(name, counters)| (lender(name), flag(counters.is_reachable())));
    readings.gauges("portolan_lender_reachable", "Whether a lender can be counted on", reachable);
    let refills = lenders.iter().flat_map(|(name, counters)| {
        let counts = [("answered", &counters.answered), ("failed", &counters.failed), ("refused", &counters.refused)];
        counts.map(|(result, count)| (with(lender(name), "result", result.to_owned()), count.load(Relaxed)))
    });
    let help = "Chunks asked of a lender, by how that ended; refused are those that were not sent";
    readings.counters("portolan_lender_refills", help, refills);
    let lent = lenders.iter().map(|(name, counters)| (lender(name), counters.lent.load(Relaxed)));
    readings.counters("portolan_lender_lent", "Units that a lender lent to this node", lent);
}

/// Plans and overrides are told apart by their number: their names may be consumers.
fn of(limit: &LimitUsage) -> Labels {
    vec![("limit", limit.name.to_string()), ("id", limit.limit.0.to_string())]
}

fn peer(region: &portolan_model::RegionId) -> Labels {
    vec![("peer", region.to_string())]
}

fn lender(name: &Name) -> Labels {
    vec![("lender", name.to_string())]
}

fn with(mut labels: Labels, name: &'static str, value: String) -> Labels {
    labels.push((name, value));
    labels
}
