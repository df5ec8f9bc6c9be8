//! Whether a process on this machine is still alive, according to what it wrote about itself.
//!
//! Only Linux shows this: a process is identified by the boot of the kernel, the namespace of its process id,
//! its process id, and its start time. Nothing is known about processes elsewhere.

use std::fs;
use std::process;

/// What this process writes about itself at the end of a name; empty where no one could tell.
pub(crate) fn sign_of_life() -> String {
    let number = process::id();
    match (machine(), started(number)) {
        (Some(machine), Some(started)) => format!(" [{machine} {number} {started}]"),
        _ => String::new(),
    }
}

/// Whether the process that wrote a name has ended for certain.
pub(super) fn has_ended(name: &str) -> bool {
    let sign = name.rsplit_once('[').map(|(_, sign)| sign);
    let Some(sign) = sign.and_then(|sign| sign.strip_suffix(']')) else {
        return false;
    };
    let parts: Vec<&str> = sign.split(' ').collect();
    let [boot, namespace, number, start] = parts.as_slice() else {
        return false;
    };
    let is_here = machine().is_some_and(|machine| machine == format!("{boot} {namespace}"));
    // Where processes of other users are hidden, a process that is not shown may be alive.
    let shows_all = started(1).is_some();
    let Ok(number) = number.parse() else {
        return false;
    };
    is_here && shows_all && started(number).as_deref() != Some(*start)
}

/// The boot of the kernel, and the namespace of the numbers of processes; `None` where `/proc` shows the
/// numbers of another one.
fn machine() -> Option<String> {
    let own = fs::read_link("/proc/self").ok()?;
    if own.to_str()?.parse() != Ok(process::id()) {
        return None;
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    let namespace = namespace.to_str()?;
    let namespace = namespace.strip_prefix("pid:[")?.strip_suffix(']')?;
    Some(format!("{} {namespace}", boot.trim()))
}

/// The time at which a process started, in ticks since the boot; `None` if it has ended.
fn started(process: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name of the program, in parentheses, may contain anything.
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    let state = fields.next()?;
    // Killed, and its parent has not looked yet.
    let is_dead = matches!(state, "Z" | "X");
    // The state is the third field, and the time the 22nd.
    let ticks = fields.nth(18)?;
    (!is_dead).then(|| ticks.to_owned())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn this_process_is_alive() {
        let name = format!("lane 0 of a host:1 00{}", sign_of_life());
        assert!(name.ends_with(']'), "{name}");
        assert!(!has_ended(&name), "{name}");
    }

    #[test]
    fn a_process_that_was_killed_has_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (machine, start) = (machine().unwrap(), started(child.id()).unwrap());
        let name = format!("lane [{machine} {} {start}]", child.id());
        assert!(!has_ended(&name), "{name}");
        child.kill().unwrap();
        // SIGKILL is pending until the process runs again.
        while started(child.id()).is_some() {
            std::thread::yield_now();
        }
        assert!(has_ended(&name), "a zombie: {name}");
        child.wait().unwrap();
        assert!(has_ended(&name), "{name}");
    }

    #[test]
    fn another_process_with_the_number_is_another() {
        let machine = machine().unwrap();
        let name = format!("lane [{machine} {} 1]", process::id());
        assert!(has_ended(&name), "{name}");
    }

    #[test]
    fn nothing_is_known_of_other_machines_or_of_unsigned_names() {
        let number = process::id();
        for name in [
            format!("lane [another-boot 4026531836 {number} 1]"),
            format!("lane [1 {number}]"),
            "lane 0 of host:1 00ff".to_owned(),
            "waiting: 0 to 1024".to_owned(),
            "[]".to_owned(),
        ] {
            assert!(!has_ended(&name), "{name}");
        }
    }
}
