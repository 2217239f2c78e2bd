//! What lies outside of the repository: `scripts/test` prepares it and names it in the environment.

use std::io::Write;
use std::path::PathBuf;

/// Folder of Barman 3.19.1's `barman-cloud-*` commands.
pub const BARMAN: &str = "BARMAN_CLOUD_TEST_BARMAN";
/// An S3 server that any key may use (LocalStack).
pub const S3: &str = "BARMAN_CLOUD_TEST_S3_ENDPOINT";
/// An S3 server that checks signatures and checksums (versitygw), access key `testtest`. Optional.
pub const S3_STRICT: &str = "BARMAN_CLOUD_TEST_S3_STRICT_ENDPOINT";
/// Azurite's blob service.
pub const AZURE: &str = "BARMAN_CLOUD_TEST_AZURE_ENDPOINT";
/// Folder of PostgreSQL's programs; searched for when unset.
pub const POSTGRES: &str = "BARMAN_CLOUD_TEST_POSTGRES";
/// Folders of further major versions' programs, joined by `:`. Optional.
pub const MORE_POSTGRES: &str = "BARMAN_CLOUD_TEST_POSTGRES_MORE";

/// One variable; empty counts as unset.
#[expect(clippy::disallowed_methods, reason = "tests are told about emulators this way")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What a variable names; when it is unset the test cannot run: a failure in CI, elsewhere
/// `None` and a line on stderr that the test runner does not swallow.
pub fn required(name: &str, what: &str) -> Option<String> {
    let value = variable(name);
    if value.is_none() {
        skip(&format!("{what} is missing (variable {name}; scripts/test sets it)"));
    }
    value
}

/// As [`required`], for what CI may lack too.
pub fn optional(name: &str, what: &str) -> Option<String> {
    let value = variable(name);
    if value.is_none() {
        say(&format!("{what} is missing (variable {name}; scripts/test sets it when it can)"));
    }
    value
}

/// Fails in CI, says why the calling test is skipped elsewhere.
pub fn skip(reason: &str) {
    assert!(variable("CI").is_none(), "{reason}");
    say(reason);
}

/// Says why the calling test cannot run on this machine. No failure, not even in CI: a container
/// without the right to mount is none of our business.
pub fn not_here(reason: &str) {
    say(reason);
}

fn say(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let line = format!("SKIPPED {test}: {reason}\n");
    // Written past libtest's capture, so that a skipped test cannot pass for a green one.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The folder of `initdb`, `pg_ctl`, `psql`, `pgbench`.
pub fn postgres_programs() -> PathBuf {
    if let Some(folder) = variable(POSTGRES) {
        return PathBuf::from(folder);
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    found.retain(|folder| folder.join("initdb").exists());
    found.sort();
    found.pop().expect("PostgreSQL is installed (scripts/test installs it)")
}
