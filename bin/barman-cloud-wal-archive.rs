//! `barman-cloud-wal-archive`.

use barman_cloud::command::{Program, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(Program::WalArchive, std::env::args_os().skip(1))
}
