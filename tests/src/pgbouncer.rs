//! A real PgBouncer in front of a database.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::binaries::Binaries;
use crate::postgres::free_port;

const MISSING: &str = "\
no `pgbouncer` was found on this machine, and these tests need one: `.ci/test` installs it,
or install it yourself, for example with `apt-get install pgbouncer`";

/// The number of ports that are tried.
const ATTEMPTS: u32 = 10;

/// A PgBouncer in transaction mode; stopped when this value goes.
pub struct PgBouncer {
    /// The database, through it.
    pub url: String,
    process: Child,
    port: u16,
    directory: TempDir,
}

impl PgBouncer {
    /// Puts one in front of the database of that URL, on `127.0.0.1`.
    #[must_use]
    pub fn before(url: &str) -> Self {
        // Another program may take the port first.
        (0..ATTEMPTS)
            .find_map(|_| Self::on(url, free_port()))
            .expect("pgbouncer starts on a free port")
    }

    /// Starts it on that port; `None` when it cannot listen there.
    fn on(url: &str, port: u16) -> Option<Self> {
        let (server, database) = url.rsplit_once('/').expect("a URL with a database");
        let server = server
            .rsplit('@')
            .next()
            .expect("a server")
            .replace("postgres://", "");
        let (host, server_port) = server.split_once(':').unwrap_or((&server, "5432"));
        let directory = tempfile::tempdir().expect("a directory");
        let binaries = Binaries::find();
        let (file, users) = (directory.path().join("ini"), directory.path().join("users"));
        let configuration = format!(
            "[databases]\n{database} = host={host} port={server_port} user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 12\n\
             server_reset_query = \nignore_startup_parameters = extra_float_digits\n\
             server_login_retry = 1\n{}",
            users.display(),
            without_prepared_statements()
        );
        std::fs::write(&file, configuration).expect("write the configuration");
        std::fs::write(&users, "\"postgres\" \"\"\n").expect("write the users");
        for path in [directory.path(), &file, &users] {
            binaries.own(path);
        }
        let process = start(&file, port)?;
        Some(Self {
            url: format!("postgres://postgres@127.0.0.1:{port}/{database}"),
            process,
            port,
            directory,
        })
    }

    /// Kills it and starts it again.
    pub fn restart(&mut self) {
        self.end("-KILL");
        let file = self.directory.path().join("ini");
        self.process = start(&file, self.port).expect("pgbouncer starts again");
    }

    fn end(&mut self, signal: &str) {
        // The process may be one of another user, which `Child::kill` may not end.
        let _ = Command::new("kill")
            .args([signal, &self.process.id().to_string()])
            .status();
        let _ = self.process.wait();
    }
}

/// Waits until it listens; `None` when it ended, even if another program answers on its port.
fn start(file: &Path, port: u16) -> Option<Child> {
    let mut process = Binaries::find()
        .command_at(program())
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start pgbouncer");
    let started = Instant::now();
    loop {
        let answers = TcpStream::connect(("127.0.0.1", port)).is_ok();
        let ended = process.try_wait().expect("check pgbouncer");
        if ended.is_some() {
            return None;
        }
        if answers {
            return Some(process);
        }
        let timeout = Duration::from_secs(30);
        assert!(started.elapsed() < timeout, "pgbouncer does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The setting by which it keeps no statements for its clients, if it can: it is the harder case for them.
fn without_prepared_statements() -> &'static str {
    // "PgBouncer 1.21.0" and more lines.
    let version = Command::new(program()).arg("--version").output();
    let version = version.expect("run pgbouncer --version").stdout;
    let version = String::from_utf8_lossy(&version).into_owned();
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(1), Some(21)) {
        return "";
    }
    "max_prepared_statements = 0\n"
}

fn program() -> &'static Path {
    ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
        .into_iter()
        .map(Path::new)
        .find(|program| program.exists())
        .unwrap_or_else(|| panic!("{MISSING}"))
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.end("-TERM");
    }
}
