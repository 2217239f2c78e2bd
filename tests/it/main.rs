//! Integration tests: real processes, real PostgreSQL, real stores, real Barman.
//!
//! One binary, one file per subject. `scripts/test` prepares what they need and runs them;
//! started by hand, a test whose emulator or Barman is missing says so on stderr and passes
//! (in CI it fails).

mod backup_wal;
mod barman_hooks;
mod certificates;
mod cli;
mod cloudnative_pg;
mod connection;
#[path = "../control_planes/mod.rs"]
#[allow(dead_code, reason = "tests of one cloud use their part")]
mod control_planes;
mod control_planes_strict;
mod crash_campaign;
mod exit_codes;
mod exit_codes_content;
mod fuzzing;
#[path = "../gcs_fake/mod.rs"]
#[allow(dead_code, reason = "faults and counts are there for tests to come")]
mod gcs_fake;
mod identities;
mod interop_barman;
mod option_effects;
mod option_results;
mod pgdata_files;
mod postgres_session;
mod postgres_tls;
mod postgres_versions;
mod restore_backup;
mod restore_fixtures;
mod restore_killed;
mod retention;
mod round_trip;
mod s3_regions;
mod secrets;
mod snapshot_aws;
mod snapshot_azure;
mod snapshot_azure_volumes;
mod snapshot_ec2;
mod snapshot_google;
mod snapshot_stories;
mod stopping;
mod store_conformance;
mod store_doubt;
mod store_faults;
mod store_features;
mod support;
mod tidy;
mod unfit_settings;
mod wal_adopt;
mod wal_ahead;
mod wal_codecs;
mod wal_faults;
mod wal_recovery;
mod wal_stores;
