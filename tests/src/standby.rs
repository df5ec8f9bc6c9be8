//! A standby that lags behind its primary, and an address behind which servers change.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use sqlx::{Connection as _, Executor as _, PgConnection};
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
        copy_a_running_server(&binaries, primary, &data);
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

/// Makes the data directory of a standby, as `pg_basebackup` does, which few installations of the server
/// alone have.
fn copy_a_running_server(binaries: &Binaries, primary: &TestPostgres, data: &Path) {
    let (url, from, to) = (primary.url("postgres"), primary.data(), data.to_owned());
    let mut copy = binaries.command_at(Path::new("cp"));
    // Files that disappear meanwhile are restored from the write-ahead log.
    copy.arg("-Rp").args([&from, &to]).stderr(Stdio::null());
    let copying = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(backup(&url, || copy.status().expect("run cp")))
    });
    let label = copying.join().expect("back the server up");
    fs::remove_file(data.join("postmaster.pid")).expect("remove the primary's lock file");
    let connection = format!(
        "primary_conninfo = 'host=127.0.0.1 port={} user=postgres'\n",
        primary.port()
    );
    let mut settings = fs::OpenOptions::new();
    let settings = settings
        .append(true)
        .open(data.join("postgresql.auto.conf"));
    settings
        .and_then(|mut file| file.write_all(connection.as_bytes()))
        .expect("write the configuration");
    for (name, content) in [("backup_label", &*label), ("standby.signal", "")] {
        let file = data.join(name);
        fs::write(&file, content).expect("write a file of the standby");
        binaries.own(&file);
    }
}

/// Copies while the server is in backup mode, which belongs to a session; returns the backup's label.
async fn backup<T>(url: &str, copy: impl FnOnce() -> T) -> String {
    let mut session = PgConnection::connect(url).await.expect("connect");
    let version: String = sqlx::query_scalar("SHOW server_version_num")
        .fetch_one(&mut session)
        .await
        .expect("the version");
    let (start, stop) = match version.parse::<u32>() {
        Ok(number) if number < 150_000 => (
            "SELECT pg_start_backup('standby', true, false)",
            "SELECT labelfile FROM pg_stop_backup(false, false)",
        ),
        _ => (
            "SELECT pg_backup_start('standby', true)",
            "SELECT labelfile FROM pg_backup_stop(false)",
        ),
    };
    session.execute(start).await.expect("start a backup");
    copy();
    sqlx::query_scalar(stop)
        .fetch_one(&mut session)
        .await
        .expect("end the backup")
}

#[derive(Debug)]
struct Route {
    usual: u16,
    /// Where the next connections lead, one each.
    next: Vec<u16>,
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
            next: Vec::new(),
        }));
        let mut connections = JoinSet::new();
        let routes = Arc::clone(&route);
        connections.spawn(async move {
            let mut own = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let server = {
                    let mut route = routes.lock().expect("no panic in between");
                    route.next.pop().unwrap_or(route.usual)
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
    pub fn lead_next_to(&self, server: u16) {
        self.lead_next(1, server);
    }

    /// Leads this number of the next connections to another server.
    ///
    /// # Panics
    /// If another thread panicked while it held the route.
    pub fn lead_next(&self, connections: usize, server: u16) {
        let mut route = self.route.lock().expect("no panic in between");
        route.next = vec![server; connections];
    }

    /// How many of those connections have not come yet.
    ///
    /// # Panics
    /// If another thread panicked while it held the route.
    #[must_use]
    pub fn left(&self) -> usize {
        self.route.lock().expect("no panic in between").next.len()
    }

    /// Whether one of those connections has not come yet; if so, it goes to the usual server.
    #[must_use]
    pub fn take_back(&self) -> bool {
        self.take_all_back() > 0
    }

    /// How many of those connections have not come yet; they go to the usual server.
    ///
    /// # Panics
    /// If another thread panicked while it held the route.
    #[must_use]
    pub fn take_all_back(&self) -> usize {
        let mut route = self.route.lock().expect("no panic in between");
        std::mem::take(&mut route.next).len()
    }
}
