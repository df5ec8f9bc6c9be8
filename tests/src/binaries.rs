//! Finds the programs of PostgreSQL on this machine, and runs them as a user who may.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MISSING: &str = "\
no PostgreSQL server was found on this machine (no `initdb` on the PATH, in /usr/lib/postgresql/*/bin,
/usr/pgsql-*/bin, or where `pg_config --bindir` points), and these tests need one.
  - `.ci/test` installs what is missing and runs all tests, or
  - install it yourself, for example `apt-get install postgresql`, or
  - name the directory of its programs in POSTGRES_PROGRAMS.
With DATABASE_URL most tests use that server; the others start one of their own in any case.";

/// The directory of the programs to use, instead of those that are found.
const CHOSEN: &str = "POSTGRES_PROGRAMS";

/// The programs of one installation.
pub(crate) struct Binaries {
    directory: PathBuf,
    user: Option<User>,
}

/// The user that the server runs as when the tests run as root, which it refuses.
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

impl Binaries {
    /// Finds an installation: the one that `POSTGRES_PROGRAMS` names, or else any.
    pub(crate) fn find() -> Self {
        let directory = match std::env::var_os(CHOSEN) {
            Some(chosen) => programs_in(Path::new(&chosen)).unwrap_or_else(|| {
                panic!(
                    "{CHOSEN} is {}, where there is no `initdb`",
                    chosen.display()
                )
            }),
            None => candidates()
                .iter()
                .find_map(|directory| programs_in(directory))
                .unwrap_or_else(|| panic!("{MISSING}")),
        };
        let user = (id(&["-u"]) == Some(0)).then(User::unprivileged);
        Self { directory, user }
    }

    /// A program of the installation, as the user who may run it.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.command_at(&self.directory.join(program))
    }

    /// Any program, as the user who may run those of the installation.
    pub(crate) fn command_at(&self, program: &Path) -> Command {
        let mut command = match &self.user {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new(user.switch().0);
                command.args(user.switch().1).arg(program);
                command
            }
        };
        // The user may have no access to root's directory.
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// The words that [`command`](Self::command) would run, for a shell.
    pub(crate) fn words(&self, program: &str) -> Vec<String> {
        let command = self.command(program);
        std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    /// Gives a directory to the user that the server runs as.
    pub(crate) fn own(&self, directory: &Path) {
        if let Some(user) = &self.user {
            chown(directory, Some(user.uid), Some(user.gid)).expect("chown the data directory");
        }
    }

    /// Whether the server can load a library of that name.
    pub(crate) fn has_library(&self, name: &str) -> bool {
        let file = format!("{name}.so");
        ["../lib", "../lib/postgresql"]
            .iter()
            .any(|beside| self.directory.join(beside).join(&file).is_file())
            || output(&self.directory.join("pg_config"), &["--pkglibdir"])
                .is_some_and(|directory| Path::new(&directory).join(&file).is_file())
    }
}

impl User {
    fn unprivileged() -> Self {
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| {
                Some(Self {
                    name: name.to_owned(),
                    uid: id(&["-u", name])?,
                    gid: id(&["-g", name])?,
                })
            })
            .expect("PostgreSQL refuses to run as root, and there is no user `postgres`")
    }

    fn switch(&self) -> (&'static str, Vec<String>) {
        if exists("setpriv") {
            let (uid, gid) = (self.uid, self.gid);
            let ids = [format!("--reuid={uid}"), format!("--regid={gid}")];
            (
                "setpriv",
                [&ids[..], &["--clear-groups".to_owned()]].concat(),
            )
        } else {
            let words = ["-u", &self.name, "--"].map(str::to_owned);
            ("runuser", words.to_vec())
        }
    }
}

/// The directory itself if it has the programs. A link on the PATH may lead to where the libraries are
/// too.
fn programs_in(directory: &Path) -> Option<PathBuf> {
    let initdb = std::fs::canonicalize(directory.join("initdb")).ok()?;
    Some(initdb.parent()?.to_owned())
}

/// Possible installations: on the PATH first, then the newest in the usual directories.
fn candidates() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = std::env::split_paths(&path).collect();
    found.extend(versions("/usr/lib/postgresql", ""));
    found.extend(versions("/usr", "pgsql-"));
    found.extend(versions("/opt/homebrew/opt", "postgresql@"));
    found.push("/usr/local/pgsql/bin".into());
    found.extend(output(Path::new("pg_config"), &["--bindir"]).map(PathBuf::from));
    found
}

/// `parent/prefix<version>/bin`, the highest version first.
fn versions(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

fn exists(program: &str) -> bool {
    output(Path::new(program), &["--version"]).is_some()
}

fn id(arguments: &[&str]) -> Option<u32> {
    output(Path::new("id"), arguments)?.parse().ok()
}

fn output(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
