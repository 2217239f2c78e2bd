//! What the integration tests stand on.
//!
//! ```text
//! commands   our binaries and Barman's, on any store
//! stores     file, S3, Azure, GCS: one fresh bucket each
//! cluster    PostgreSQL that is created, loaded, destroyed, recovered
//! emptied    a backup that has lost a tarball
//! peers      the kinds of stores, opened by the library itself
//! barman_server  a real Barman that looks after a cluster
//! bare_image a container with nothing in it but our program
//! fixtures   what Barman wrote, and WAL segments made of it
//! places     good and bad ones, and tables of exit codes;  web: answers that a test writes
//! front      S3 in one region, before the emulator
//! outside    what `scripts/test` has prepared: Barman, emulators
//! ec2        an instance with disks that are really there
//! snapshots  a snapshot backup without PostgreSQL;  volumes: what a cluster lies on then
//! process    run, outcome, peak memory;  scratch: folders and PostgreSQL's user
//! ```

// Each test file uses its part of this.
#![allow(dead_code)]

pub mod bare_image;
pub mod barman_server;
pub mod cluster;
pub mod commands;
pub mod ec2;
pub mod emptied;
pub mod fixtures;
pub mod front;
pub mod http;
pub mod outside;
pub mod peers;
pub mod places;
pub mod process;
pub mod scratch;
pub mod snapshots;
pub mod stores;
pub mod volumes;
pub mod wait;
pub mod web;
