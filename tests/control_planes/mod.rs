//! The control planes of two clouds in memory, for tests of volume snapshots: Azure Resource
//! Manager and Google Compute Engine, each with the token service of its virtual machines.
//!
//! ```text
//! azure    AzureFake: machines, disks, snapshots ── azure_routes, azure_disks, azure_bodies
//! google   GoogleFake: the same ─────────────────── google_routes, google_bodies
//! tokens   who may call: tokens that were given out, for this audience, not expired
//! model    what requests and answers may and must hold: the vendors' own models
//! server   HTTP, faults at chosen requests, the log of requests
//! ```
//!
//! They are strict in both directions where the vendors' machine-readable models are (methods,
//! versions, fields, types, enumerations), and where their documents are: path, content type and
//! length, token and its audience, error codes, names. Changes are long-running
//! operations which stay pending as long as the test wants. What they cannot prove: that the
//! real services answer so (they were written from the documents), timing, quotas, roles.

#![allow(clippy::disallowed_methods, reason = "a server outside the house has a clock of its own")]

pub mod azure;
mod azure_bodies;
mod azure_disks;
mod azure_routes;
mod azure_tokens;
pub mod google;
mod google_bodies;
mod google_routes;
pub mod model;
pub mod server;
mod tokens;
