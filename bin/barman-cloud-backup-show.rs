//! `barman-cloud-backup-show`.

use barman_cloud::command::{Program, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(Program::BackupShow, std::env::args_os().skip(1))
}
