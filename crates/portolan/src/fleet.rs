//! Commands that talk to the fleet: what they send, and how its answers look to people.
//!
//! Decides no policy: the nodes check, accept and refuse.

use std::path::Path;

use anyhow::{Context, Result, bail};
use http::Method;
use portolan_model::{RegionId, Revision};
use serde_json::{Value, json};

use crate::{
    cli,
    client::Client,
    context::Context as Fleet,
    files,
    output::{Format, Table, field},
};

/// A client of the fleet that the command line names.
pub fn client(global: &cli::Global) -> Result<Client> {
    Client::new(&Fleet::load(&global.dir, &global.overrides())?)
}

/// What one node says of itself.
pub async fn node_status(client: &Client) -> Result<Value> {
    client.get("/v1/status").await
}

/// Sends a gateway document with the files it names.
pub async fn apply(client: &Client, file: &Path, expected: Option<Revision>) -> Result<Value> {
    let bundle = serde_json::to_value(files::bundle(file)?).context("a bundle is JSON")?;
    client.post("/v1/apply", &json!({ "bundle": bundle, "expected": expected })).await
}

/// `apply FILE`
pub async fn run_apply(global: &cli::Global, arguments: &cli::Apply) -> Result<()> {
    let answer = apply(&client(global)?, &arguments.file, arguments.expected).await?;
    global.output.print(&answer, |answer| {
        let unchanged = answer["unchanged"] == true;
        let verb = if unchanged { "is in force already, as" } else { "accepted as" };
        format!("{} {verb} revision {}\n", arguments.file.display(), field(answer, "revision"))
    });
    Ok(())
}

/// `history`
pub async fn run_history(global: &cli::Global) -> Result<()> {
    let answer = client(global)?.get("/v1/history").await?;
    global.output.print(&answer, |answer| {
        let mut table = Table::new(["revision", "time", "author", "what", "digest"]);
        for entry in answer["entries"].as_array().into_iter().flatten() {
            let at = entry["at"].as_u64().map_or_else(|| field(entry, "at"), time_of_day);
            let digest = field(entry, "digest");
            let digest = digest.get(..12).unwrap_or(&digest).to_owned();
            table.row([field(entry, "revision"), at, field(entry, "author"), field(entry, "what"), digest]);
        }
        table.to_string()
    });
    Ok(())
}

/// `rollback N`
pub async fn run_rollback(global: &cli::Global, to: Revision) -> Result<()> {
    let answer = client(global)?.post("/v1/rollback", &json!({ "to": to })).await?;
    global.output.print(&answer, |answer| {
        format!("revision {to} is in force again, as revision {}\n", field(answer, "revision"))
    });
    Ok(())
}

/// `drain REGION --reason …`
pub async fn run_drain(global: &cli::Global, region: &RegionId, reason: &str) -> Result<()> {
    let answer = client(global)?.post("/v1/drain", &json!({ "region": region, "reason": reason })).await?;
    global.output.print(&answer, |_| {
        format!("{region} is draining: DNS stops naming it, clients are told to go; `restore {region}` ends it\n")
    });
    Ok(())
}

/// `restore REGION`
pub async fn run_restore(global: &cli::Global, region: &RegionId) -> Result<()> {
    let answer = client(global)?.post("/v1/restore", &json!({ "region": region })).await?;
    global.output.print(&answer, |_| format!("{region} serves again\n"));
    Ok(())
}

/// `status`: every node speaks for itself; one that does not answer is shown as such.
pub async fn run_status(global: &cli::Global) -> Result<()> {
    let client = client(global)?;
    let mut nodes = Vec::new();
    for node in client.nodes() {
        let status = node_status(&client.only(node)).await;
        nodes.push(json!({
            "node": node.node,
            "region": node.region,
            "admin": node.admin,
            "error": status.as_ref().err().map(|error| format!("{error:#}")),
            "status": status.ok(),
        }));
    }
    let answer = json!({ "nodes": nodes });
    global.output.print(&answer, render_status);
    if nodes.iter().all(|node| node["status"].is_null()) {
        bail!("no node answers; is the fleet running?");
    }
    Ok(())
}

/// `explain`
pub async fn run_explain(global: &cli::Global, arguments: &cli::Explain) -> Result<()> {
    let mut client = client(global)?;
    if let Some(region) = &arguments.region {
        client = client.in_region(region)?;
    }
    let question = json!({
        "method": arguments.method.as_str(),
        "host": arguments.host,
        "path": arguments.path,
        "token": arguments.token,
        "client": arguments.client,
    });
    let answer = client.call(Method::POST, "/v1/explain", Some(&question)).await?.accepted()?;
    global.output.print(&answer, |answer| outline(answer, 0));
    Ok(())
}

fn render_status(answer: &Value) -> String {
    let mut table = Table::new(["region", "node", "ready", "revision", "Raft", "serving", "peers heard (ms)"]);
    for node in answer["nodes"].as_array().into_iter().flatten() {
        let status = &node["status"];
        if status.is_null() {
            let silent = "no answer".to_owned();
            table.row([
                field(node, "region"),
                field(node, "node"),
                silent,
                "-".into(),
                "-".into(),
                "-".into(),
                "-".into(),
            ]);
            continue;
        }
        let ages = status["peers"].as_array().into_iter().flatten();
        let ages: Vec<String> =
            ages.map(|peer| format!("{} {}", field(peer, "region"), field(peer, "age_ms"))).collect();
        table.row([
            field(node, "region"),
            field(node, "node"),
            field(status, "ready"),
            field(status, "revision"),
            field(&status["raft"], "role"),
            field(status, "state"),
            ages.join(", "),
        ]);
    }
    table.to_string()
}

/// Any JSON as an indented list: for answers whose parts vary.
pub fn outline(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let simple = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.is_empty() => Some("none".to_owned()),
        Value::Object(fields) if fields.is_empty() => Some("none".to_owned()),
        Value::Array(_) | Value::Object(_) => None,
        Value::Null => Some("-".to_owned()),
        other => Some(other.to_string()),
    };
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| match simple(value) {
                Some(text) => format!("{indent}{name}: {text}\n"),
                None => format!("{indent}{name}:\n{}", outline(value, depth + 1)),
            })
            .collect(),
        Value::Array(items) => items
            .iter()
            .map(|item| match simple(item) {
                Some(text) => format!("{indent}- {text}\n"),
                None => {
                    let body = outline(item, depth + 1);
                    format!("{indent}- {}", body.trim_start())
                }
            })
            .collect(),
        other => format!("{indent}{}\n", simple(other).unwrap_or_default()),
    }
}

/// UTC, to the second: `2026-01-31 12:00:00`.
fn time_of_day(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil from days, for years from 1970 (Hinnant, chrono-compatible low-level date algorithms).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hours, minutes, seconds) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}")
}

/// Steers the relay.
pub async fn run_wan(global: &cli::Global, order: &cli::Wan) -> Result<()> {
    use crate::wan::{Order, ask};
    let order = match order {
        cli::Wan::Cut { region, direction, peer } => {
            Order::Cut { region: region.clone(), direction: *direction, peer: peer.clone() }
        }
        cli::Wan::Heal { region } => Order::Heal { region: region.clone() },
        cli::Wan::Show => Order::Show,
    };
    let links = ask(&global.dir, &order).await?;
    let answer = json!({ "links": links });
    global.output.print(&answer, |_| {
        let mut table = Table::new(["from", "to", "delay", "state", "delivered", "lost", "stopped"]);
        for link in &links {
            let delay = format!("{:.1} ms", link.delay_us as f64 / 1000.0);
            let state = if link.cut { "cut" } else { "open" }.to_owned();
            let (from, to) = (link.from.to_string(), link.to.to_string());
            table.row([
                from,
                to,
                delay,
                state,
                link.delivered.to_string(),
                link.lost.to_string(),
                link.stopped.to_string(),
            ]);
        }
        table.to_string()
    });
    Ok(())
}

/// Prints a reply of `probe`.
pub fn print_reply(format: Format, reply: &crate::probe::Reply) {
    format.print(&reply.to_json(), |_| reply.to_text());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_calendar_times() {
        for (unix_ms, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400_000, "2000-02-29 00:00:00"),
            (1_767_225_599_000, "2025-12-31 23:59:59"),
        ] {
            assert_eq!(time_of_day(unix_ms), expected);
        }
    }

    #[test]
    fn an_outline_keeps_the_nesting() {
        let value = json!({ "route": "orders", "candidates": [{ "route": "a", "lost": "host" }, "b"], "limits": [] });
        let expected = "candidates:\n  - lost: host\n    route: a\n  - b\nlimits: none\nroute: orders\n";
        assert_eq!(outline(&value, 0), expected);
    }
}
