//! `cost` and `refund_on` of a limit: how many units a request takes, and which outcomes give them back.

use crate::{
    Algorithm, Cost, RefundOn,
    decode::{self, Fields, Shape, text, whole},
    fault::Report,
    tree::{Node, Value},
};

/// The keys of a cost that a request names.
pub(crate) const COST: Shape = Shape { what: "a cost from a header", keys: &["header", "default", "most"] };

/// The outcome that is no status.
pub(crate) const REFUND_WORD: &str = "upstream_failure";

/// A cost that can be paid: `algorithm` is the limit's, when it could be read.
pub(super) fn cost(node: &Node, algorithm: Option<&Algorithm>, report: &mut Report<'_>) -> Option<Cost> {
    let cost = if matches!(node.value, Value::Mapping(_)) {
        from_header(node, report)?
    } else {
        Cost::Fixed(units(node, report)?)
    };
    let payable = match algorithm? {
        Algorithm::TokenBucket { burst, .. } => (*burst, "`burst`"),
        other => (other.quota(), "the whole limit"),
    };
    if u64::from(cost.most()) > payable.0 {
        let message =
            format!("a request may cost {}, and {} is {}: it could never pass", cost.most(), payable.1, payable.0);
        report.fault(node.named_at, message, format!("write at most {}", payable.0));
        return None;
    }
    Some(cost)
}

fn from_header(node: &Node, report: &mut Report<'_>) -> Option<Cost> {
    let fields = Fields::open(node, &COST, report)?;
    let header = fields.require("header", "x-units", report).and_then(|node| super::key::header_name(node, report));
    let default = fields.optional("default", 1, report, units);
    let most = fields.require("most", "100", report).and_then(|node| units(node, report));
    if let (Some(most), Some(node)) = (most, fields.get("default"))
        && default > most
    {
        report.fault(node.at, format!("{} is more than `most`", node.quoted()), format!("write at most {most}"));
        return None;
    }
    Some(Cost::Header { name: header?, default, most: most? })
}

fn units(node: &Node, report: &mut Report<'_>) -> Option<u32> {
    whole(node, 1..=MAX_COST, report).and_then(|units| units.try_into().ok())
}

/// `[5xx, 404, upstream_failure]`.
pub(super) fn refund_on(node: &Node, report: &mut Report<'_>) -> Option<Vec<RefundOn>> {
    let mut outcomes: Vec<RefundOn> = Vec::new();
    for item in decode::items(node, MAX_REFUNDS, report)? {
        let Some(outcome) = outcome(item, report) else { continue };
        if let Some(known) = outcomes.iter().find(|known| covers(known, &outcome) || covers(&outcome, known)) {
            let message = format!("{} and `{known}` name one outcome twice", item.quoted());
            report.fault(item.at, message, "keep the wider one".to_owned());
        }
        outcomes.push(outcome);
    }
    Some(outcomes)
}

fn covers(wide: &RefundOn, narrow: &RefundOn) -> bool {
    match (wide, narrow) {
        (RefundOn::Status(wide), RefundOn::Status(narrow)) => {
            wide.contains(narrow.start()) && wide.contains(narrow.end())
        }
        (a, b) => a == b,
    }
}

fn outcome(node: &Node, report: &mut Report<'_>) -> Option<RefundOn> {
    let word = text(node, report)?;
    if &**word == REFUND_WORD {
        return Some(RefundOn::UpstreamFailure);
    }
    let class =
        word.strip_suffix("xx").and_then(|class| class.parse::<u16>().ok()).filter(|class| (1..6).contains(class));
    if let Some(class) = class {
        return Some(RefundOn::Status(class * 100..=class * 100 + 99));
    }
    match word.parse::<u16>() {
        Ok(status) if (100..600).contains(&status) => Some(RefundOn::Status(status..=status)),
        _ => {
            let remedy = format!("write a status such as 404, a class such as 5xx, or {REFUND_WORD}");
            report.fault(node.at, format!("{} is no outcome of a request", node.quoted()), remedy);
            None
        }
    }
}

/// Units of one request: a charge and its refund fit a word of the ledger.
const MAX_COST: u64 = 1_000_000;

/// Outcomes of one limit.
const MAX_REFUNDS: usize = 32;
