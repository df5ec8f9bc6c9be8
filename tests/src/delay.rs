//! A network that takes its time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

/// A proxy in front of a server on this machine, through which what the client sends arrives later.
///
/// A round trip takes that much longer. Bytes that are sent while others are on their way do not wait
/// for those: it is the time of the way that is longer, not the line that is narrower.
#[derive(Debug)]
pub struct Delay {
    server: u16,
    port: u16,
    round_trips: Arc<AtomicU64>,
    _connections: JoinSet<()>,
}

/// Bytes on their way.
struct Sent {
    arrives: Instant,
    bytes: Vec<u8>,
    to: UnboundedSender<Vec<u8>>,
}

/// One end of a line on which all bytes take the same time.
#[derive(Clone)]
struct Line {
    delay: Duration,
    line: mpsc::Sender<Sent>,
}

impl Delay {
    /// Opens it before a port of this machine.
    pub async fn before(server: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let line = Line::new(delay);
        let round_trips = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&round_trips);
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut own = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                own.spawn(connect(client, server, line.clone(), Arc::clone(&counted)));
            }
        });
        Self {
            server,
            port,
            round_trips,
            _connections: connections,
        }
    }

    /// The URL of a database of the server, through the proxy.
    #[must_use]
    pub fn url(&self, direct: &str) -> String {
        let (server, port) = (format!(":{}/", self.server), format!(":{}/", self.port));
        assert!(direct.contains(&server), "{direct} is on another server");
        direct.replace(&server, &port)
    }

    /// How often a client has sent something after the server's answer to what it had sent before.
    #[must_use]
    pub fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }
}

impl Line {
    fn new(delay: Duration) -> Self {
        let (line, sent) = mpsc::channel();
        std::thread::spawn(move || deliver(sent));
        Self { delay, line }
    }

    fn send(&self, bytes: Vec<u8>, to: UnboundedSender<Vec<u8>>) {
        let arrives = Instant::now() + self.delay;
        // The thread ends after the last sender.
        let _ = self.line.send(Sent { arrives, bytes, to });
    }
}

/// Passes bytes on when they arrive, in the order in which they were sent. On a thread: tokio's clock
/// counts whole milliseconds.
fn deliver(line: mpsc::Receiver<Sent>) {
    for sent in line {
        std::thread::sleep(sent.arrives.saturating_duration_since(Instant::now()));
        // The connection may be gone.
        let _ = sent.to.send(sent.bytes);
    }
}

async fn connect(client: TcpStream, server: u16, line: Line, round_trips: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
        return;
    };
    if client
        .set_nodelay(true)
        .and(server.set_nodelay(true))
        .is_err()
    {
        return;
    }
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let (arrive, arriving) = unbounded_channel();
    let (answer, answers) = unbounded_channel();
    let awaits_answer = &AtomicBool::new(false);
    // Each way ends with what receives, which owns the way's only sender.
    let asked = move |bytes| {
        if !awaits_answer.swap(true, Ordering::Relaxed) {
            round_trips.fetch_add(1, Ordering::Relaxed);
        }
        line.send(bytes, arrive.clone());
    };
    let answered = move |bytes| {
        awaits_answer.store(false, Ordering::Relaxed);
        let _ = answer.send(bytes);
    };
    tokio::join!(
        receive(client_reads, asked),
        send(server_writes, arriving),
        receive(server_reads, answered),
        send(client_writes, answers),
    );
}

async fn receive(mut from: OwnedReadHalf, pass_on: impl Fn(Vec<u8>)) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        pass_on(buffer[..length].to_vec());
    }
}

async fn send(mut to: OwnedWriteHalf, mut bytes: UnboundedReceiver<Vec<u8>>) {
    while let Some(bytes) = bytes.recv().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
