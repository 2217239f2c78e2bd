//! The two versions: Barman's, which scripts ask for, and our own.

/// What `--version` answers with: callers probe for features by this number (CloudNativePG up
/// to 1.25 takes the last word of the output as a semantic version).
pub const BARMAN_VERSION: &str = "3.19.1";

/// Ours, shown by `--help` and by `barman-cloud --version`.
pub const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");
