//! `barman-cloud-check-wal-archive`: arguments, their resolution, the run.

use crate::command::args::{CloudArgs, OwnArgs, TalkArgs, common_args};
use crate::command::exit::Exit;
use crate::command::launch::Context;
use crate::command::report::Failure;
use crate::command::value;
use clap::Parser;

/// The command line as typed.
#[derive(Parser, Clone, Debug)]
pub struct CheckWalArchiveArgs {
    /// Where WAL shall be archived: s3://bucket/prefix, an Azure or Google URL, file:///path
    #[arg(value_name = "destination_url")]
    pub destination_url: String,
    /// The folder of the PostgreSQL server below the URL
    #[arg(value_name = "server_name")]
    pub server_name: String,
    /// Complain only about WAL of this timeline and later ones
    #[arg(long, value_name = "N", value_parser = value::positive)]
    pub timeline: Option<u32>,
    #[command(flatten)]
    pub talk: TalkArgs,
    #[command(flatten)]
    pub cloud: CloudArgs,
    #[command(flatten)]
    pub own: OwnArgs,
}

common_args!(CheckWalArchiveArgs);

pub fn run(_: CheckWalArchiveArgs, _: &Context) -> Result<(), Failure> {
    Err(Failure::new(Exit::Other, "this command is not part of this version yet"))
}
