//! A network that takes its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// A proxy in front of a server on this machine, through which what the client sends arrives later.
///
/// Bytes that are sent while others are on their way do not wait for those: it is the time of the
/// way that is longer, not the line that is narrower.
#[derive(Debug)]
pub struct Delay {
    port: u16,
    round_trips: Arc<AtomicU64>,
    _connections: JoinSet<()>,
}

impl Delay {
    /// Opens it before a port of this machine.
    pub async fn before(server: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let round_trips = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&round_trips);
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut own = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                own.spawn(connect(client, server, delay, Arc::clone(&counted)));
            }
        });
        Self {
            port,
            round_trips,
            _connections: connections,
        }
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How often a client has sent something after the server's answer to what it had sent before.
    #[must_use]
    pub fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }
}

async fn connect(client: TcpStream, server: u16, delay: Duration, round_trips: Arc<AtomicU64>) {
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
    let awaits_answer = AtomicBool::new(false);
    let asked = || {
        if !awaits_answer.swap(true, Ordering::Relaxed) {
            round_trips.fetch_add(1, Ordering::Relaxed);
        }
    };
    let answered = || awaits_answer.store(false, Ordering::Relaxed);
    tokio::join!(
        pump(client_reads, server_writes, delay, asked),
        pump(server_reads, client_writes, Duration::ZERO, answered),
    );
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration, note: impl Fn()) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let receive = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            note();
            let arrives = Instant::now() + delay;
            if sender.send((arrives, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    };
    let send = async move {
        while let Some((arrives, bytes)) = receiver.recv().await {
            if !delay.is_zero() {
                sleep_until(arrives).await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(receive, send);
}
