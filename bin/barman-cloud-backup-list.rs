//! `barman-cloud-backup-list`.

use barman_cloud::command::{Program, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(Program::BackupList, std::env::args_os().skip(1))
}
