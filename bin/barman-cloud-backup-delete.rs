//! `barman-cloud-backup-delete`.

use barman_cloud::command::{Program, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(Program::BackupDelete, std::env::args_os().skip(1))
}
