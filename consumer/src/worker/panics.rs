//! Warns of policies that a program cannot apply to panics.

use crate::contract::OnError;

/// Whether a panic ends the process. Cargo builds all crates of a program with one `panic` setting, so
/// this crate's is the program's.
const ABORTS: bool = cfg!(panic = "abort");

/// Warns of each of these consumers whose handler would not get its policy.
pub(super) fn warn_of_aborts<'a>(consumers: impl Iterator<Item = (&'a str, OnError)>) {
    for (consumer, policy) in ignored(ABORTS, consumers) {
        tracing::warn!(
            consumer,
            "the program is built with `panic = \"abort\"`, so a handler that panics ends the process, again at each restart, and `on_error = \"{policy}\"` is never applied; remove the setting from the Cargo profile, or return errors instead of panicking"
        );
    }
}

/// The consumers whose policy a panic cannot reach, with the name of the policy. `stop` is left out:
/// the process stops as well.
fn ignored<'a>(
    aborts: bool,
    consumers: impl Iterator<Item = (&'a str, OnError)>,
) -> impl Iterator<Item = (&'a str, &'static str)> {
    let policy = move |(consumer, policy)| match policy {
        OnError::Park if aborts => Some((consumer, "park")),
        OnError::Skip if aborts => Some((consumer, "skip")),
        _ => None,
    };
    consumers.filter_map(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_policy_that_a_panic_cannot_reach_is_warned_of() {
        let consumers = [
            ("stops", OnError::Stop),
            ("parks", OnError::Park),
            ("skips", OnError::Skip),
        ];
        let warned: Vec<_> = ignored(true, consumers.into_iter()).collect();
        assert_eq!(warned, [("parks", "park"), ("skips", "skip")]);
        assert_eq!(ignored(false, consumers.into_iter()).count(), 0);
    }
}
