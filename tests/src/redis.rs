//! A Redis server of a test's own, and a way to make it slow.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// A server on a free port; killed when dropped.
pub struct Redis {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Redis {
    /// Starts one and waits until it listens; `None` where no server is installed.
    pub async fn start() -> Option<Self> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("is bound");
        Self::start_at(free).await
    }

    /// Starts one at an address.
    pub async fn start_at(address: SocketAddr) -> Option<Self> {
        let port = address.port().to_string();
        let arguments = ["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"];
        let mut command = Command::new("redis-server");
        let started = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(process) = started else {
            eprintln!("no redis-server in PATH: nothing is tested; install the package redis-server");
            return None;
        };
        let server = Self { process, address };
        let listening = async {
            while TcpStream::connect(address).await.is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), listening).await.expect("the server listens");
        Some(server)
    }

    /// As a document names it.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Forgets everything, as a replica does that had received nothing.
    pub async fn forget(&self) {
        assert_eq!(self.answer("FLUSHALL").await, "+OK");
    }

    /// How many keys it holds.
    pub async fn keys(&self) -> u64 {
        self.answer("DBSIZE").await.trim_start_matches(':').parse().expect("a number")
    }

    /// The first line that it answers a command with.
    async fn answer(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("the server listens");
        stream.write_all(format!("{command}\r\n").as_bytes()).await.expect("is sent");
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await.expect("answers");
        answer.trim_end().to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Forwards to a server, and holds its answers back for as long as it is told.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    delay: watch::Sender<Duration>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Starts one in front of `server`.
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("is bound");
        let (delay, seen) = watch::channel(Duration::ZERO);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, server, seen.clone()));
            }
        });
        Self { address, delay, task }
    }

    /// As a document names it.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Answers come this much later from here on.
    pub fn slow_down(&self, by: Duration) {
        self.delay.send_replace(by);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(client: TcpStream, server: SocketAddr, delay: watch::Receiver<Duration>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asked = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = [0; 4096];
    loop {
        match from_server.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => {
                let by = *delay.borrow();
                sleep(by).await;
                if to_client.write_all(&buffer[..read]).await.is_err() {
                    break;
                }
            }
        }
    }
    asked.abort();
}
