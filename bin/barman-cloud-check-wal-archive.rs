//! `barman-cloud-check-wal-archive`.

use barman_cloud::command::{Program, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(Program::CheckWalArchive, std::env::args_os().skip(1))
}
