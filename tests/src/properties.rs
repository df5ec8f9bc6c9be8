//! How often a property is tried, and text that is hard to store.

use proptest::test_runner::Config;

/// As many random cases as usual, or as `PROPTEST_CASES` says.
#[must_use]
pub fn cases(usual: u32) -> Config {
    let asked = Config::default();
    let is_asked = std::env::var_os("PROPTEST_CASES").is_some();
    Config {
        cases: if is_asked { asked.cases } else { usual },
        failure_persistence: None,
        max_shrink_iters: 200,
        ..asked
    }
}

/// Letters and digits that do not compress.
#[must_use]
pub fn noise(length: usize) -> String {
    let mut random = fastrand::Rng::with_seed(1);
    std::iter::repeat_with(|| random.alphanumeric())
        .take(length)
        .collect()
}
