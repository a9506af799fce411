//! Reads the steps of a scenario.

use std::time::Duration;

use crate::{
    Action, OperatorVerb, Order, Start, Step,
    decode::{Fields, Shape, choice, flag, items, text, whole},
    fault::{Report, Span},
    scenario_file::{
        Mentions, before_end,
        fault::{self, Kind},
        load::Surge,
        span,
    },
    tree::Node,
};

/// A step's keys.
pub(crate) const STEP: Shape = Shape {
    what: "a step",
    keys: &[
        "at",
        "when",
        "do",
        "may_fail",
        "fault",
        "regions",
        "pairs",
        "nodes",
        "region",
        "node",
        "target",
        "direction",
        "disk",
        "by",
        "share",
        "bandwidth",
        "drift",
        "load",
        "state",
        "for",
        "every",
        "times",
    ],
};

/// Kinds of faults.
pub(crate) const FAULTS: [(&str, Kind); 17] = [
    ("partition", Kind::Partition),
    ("latency", Kind::Latency),
    ("loss", Kind::Loss),
    ("duplicate", Kind::Duplicate),
    ("reorder", Kind::Reorder),
    ("bandwidth", Kind::Bandwidth),
    ("crash", Kind::Crash),
    ("pause", Kind::Pause),
    ("slow", Kind::Slow),
    ("clock-step", Kind::ClockStep),
    ("clock-drift", Kind::ClockDrift),
    ("disk-full", Kind::DiskFull),
    ("disk-slow", Kind::DiskSlow),
    ("quorum-loss", Kind::QuorumLoss),
    ("surge", Kind::Surge),
    ("bad-config", Kind::BadConfig),
    ("redis", Kind::Lender),
];

/// Reads the steps, and takes down the surges among them; one that repeats becomes several. Those with a time come first, in the order of time.
pub(super) fn decode_all(
    node: &Node,
    length: Option<Duration>,
    surges: &mut Vec<Surge>,
    mentions: &mut Mentions,
    report: &mut Report<'_>,
) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for item in items(node, MAX_STEPS, report)? {
        let Some((step, repeat, load_at)) = decode(item, length, mentions, report) else { continue };
        let Repeat { every, times } = repeat;
        for turn in 0..times {
            let start = match &step.start {
                Start::At(at) => Start::At(*at + every * turn),
                waiting => waiting.clone(),
            };
            if length.is_none_or(|length| turn == 0 || matches!(start, Start::At(at) if at < length)) {
                steps.push(Step { start, ..step.clone() });
                surges.extend(steps.last().zip(load_at).and_then(|(step, at)| Surge::of(step, at)));
            }
        }
        if steps.len() > MAX_STEPS {
            let message = format!("the steps repeat to more than {MAX_STEPS}");
            report.fault(item.at, message, "repeat them less often".to_owned());
            break;
        }
    }
    steps.sort_by_key(|step| (matches!(step.start, Start::When { .. }), step.earliest()));
    Some(steps)
}

/// How often a step happens.
struct Repeat {
    every: Duration,
    times: u32,
}

fn decode(
    node: &Node,
    length: Option<Duration>,
    mentions: &mut Mentions,
    report: &mut Report<'_>,
) -> Option<(Step, Repeat, Option<Span>)> {
    let fields = Fields::open(node, &STEP, report)?;
    let start = start(node, &fields, length, mentions, report);
    let lasting = fields.get("for").and_then(|node| span(node, report));
    let repeat = repeat(&fields, lasting, report);
    let action = match (fields.get("fault"), fields.get("do")) {
        (None, Some(verb)) => {
            refuse_others(&fields, "an order", &["at", "when", "do", "may_fail", "every", "times"], report);
            let may_fail = fields.optional("may_fail", false, report, flag);
            operator_verb(verb, mentions, report).map(|verb| Action::Order(Order { verb, may_fail }))
        }
        (Some(kind), None) => {
            let kind = choice(kind, &FAULTS, report)?;
            fault::decode(kind, node, &fields, mentions, report).map(Action::Fault)
        }
        _ => {
            let message = format!("{} has neither or both of `fault` and `do`", node.quoted());
            report.fault(node.at, message, "write `fault: partition`, `fault: crash` or `do: drain REGION`".to_owned());
            None
        }
    };
    let load_at = fields.get("load").map(|node| node.at);
    Some((Step { start: start?, action: action?, duration: lasting }, repeat?, load_at))
}

fn start(
    node: &Node,
    fields: &Fields<'_>,
    length: Option<Duration>,
    mentions: &mut Mentions,
    report: &mut Report<'_>,
) -> Option<Start> {
    let at = fields.get("at").and_then(|node| before_end(node, length, report));
    let Some(condition) = fields.get("when") else {
        if fields.get("at").is_none() {
            let message = format!("{} lacks `at`", node.quoted());
            report.fault(node.named_at, message, "add for example `at: 10s`, or `when: leader in us-east`".to_owned());
        }
        return at.map(Start::At);
    };
    let not_before = if fields.get("at").is_some() { at? } else { Duration::ZERO };
    let read: Option<crate::Condition> = text(condition, report)?.parse().ok();
    match &read {
        None => {
            let remedy = "write for example `leader in us-east`, `limits degraded in us-east`, `revision >= 3` or \
                          `admitted of orders in us-east >= 100`";
            report.fault(condition.at, format!("{} is not a condition", condition.quoted()), remedy.to_owned());
        }
        Some(
            crate::Condition::LeaderIn(region)
            | crate::Condition::DegradedIn(region)
            | crate::Condition::Figure { region: Some(region), .. },
        ) => mentions.push((region.clone(), condition.at)),
        Some(_) => {}
    }
    Some(Start::When { condition: read?, not_before })
}

fn repeat(fields: &Fields<'_>, lasting: Option<Duration>, report: &mut Report<'_>) -> Option<Repeat> {
    let once = Repeat { every: Duration::ZERO, times: 1 };
    let Some(node) = fields.get("every") else {
        if let Some(times) = fields.get("times") {
            report.fault(times.named_at, "`times` needs `every`", "add for example `every: 10s`".to_owned());
        }
        return Some(once);
    };
    let every = span(node, report)?;
    if fields.get("when").is_some() {
        let message = "a step that waits for a condition happens once";
        report.fault(node.named_at, message, "write `at` in place of `when`, or remove `every`".to_owned());
    }
    if fields.get("fault").is_some() && lasting.is_some_and(|lasting| lasting >= every) {
        let message = format!("{} comes before the step has ended", node.quoted());
        report.fault(node.at, message, "make `for` shorter than `every`".to_owned());
    }
    let times = fields
        .optional("times", u64::from(MAX_TIMES), report, |node, report| whole(node, 1..=u64::from(MAX_TIMES), report));
    Some(Repeat { every, times: u32::try_from(times).ok()? })
}

/// Notes each key that does not belong here.
pub(super) fn refuse_others(fields: &Fields<'_>, what: &str, keys: &[&str], report: &mut Report<'_>) {
    for node in STEP.keys.iter().filter(|key| !keys.contains(key)).filter_map(|key| fields.get(key)) {
        let message = format!("{} does not belong to {what}", node.quoted());
        report.fault(node.named_at, message, "remove it".to_owned());
    }
}

fn operator_verb(node: &Node, mentions: &mut Mentions, report: &mut Report<'_>) -> Option<OperatorVerb> {
    match OperatorVerb::parse(text(node, report)?) {
        Ok(verb) => {
            mentions.extend(verb.region().map(|region| (region.clone(), node.at)));
            Some(verb)
        }
        Err(error) => {
            let remedy = "write as on the command line, e.g. drain eu-west --reason test".to_owned();
            report.fault(node.at, error.to_string(), remedy);
            None
        }
    }
}

/// Steps of one scenario, repeated ones counted each time.
const MAX_STEPS: usize = 1000;

/// How often one step repeats.
const MAX_TIMES: u32 = 500;
