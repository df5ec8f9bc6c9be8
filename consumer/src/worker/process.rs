//! Which process this is, and which build of its program it runs.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::{env, fs, process};

use crate::backend::{Process, sign_of_life};

/// How much of the executable is in memory at a time.
const BLOCK: usize = 1 << 18;

/// The longest name that a row keeps.
const LONGEST: usize = 200;

impl Process {
    /// This process, as a release that the program names, or as the one of its executable.
    pub(crate) fn current(release: Option<&str>) -> Self {
        Self {
            host: clean(&host()).into(),
            pid: i64::from(process::id()),
            release: release.map_or_else(executable, |release| clean(release).into()),
        }
    }
}

/// A name for one worker or command of this process, which no other one has.
pub(crate) fn unique_name() -> String {
    let (host, process, number) = (clean(&host()), process::id(), fastrand::u64(..));
    format!("{host}:{process} {number:016x}{}", sign_of_life())
}

/// The name of the executable with a hash of its content, which differs between builds. Read once, since a
/// deploy may replace the file while the process runs.
fn executable() -> Arc<str> {
    static RELEASE: OnceLock<Arc<str>> = OnceLock::new();
    let release = RELEASE.get_or_init(|| {
        let name = env::current_exe().ok();
        let name = name.as_deref().and_then(Path::file_stem);
        let name = name.map_or_else(|| "program".into(), |name| name.to_string_lossy());
        match open_executable().and_then(hash) {
            Ok(hash) => clean(&format!("{name}-{hash:016x}")).into(),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "the executable cannot be read, so all builds of this program count as one release; name each with `WorkerBuilder::release`"
                );
                clean(&name).into()
            }
        }
    });
    Arc::clone(release)
}

/// On Linux, this is the file that the process was started from, even if its path leads to another one by
/// now.
fn open_executable() -> io::Result<File> {
    File::open("/proc/self/exe").or_else(|_| File::open(env::current_exe()?))
}

/// A hash that is the same on every machine. It tells builds apart, but is not collision-resistant against an
/// attacker.
fn hash(mut file: impl Read) -> io::Result<u64> {
    let mut block = Vec::with_capacity(BLOCK);
    let mut hash = 0xcbf2_9ce4_8422_2325;
    loop {
        block.clear();
        let length = file.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        let (words, rest) = block.as_chunks();
        for word in words {
            hash = mix(hash, u64::from_le_bytes(*word));
        }
        for byte in rest {
            hash = mix(hash, u64::from(*byte));
        }
        if length < BLOCK {
            return Ok(hash);
        }
    }
}

fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

fn host() -> String {
    let of_kernel = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    of_kernel
        .or_else(|| env::var("HOSTNAME").ok())
        .or_else(|| env::var("COMPUTERNAME").ok())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// A name in one line that a database in any encoding can store.
fn clean(name: &str) -> String {
    let printable = |letter: char| {
        if matches!(letter, ' '..='~') {
            letter
        } else {
            '?'
        }
    };
    let name: String = name.trim().chars().map(printable).take(LONGEST).collect();
    if name.is_empty() {
        "unnamed".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Process, clean, hash};

    #[test]
    fn executables_that_differ_anywhere_are_different_releases() {
        let one = vec![7_u8; BLOCK + 12];
        for changed in [0, 9, BLOCK - 1, BLOCK, BLOCK + 11] {
            let mut other = one.clone();
            other[changed] = 8;
            assert_ne!(hash(&one[..]).unwrap(), hash(&other[..]).unwrap());
        }
        assert_ne!(hash(&one[1..]).unwrap(), hash(&one[..]).unwrap());
        assert_eq!(hash(&one[..]).unwrap(), hash(&one.clone()[..]).unwrap());
    }

    #[test]
    fn a_release_is_named_by_the_program_or_by_its_executable() {
        let named = Process::current(Some(" v2\nnext "));
        assert_eq!(&*named.release, "v2?next");
        let unnamed = Process::current(None);
        assert_eq!(unnamed.release, Process::current(None).release);
        let (_, hash) = unnamed.release.rsplit_once('-').unwrap();
        assert_eq!(hash.len(), 16, "{}", unnamed.release);
    }

    #[test]
    fn a_name_is_one_line_of_ascii() {
        assert_eq!(clean(""), "unnamed");
        assert_eq!(clean("größe"), "gr??e");
        assert_eq!(clean(&"x".repeat(300)).len(), 200);
    }
}
