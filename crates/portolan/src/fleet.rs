//! Commands that talk to the fleet: what they ask of which node.
//!
//! Decides no policy: the nodes check, accept and refuse.

use std::path::Path;

use anyhow::{Context, Result, bail};
use http::{HeaderName, HeaderValue};
use portolan_model::{RegionId, Revision};
use portolan_server::api::{
    ApplyRequest, ChangeAnswer, DrainRequest, ExplainRequest, RestoreRequest, RollbackRequest, StatusAnswer,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    cli,
    client::{Client, NO_ANSWER},
    context::Context as Fleet,
    files,
    output::{Format, Table},
    render,
};

/// A client of the fleet that the command line names.
pub fn client(global: &cli::Global) -> Result<Client> {
    Client::new(&Fleet::load(&global.dir, &global.overrides())?)
}

/// What one node says of itself.
pub async fn node_status(client: &Client) -> Result<StatusAnswer> {
    typed(&client.get("/v1/status").await?)
}

/// Sends a gateway document with the files it names.
pub async fn apply(client: &Client, file: &Path, expected: Option<Revision>) -> Result<Value> {
    post(client, "/v1/apply", &ApplyRequest { bundle: files::bundle(file)?, expected }).await
}

/// `apply FILE`
pub async fn run_apply(global: &cli::Global, arguments: &cli::Apply) -> Result<()> {
    let answer = apply(&client(global)?, &arguments.file, arguments.expected).await?;
    let change: ChangeAnswer = typed(&answer)?;
    global.output.print(&answer, || {
        let revision = change.revision.unwrap_or_default();
        match change.result.as_str() {
            "unchanged" => format!("nothing changed: revision {revision} says the same\n"),
            result => format!("{result}: revision {revision}\n"),
        }
    });
    Ok(())
}

/// `history`
pub async fn run_history(global: &cli::Global) -> Result<()> {
    let answer = client(global)?.get("/v1/history").await?;
    let history = typed(&answer)?;
    global.output.print(&answer, || render::history(&history));
    Ok(())
}

/// `rollback N`
pub async fn run_rollback(global: &cli::Global, to: Revision) -> Result<()> {
    let answer = post(&client(global)?, "/v1/rollback", &RollbackRequest { to }).await?;
    let change: ChangeAnswer = typed(&answer)?;
    let revision = change.revision.unwrap_or_default();
    global.output.print(&answer, || match change.result.as_str() {
        "unchanged" => format!("nothing changed: revision {revision}, now in force, says the same as revision {to}\n"),
        _ => format!("revision {to} is in force again, as revision {revision}\n"),
    });
    Ok(())
}

/// `drain REGION --reason …`
pub async fn run_drain(global: &cli::Global, region: &RegionId, reason: &str) -> Result<()> {
    let request = DrainRequest { region: region.clone(), reason: reason.to_owned() };
    let answer = post(&client(global)?, "/v1/drain", &request).await?;
    global.output.print(&answer, || {
        format!("{region} is draining: DNS stops naming it, clients are told to go; `restore {region}` ends it\n")
    });
    Ok(())
}

/// `restore REGION`
pub async fn run_restore(global: &cli::Global, region: &RegionId) -> Result<()> {
    let request = RestoreRequest { region: region.clone() };
    let answer = post(&client(global)?, "/v1/restore", &request).await?;
    global.output.print(&answer, || format!("{region} serves again\n"));
    Ok(())
}

/// `status`: every node speaks for itself; one that does not answer is shown as such.
pub async fn run_status(global: &cli::Global) -> Result<()> {
    let client = client(global)?;
    let (mut nodes, mut answers, mut silent) = (Vec::new(), Vec::new(), Vec::new());
    for node in client.nodes() {
        let answer = client.only(node).get("/v1/status").await;
        let (status, error) = match answer.and_then(|answer| Ok((typed(&answer)?, answer))) {
            Ok((status, answer)) => {
                answers.push(status);
                (Some(answer), None)
            }
            Err(error) => {
                let error = format!("{error:#}");
                silent.push(error.strip_prefix(NO_ANSWER).unwrap_or(&error).trim_start().to_owned());
                (None, Some(error))
            }
        };
        nodes.push(json!({
            "node": node.node, "region": node.region, "admin": node.admin, "status": status, "error": error,
        }));
    }
    let text = || render::status(&answers, &silent);
    global.output.print(&json!({ "nodes": nodes }), text);
    match answers.is_empty() {
        true => bail!("{NO_ANSWER}\n  {}", silent.join("\n  ")),
        false => Ok(()),
    }
}

/// `explain`
pub async fn run_explain(global: &cli::Global, arguments: &cli::Explain) -> Result<()> {
    let mut client = client(global)?;
    if let Some(region) = &arguments.region {
        client = client.in_region(region)?;
    }
    let request = ExplainRequest {
        method: arguments.method.to_string(),
        host: arguments.host.clone(),
        path: arguments.path.clone(),
        client: arguments.client,
        token: arguments.token.clone(),
        headers: arguments.header.iter().map(field).collect(),
    };
    let answer = post(&client, "/v1/explain", &request).await?;
    let explanation = typed(&answer)?;
    global.output.print(&answer, || render::explain(&explanation));
    Ok(())
}

/// A header field as the admin API takes it.
fn field((name, value): &(HeaderName, HeaderValue)) -> (String, String) {
    (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Sends an order.
pub async fn post(client: &Client, path: &str, request: &impl Serialize) -> Result<Value> {
    client.post(path, &serde_json::to_value(request).context("a request is JSON")?).await
}

/// Reads an answer.
pub fn typed<T: DeserializeOwned>(answer: &Value) -> Result<T> {
    T::deserialize(answer).context("the node answers in words this client does not know; use the same release for both")
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
    global.output.print(&answer, || {
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
    format.print(&reply.to_json(), || reply.to_text());
}
