//! Temporary Postgres servers and databases.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use consumer::PgEventStore;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::binaries::Binaries;

/// A server for the tests, which is removed however they end.
pub struct TestPostgres {
    server: Server,
}

enum Server {
    Own(Cluster),
    /// `DATABASE_URL`, without its database.
    External(String),
}

struct Cluster {
    binaries: Binaries,
    directory: PathBuf,
    port: u16,
    watchdog: Option<Child>,
}

/// The settings of a server that is yet to start.
#[derive(Default)]
pub struct PostgresBuilder {
    settings: Vec<(String, String)>,
}

impl PostgresBuilder {
    /// Adds a setting of `postgresql.conf`; a later one wins.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the cluster and starts the server.
    #[must_use]
    pub fn start(self) -> TestPostgres {
        let server = Server::Own(Cluster::create(&self.settings));
        TestPostgres { server }
    }
}

impl TestPostgres {
    /// The server of this test binary, started when it is first asked for; the one of
    /// `DATABASE_URL` if that is set.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceLock<TestPostgres> = OnceLock::new();
        tokio::task::spawn_blocking(|| SHARED.get_or_init(Self::start_shared))
            .await
            .expect("the shared Postgres server")
    }

    fn start_shared() -> Self {
        match std::env::var("DATABASE_URL") {
            Ok(url) if url.starts_with("postgres") => Self {
                server: Server::External(without_database(&url)),
            },
            _ => Self::builder().start(),
        }
    }

    /// A private server, which a test may crash and start again.
    #[must_use]
    pub fn builder() -> PostgresBuilder {
        PostgresBuilder::default()
    }

    /// The URL of a database on this server.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        match &self.server {
            Server::Own(cluster) => {
                format!("postgres://postgres@127.0.0.1:{}/{database}", cluster.port)
            }
            Server::External(server) => format!("{server}/{database}"),
        }
    }

    /// Makes an empty database.
    pub async fn database(&self) -> PgDatabase {
        let name = format!("test_{}", Uuid::new_v4().simple());
        self.execute(&format!("CREATE DATABASE {name}")).await;
        let url = self.url(&name);
        let pool = PgPoolOptions::new()
            .max_connections(20)
            .connect_lazy(&url)
            .expect("our own URL");
        let to_drop = matches!(self.server, Server::External(_)).then(|| self.url("postgres"));
        PgDatabase {
            url,
            name,
            pool,
            to_drop,
        }
    }

    /// Runs a statement in the database `postgres`, outside any transaction.
    pub async fn execute(&self, sql: &str) {
        execute(&self.url("postgres"), sql).await;
    }

    /// Stops the server as a crash does, without a checkpoint and without ending its sessions.
    pub fn crash(&self) {
        self.cluster().control(&["stop", "--mode=immediate"]);
    }

    /// Starts the server again, on the same port.
    pub fn start(&self) {
        self.cluster().start();
    }

    /// Starts the server again as a standby, which only `pg_promote()` makes a primary.
    pub fn start_as_standby(&self) {
        let signal = self.cluster().data().join("standby.signal");
        std::fs::write(&signal, "").expect("write the signal file");
        self.cluster().binaries.own(&signal);
        self.start();
    }

    /// The TCP port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.cluster().port
    }

    /// The directory of the server's Unix socket.
    #[must_use]
    pub fn socket_directory(&self) -> &Path {
        &self.cluster().directory
    }

    /// The directory of its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.cluster().data()
    }

    /// The log of the server so far.
    #[must_use]
    pub fn log(&self) -> String {
        let log = std::fs::read(self.cluster().log_file()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn cluster(&self) -> &Cluster {
        match &self.server {
            Server::Own(cluster) => cluster,
            Server::External(_) => {
                panic!("DATABASE_URL names a server that the tests did not start")
            }
        }
    }
}

impl Cluster {
    fn create(settings: &[(String, String)]) -> Self {
        let binaries = Binaries::find();
        // Short, since the path of a Unix socket is limited to 107 bytes.
        let directory = PathBuf::from(format!("/tmp/consumer-{}", short_id()));
        std::fs::create_dir(&directory).expect("make a directory for the server");
        let mut cluster = Self {
            binaries,
            directory,
            port: 0,
            watchdog: None,
        };
        // Before anything is started, so that nothing is ever left behind.
        cluster.watchdog = Some(cluster.watch());
        cluster.binaries.own(&cluster.directory);
        cluster.initialize();
        cluster.start_on_a_free_port(settings);
        cluster
    }

    /// Starts a process that removes the server when this one ends, however it ends: its standard
    /// input is a pipe, which the kernel closes once this process and all holders of the
    /// [`lifeline`](Self::lifeline) are gone.
    fn watch(&self) -> Child {
        let script = "trap '' INT TERM HUP; read -r _; dir=$1; shift; \"$@\"; rm -rf \"$dir\"";
        let stop = self.binaries.words("pg_ctl");
        Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&self.directory)
            .args(stop)
            .arg("stop")
            .arg("--mode=immediate")
            .arg("--pgdata")
            .arg(self.data())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Out of reach of a Ctrl-C that ends the tests.
            .process_group(0)
            .spawn()
            .expect("start the watchdog")
    }

    /// The standard input of the programs that make and start the server. They outlive this process
    /// when it is killed, and the directory must not be removed while they run. The server itself
    /// does not inherit it.
    fn lifeline(&self) -> Stdio {
        let pipe = self.watchdog.as_ref().and_then(|dog| dog.stdin.as_ref());
        let pipe = pipe.expect("the watchdog runs").as_fd();
        pipe.try_clone_to_owned().expect("copy the pipe").into()
    }

    fn initialize(&self) {
        let mut initdb = self.binaries.command("initdb");
        initdb.stdin(self.lifeline());
        initdb.arg("--pgdata").arg(self.data()).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]);
        succeed(initdb);
    }

    fn start_on_a_free_port(&mut self, settings: &[(String, String)]) {
        const ATTEMPTS: u32 = 10;
        for attempt in 1.. {
            // Another program may take the port first.
            self.port = free_port();
            self.configure(settings);
            let output = self.start_command().output().expect("run pg_ctl");
            if output.status.success() {
                return;
            }
            assert!(
                attempt < ATTEMPTS,
                "Postgres does not start:\n{}",
                self.read_log()
            );
        }
    }

    fn configure(&self, settings: &[(String, String)]) {
        let mut defaults = vec![
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", self.port.to_string()),
            (
                "unix_socket_directories",
                self.directory.display().to_string(),
            ),
            ("max_connections", "200".to_owned()),
            ("max_prepared_transactions", "50".to_owned()),
            ("timezone", "UTC".to_owned()),
            // A crash of the server alone loses nothing without it.
            ("fsync", "off".to_owned()),
        ];
        if self.binaries.has_library("pg_stat_statements") {
            defaults.push(("shared_preload_libraries", "pg_stat_statements".to_owned()));
        }
        let defaults = defaults
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        let lines: Vec<String> = defaults
            .chain(settings.iter().cloned())
            .map(|(name, value)| format!("{name} = '{value}'\n"))
            .collect();
        std::fs::write(self.data().join("postgresql.auto.conf"), lines.concat())
            .expect("write the configuration");
    }

    /// Starts the server on its old port, which another program may hold for a moment.
    fn start(&self) {
        const ATTEMPTS: u32 = 20;
        for _ in 1..ATTEMPTS {
            let output = self.start_command().output().expect("run pg_ctl");
            if output.status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        panic!("Postgres does not start again:\n{}", self.read_log());
    }

    fn start_command(&self) -> Command {
        let mut command = self.control_command();
        // The server keeps inherited files open as long as it runs, so it must not inherit a pipe.
        command
            .args(["start", "--silent"])
            .stdin(self.lifeline())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.arg("--log").arg(self.log_file());
        command
    }

    fn control(&self, arguments: &[&str]) {
        let mut command = self.control_command();
        command.args(arguments);
        succeed(command);
    }

    fn control_command(&self) -> Command {
        let mut command = self.binaries.command("pg_ctl");
        command.arg("--wait").arg("--pgdata").arg(self.data());
        command
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn read_log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Drop for Cluster {
    /// Lets the watchdog remove the server now, and waits for it.
    fn drop(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.stdin.take());
            let _ = watchdog.wait();
        }
    }
}

/// A database of one test.
pub struct PgDatabase {
    /// Its URL.
    pub url: String,
    /// Its name.
    pub name: String,
    /// Up to 20 connections to it.
    pub pool: PgPool,
    /// The database to connect to for dropping it; a server of our own is removed as a whole.
    to_drop: Option<String>,
}

impl PgDatabase {
    /// A store in this database, with its tables.
    pub async fn store(&self) -> PgEventStore {
        let store = PgEventStore::new(self.pool.clone());
        store.migrate().await.expect("migrate");
        store
    }
}

impl Drop for PgDatabase {
    fn drop(&mut self) {
        let Some(url) = self.to_drop.take() else {
            return;
        };
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A runtime of its own: the test's may be at its end.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(execute(&url, &sql));
        });
        let _ = dropping.join();
    }
}

async fn execute(url: &str, sql: &str) {
    let mut conn = PgConnection::connect(url)
        .await
        .expect("connect to Postgres");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut conn)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    conn.close().await.expect("close the connection");
}

/// The server's part of a URL.
fn without_database(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("DATABASE_URL is a URL");
    let server = rest.split('/').next().unwrap_or(rest);
    format!("{scheme}://{server}")
}

/// A port that is free at the moment.
///
/// It is below the range for clients (from 32,768 or 49,152 on), whose ports may be taken while a
/// server is down. Another server may still take it first, so the caller retries.
pub fn free_port() -> u16 {
    const SERVERS: std::ops::Range<u16> = 10_000..32_000;
    loop {
        let port = fastrand::u16(SERVERS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn short_id() -> String {
    Uuid::new_v4().simple().to_string()[..12].to_owned()
}

fn succeed(mut command: Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}
