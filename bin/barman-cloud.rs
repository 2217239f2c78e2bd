//! All commands behind one name: by the name of the link it is called through, or its first word.

use barman_cloud::command::run_by_name;
use std::process::ExitCode;

fn main() -> ExitCode {
    run_by_name(std::env::args_os())
}
