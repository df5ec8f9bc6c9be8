//! A standby that lags behind its primary, and an address behind which servers change.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::TestPostgres;
use crate::binaries::Binaries;
use crate::postgres::free_port;

/// A streaming standby, which is removed however the tests end.
pub struct Standby {
    directory: PathBuf,
    port: u16,
    watchdog: Child,
}

impl Standby {
    /// Makes a standby of a private server, and waits until it answers.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn of(primary: &TestPostgres) -> Self {
        let binaries = Binaries::find();
        let id = &Uuid::new_v4().simple().to_string()[..12];
        let directory = PathBuf::from(format!("/tmp/consumer-{id}"));
        fs::create_dir(&directory).expect("make a directory for the standby");
        binaries.own(&directory);
        let standby = Self {
            watchdog: watchdog(&binaries, &directory),
            port: free_port(),
            directory,
        };
        let data = standby.directory.join("data");
        let primary = format!("host=127.0.0.1 port={} user=postgres", primary.port());
        let mut backup = binaries.command("pg_basebackup");
        backup
            .arg("--pgdata")
            .arg(&data)
            .arg("--dbname")
            .arg(primary)
            .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
        succeed(backup);
        let mut start = binaries.command("pg_ctl");
        let options = format!("-p {} -k {}", standby.port, standby.directory.display());
        start.args(["start", "--wait", "--silent", "--options", &options]);
        start.arg("--pgdata").arg(&data);
        start.arg("--log").arg(standby.directory.join("log"));
        start.stdout(Stdio::null()).stderr(Stdio::null());
        let status = start.status().expect("run pg_ctl");
        assert!(status.success(), "the standby does not start");
        standby
    }

    /// The TCP port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database on it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// Starts a process that removes the server when this one ends, however it ends.
fn watchdog(binaries: &Binaries, directory: &PathBuf) -> Child {
    let script = "trap '' INT TERM HUP; read -r _; dir=$1; shift; \"$@\"; rm -rf \"$dir\"";
    Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(directory)
        .args(binaries.words("pg_ctl"))
        .args(["stop", "--mode=immediate", "--pgdata"])
        .arg(directory.join("data"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("start the watchdog")
}

fn succeed(mut command: Command) {
    let output = command.output().expect("run a program of Postgres");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}

#[derive(Debug)]
struct Route {
    usual: u16,
    next: Option<u16>,
}

/// An address behind which a connection may reach another server than the one before it.
#[derive(Debug)]
pub struct Switch {
    port: u16,
    route: Arc<Mutex<Route>>,
    _connections: JoinSet<()>,
}

impl Switch {
    /// Listens in front of a server on this machine.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let route = Arc::new(Mutex::new(Route {
            usual: server,
            next: None,
        }));
        let mut connections = JoinSet::new();
        let routes = Arc::clone(&route);
        connections.spawn(async move {
            let mut own = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let server = {
                    let mut route = routes.lock().expect("no panic in between");
                    route.next.take().unwrap_or(route.usual)
                };
                own.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self {
            port,
            route,
            _connections: connections,
        }
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leads the next connection to another server, and those after it to the usual one again.
    ///
    /// # Panics
    /// If another thread panicked while it held the route.
    pub fn lead_next_to(&self, server: u16) {
        self.route.lock().expect("no panic in between").next = Some(server);
    }

    /// Whether that connection has not come yet; if so, it goes to the usual server.
    ///
    /// # Panics
    /// If another thread panicked while it held the route.
    #[must_use]
    pub fn take_back(&self) -> bool {
        let mut route = self.route.lock().expect("no panic in between");
        route.next.take().is_some()
    }
}
