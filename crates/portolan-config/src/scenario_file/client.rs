//! Reads the load of a scenario.

use std::{collections::BTreeMap, time::Duration};

use portolan_model::{Rate, Ratio};

use crate::{
    Arrivals, Bursts, ClientLoad, Distribution,
    decode::{self, Fields, Shape, choice, duration, named, ratio, string, text, whole},
    fault::Report,
    scenario_file::{
        Mentions,
        load::{MAX_RATE, MAX_USERS, REMEDY, Total},
        mention, moment, span,
    },
    tree::Node,
};

/// The keys of one load.
pub(crate) const CLIENT: Shape = Shape {
    what: "a load",
    keys: &[
        "region",
        "rate",
        "host",
        "path",
        "method",
        "user",
        "users",
        "distribution",
        "sticky",
        "headers",
        "claims",
        "arrivals",
        "from",
        "until",
        "every",
        "for",
        "lasting",
        "failing",
    ],
};

pub(super) fn decode(
    node: &Node,
    total: &mut Total,
    mentions: &mut Mentions,
    report: &mut Report<'_>,
) -> Option<ClientLoad> {
    let fields = Fields::open(node, &CLIENT, report)?;
    let region = fields.require("region", "us-east", report).and_then(|node| mention(node, mentions, report));
    let rate = fields.require("rate", "200/s", report).and_then(|node| {
        let rate = rate(node, report)?;
        total.add_rate(node, rate, report);
        Some(rate)
    });
    let host = fields.require("host", "api.example.test", report).and_then(|node| string(node, report));
    let path = fields.require("path", "/orders/1", report).and_then(|node| string(node, report));
    let method = fields.optional("method", "GET".to_owned(), report, string);
    let user = fields.get("user").and_then(|node| string(node, report));
    let headers = fields.optional("headers", BTreeMap::new(), report, texts);
    let claims = fields.optional("claims", BTreeMap::new(), report, texts);
    let users = fields.optional("users", 1, report, |node, report| {
        let users = whole(node, 1..=MAX_USERS, report)?;
        total.add_users(node, users, report);
        Some(users)
    });
    let distribution = fields.optional("distribution", Distribution::default(), report, distribution);
    let sticky = fields.optional("sticky", false, report, decode::flag);
    let arrivals = fields.optional("arrivals", Arrivals::default(), report, |node, report| {
        choice(node, &[("even", Arrivals::Even), ("poisson", Arrivals::Poisson)], report)
    });
    let from = fields.optional("from", Duration::ZERO, report, moment);
    let until = fields.get("until").and_then(|node| span(node, report));
    let bursts = bursts(&fields, report);
    let lasting = fields.optional("lasting", Duration::ZERO, report, |node, report| {
        duration(node, Duration::ZERO..=Duration::from_secs(3600), report)
    });
    let failing = fields.optional("failing", Ratio::from_parts(0), report, ratio);
    Some(ClientLoad {
        region: region?,
        rate: rate?,
        host: host?,
        path: path?,
        method,
        user,
        users: u32::try_from(users).ok()?,
        distribution,
        sticky,
        headers,
        claims,
        arrivals,
        from,
        until,
        bursts,
        lasting,
        failing,
    })
}

/// A rate that a machine can rehearse.
fn rate(node: &Node, report: &mut Report<'_>) -> Option<Rate> {
    let rate = decode::rate(node, report)?;
    if u128::from(rate.count) * 1_000_000_000 <= u128::from(MAX_RATE) * rate.per.as_nanos() {
        return Some(rate);
    }
    let message = format!("{} is more than the {MAX_RATE}/s that a load may send", node.quoted());
    report.fault(node.at, message, REMEDY.to_owned());
    None
}

fn bursts(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Bursts> {
    let every = fields.get("every").and_then(|node| span(node, report));
    let length = fields.get("for").and_then(|node| span(node, report));
    let alone = match (fields.get("every"), fields.get("for")) {
        (Some(every), None) => Some((every, "for: 100ms")),
        (None, Some(length)) => Some((length, "every: 1s")),
        _ => None,
    };
    if let Some((node, missing)) = alone {
        report.fault(node.named_at, "a burst has both `every` and `for`", format!("add for example `{missing}`"));
    }
    let (every, length) = (every?, length?);
    if let Some(node) = fields.get("for").filter(|_| length >= every) {
        let message = format!("{} leaves no pause between bursts", node.quoted());
        report.fault(node.at, message, "make it shorter than `every`".to_owned());
    }
    Some(Bursts { every, length })
}

fn distribution(node: &Node, report: &mut Report<'_>) -> Option<Distribution> {
    let word = text(node, report)?;
    let words: Vec<&str> = word.split_whitespace().collect();
    let read = match words[..] {
        ["in-turn"] => Some(Distribution::InTurn),
        ["uniform"] => Some(Distribution::Uniform),
        ["zipf"] => Some(Distribution::Zipf(1000)),
        ["zipf", exponent] => exponent.parse::<f64>().ok().and_then(|exponent| {
            let fits = (0.0..=MAX_EXPONENT).contains(&exponent);
            fits.then(|| Distribution::Zipf((exponent * 1000.0).round() as u32))
        }),
        _ => None,
    };
    if read.is_none() {
        let message = format!("{} is not a distribution", node.quoted());
        report.fault(node.at, message, "write `in-turn`, `uniform` or for example `zipf 1.0`".to_owned());
    }
    read
}

fn texts(node: &Node, report: &mut Report<'_>) -> Option<BTreeMap<String, String>> {
    let entries = named(node, "{ name: value }", MAX_FIELDS, report);
    let read = entries.iter().filter_map(|entry| {
        let value = string(&entry.node, report)?;
        Some((entry.key.to_ascii_lowercase(), value))
    });
    Some(read.collect())
}

/// Largest exponent of a Zipf distribution; beyond it one user sends everything.
const MAX_EXPONENT: f64 = 8.0;

/// Header fields or claims of one load.
const MAX_FIELDS: usize = 32;
