//! `barman-cloud-backup`.

use barman_cloud::command::{Program, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(Program::Backup, std::env::args_os().skip(1))
}
