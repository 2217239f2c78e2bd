//! `barman-cloud-backup-keep`.

use barman_cloud::command::{Program, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(Program::BackupKeep, std::env::args_os().skip(1))
}
