//! Writes one JSON object per finished request, on a thread of its own behind a bounded channel.
//!
//! Never holds up a worker: when the writer is behind, the line is dropped and counted. Never writes a body, a token, a
//! query or a header field beside the request id.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    net::IpAddr,
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    thread,
    time::Duration,
};

use portolan_model::{NodeName, WallTime};
use serde::Serialize;

/// Lines that may wait for the writer; about 4 MiB.
const QUEUE: usize = 8192;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSink {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
}

/// One finished request.
#[derive(Clone, Debug, Serialize)]
pub struct Line<'a> {
    /// When it ended, RFC 3339.
    #[serde(serialize_with = "display")]
    pub time: WallTime,
    /// The node that served it.
    #[serde(serialize_with = "display")]
    pub node: &'a NodeName,
    /// Its id.
    pub request_id: &'a str,
    /// Its trace.
    pub trace_id: &'a str,
    /// Client address.
    pub client: IpAddr,
    /// `h1`, `h2` or `h3`.
    pub protocol: &'static str,
    /// Its method.
    pub method: &'a str,
    /// Its host.
    pub host: &'a str,
    /// Its path, without query.
    pub path: &'a str,
    /// The route that served it.
    pub route: Option<&'a str>,
    /// Who asked.
    pub user: Option<&'a str>,
    /// Status of the response.
    pub status: u16,
    /// The step that answered it, when the gateway did.
    pub step: Option<&'static str>,
    /// What its limits made of it, where the route has any and it came so far.
    pub limits: Option<LimitsLine<'a>>,
    /// The endpoint that answered it.
    pub upstream: Option<&'a str>,
    /// Upstream attempts.
    pub attempts: u32,
    /// From its head to the end of its response, in microseconds.
    pub duration_us: u64,
    /// Bytes of its body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// Whether the response reached its end.
    pub complete: bool,
}

/// What limits made of a request.
#[derive(Clone, Debug, Serialize)]
pub struct LimitsLine<'a> {
    /// The worst state of any of them: `healthy`, `healing` or `degraded`.
    pub mode: &'static str,
    /// The limit that refused it.
    pub refused: Option<&'a str>,
    /// Limits in shadow that would have refused it.
    pub shadow: Vec<&'a str>,
    /// How long it waited for them, in microseconds.
    pub waited_us: u64,
}

fn display<S: serde::Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Hands lines to the writer; cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog(Option<SyncSender<Vec<u8>>>);

impl AccessLog {
    /// Opens the sink and starts its writer. The writer ends when the last handle is dropped.
    pub fn open(sink: &LogSink) -> io::Result<Self> {
        let output: Box<dyn Write + Send> = match sink {
            LogSink::Off => return Ok(Self(None)),
            LogSink::Stdout => Box::new(io::stdout()),
            LogSink::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let (sender, receiver) = sync_channel(QUEUE);
        thread::Builder::new().name("access-log".into()).spawn(move || write_lines(&receiver, output))?;
        Ok(Self(Some(sender)))
    }

    /// Whether lines are wanted at all.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Hands a line over; false when it was dropped.
    pub fn write(&self, line: &Line<'_>) -> bool {
        let Some(sender) = &self.0 else { return true };
        let mut text = Vec::with_capacity(512);
        let written = serde_json::to_writer(&mut text, line).is_ok();
        text.push(b'\n');
        written && sender.try_send(text).is_ok()
    }
}

/// Writes until every sender is gone; flushes whenever the queue runs empty.
fn write_lines(lines: &Receiver<Vec<u8>>, output: Box<dyn Write + Send>) {
    let mut output = BufWriter::with_capacity(64 << 10, output);
    while let Ok(first) = lines.recv() {
        let mut next = Ok(first);
        loop {
            match next {
                // A full disk or a closed pipe loses lines, not requests; the pause keeps it from spinning.
                Ok(line) if output.write_all(&line).is_err() => thread::sleep(Duration::from_millis(100)),
                Ok(_) => {}
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
            next = lines.try_recv();
        }
        let _ = output.flush();
    }
}
