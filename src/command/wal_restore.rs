//! `barman-cloud-wal-restore`: arguments, their resolution, the run.

use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::exit::Exit;
use crate::command::launch::Context;
use crate::command::report::Failure;
use crate::command::value;
use clap::Parser;
use std::path::PathBuf;

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
pub struct WalRestoreArgs {
    /// Where WAL is archived: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "source_url")]
    pub source_url: String,
    /// The folder of the PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// The WAL file to fetch, PostgreSQL's %f
    #[arg(value_name = "wal_name")]
    pub wal_name: String,
    /// Where to put it, PostgreSQL's %p
    #[arg(value_name = "wal_dest")]
    pub wal_dest: PathBuf,
    /// Do not fall back to a partial segment
    #[arg(long)]
    pub no_partial: bool,
    /// How many segments to fetch at once, this one and the next; 0 and 1 mean only this one
    #[arg(short, long, value_name = "N", value_parser = value::any_integer, default_value = "0")]
    pub parallel: i64,
    /// Where segments wait that were fetched ahead
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/tmp/walrestore")]
    pub spool_dir: PathBuf,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub own: OwnArgs,
}

common_args!(WalRestoreArgs);

pub fn run(_: WalRestoreArgs, _: &Context) -> Result<(), Failure> {
    Err(Failure::new(Exit::Other, "this command is not part of this version yet"))
}
