//! PostgreSQL backup to object storage: the library behind the `barman-cloud-*` commands.
//!
//! The rooms, floor by floor. A room uses only rooms of lower floors (and, where
//! `tests/it/tidy.rs` says so, of its own); verbs never import each other.
//!
//! ```text
//! command                                       args → options; report; exit code
//! backup  restore  wal_archive  retention       verbs
//! catalog                                       what lies where in the bucket
//! postgres  disk  store  snapshot  hook         the world
//! cloud                                         identity, endpoint, TLS
//! tarball  codec  flow                          bytes → bytes; how much at once
//! wal  pgdata  monitor                          values
//! ```

// The command floor: the only one that knows argv, stdout and exit codes.
pub mod command;

// Every parser as a function of bytes, for fuzzing; no part of a command.
#[doc(hidden)]
pub mod fuzzing;

// Verbs: one story each.
pub mod backup;
pub mod restore;
pub mod retention;
pub mod wal_archive;

// What lies where in the bucket, and what it means.
pub mod catalog;

// The world: one room per outside thing.
pub mod disk;
pub mod hook;
pub mod postgres;
pub mod snapshot;
pub mod store;

// Identity, endpoint, TLS, request policy.
pub mod cloud;

// Bytes to bytes, and how much at once.
pub mod codec;
pub mod flow;
pub mod tarball;

// The verbs over a store that fails as a seed says, beside a model of what must be true.
#[cfg(test)]
pub mod simulation;

// Values: no I/O, no async.
pub mod monitor;
pub mod pgdata;
pub mod wal;
