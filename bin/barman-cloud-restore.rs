//! `barman-cloud-restore`.

use barman_cloud::command::{Program, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(Program::Restore, std::env::args_os().skip(1))
}
