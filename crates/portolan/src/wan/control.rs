//! Steers the relay over a unix socket in the folder of the fleet: one JSON order per connection, one JSON answer.
//!
//! Decides nothing. Whoever may write the socket may cut the fleet: it lies in the operator's own folder.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use portolan_model::RegionId;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::relay::{Direction, LinkReport, Relay};

/// Longest order or answer line.
const MAX_LINE: u64 = 1 << 20;

/// A client of the socket that says nothing for so long is left.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the relay can be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Cut a region off, from all or from one peer.
    Cut {
        /// The region.
        region: RegionId,
        /// Which way.
        direction: Direction,
        /// The only other end, or none for all.
        peer: Option<RegionId>,
    },
    /// End the cuts that touch a region, or all.
    Heal {
        /// The region, or none for all.
        region: Option<RegionId>,
    },
    /// Change nothing.
    Show,
}

type Answer = Result<Vec<LinkReport>, String>;

/// The socket of the fleet in `dir`.
fn socket_path(dir: &Path) -> PathBuf {
    dir.join("wan.sock")
}

/// Takes orders for `relay` until the task is dropped.
pub async fn serve(relay: Arc<Relay>, dir: &Path) -> Result<()> {
    let path = socket_path(dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove the old {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // One order at a time: a cut is in force once its answer is read. A broken client ends its own call only.
        let _ = tokio::time::timeout(PATIENCE, answer(&relay, stream)).await;
    }
}

/// Sends `order` to the relay of the fleet in `dir` and returns the links as they are afterwards.
pub async fn ask(dir: &Path, order: &Order) -> Result<Vec<LinkReport>> {
    let path = socket_path(dir);
    let mut stream = UnixStream::connect(&path)
        .await
        .with_context(|| format!("no relay answers at {}; start the fleet with `portolan up --wan`", path.display()))?;
    let mut line = serde_json::to_vec(order).context("an order is JSON")?;
    line.push(b'\n');
    stream.write_all(&line).await.context("the relay went away")?;
    match serde_json::from_slice::<Answer>(&read_line(stream).await?).context("the relay answered nonsense")? {
        Ok(links) => Ok(links),
        Err(message) => bail!("{message}"),
    }
}

async fn answer(relay: &Relay, mut stream: UnixStream) -> Result<()> {
    let line = read_line(&mut stream).await?;
    let answer: Answer = serde_json::from_slice(&line)
        .map_err(|error| anyhow!("not an order: {error}"))
        .and_then(|order| obey(relay, order))
        .map_err(|error| error.to_string());
    let mut line = serde_json::to_vec(&answer).context("an answer is JSON")?;
    line.push(b'\n');
    stream.write_all(&line).await.context("the client went away")
}

fn obey(relay: &Relay, order: Order) -> Result<Vec<LinkReport>> {
    match order {
        Order::Cut { region, direction, peer } => relay.cut(&region, direction, peer.as_ref())?,
        Order::Heal { region } => relay.heal(region.as_ref())?,
        Order::Show => {}
    }
    Ok(relay.report())
}

async fn read_line(stream: impl tokio::io::AsyncRead + Unpin) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_LINE)).read_until(b'\n', &mut line).await.context("the connection broke")?;
    Ok(line)
}
