//! The nine commands: argv in, exit code out.
//!
//! ```text
//! words ─ argv ─ clap ─ Args ─ resolve ─ Options ─ verb ─ report ─ exit code
//! ```
//!
//! The only room that knows argv, the environment, stdout, stderr and exit codes. Each command
//! has its file; what commands share: `args` (options), `value` (what options are made of),
//! `argv` (argparse's habits), `usage`, `report`, `log`, `exit`, `runtime`, `terminal`.

mod archive_recovery;
mod args;
mod argv;
mod backup;
mod backup_delete;
mod backup_keep;
mod backup_list;
mod backup_show;
mod check_wal_archive;
#[cfg(test)]
mod compatibility;
mod core_dumps;
mod deleting;
mod environment;
mod exit;
mod failure;
mod guard;
mod keeping;
mod launch;
mod listing;
mod log;
mod one_of;
mod perform;
mod place;
mod program;
mod python_json;
pub(crate) mod recovery_time;
mod redact;
mod report;
mod restore;
mod runtime;
mod showing;
mod snapshots;
mod terminal;
mod usage;
pub(crate) mod value;
mod version;
mod wal_archive;
mod wal_restore;

pub use program::Program;

use crate::command::exit::Exit;
use crate::command::guard::guarded;
use crate::command::launch::launch;
use crate::command::version::{BARMAN_VERSION, OWN_VERSION};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// Runs one command with the words behind its name.
pub fn run(program: Program, words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words = words.into_iter().collect();
    guarded(|| exit_of(program, words)).into()
}

fn exit_of(program: Program, words: Vec<OsString>) -> Exit {
    match program {
        Program::Backup => launch(program, words, backup::run),
        Program::BackupDelete => launch(program, words, backup_delete::run),
        Program::BackupKeep => launch(program, words, backup_keep::run),
        Program::BackupList => launch(program, words, backup_list::run),
        Program::BackupShow => launch(program, words, backup_show::run),
        Program::CheckWalArchive => launch(program, words, check_wal_archive::run),
        Program::Restore => launch(program, words, restore::run),
        Program::WalArchive => launch(program, words, wal_archive::run),
        Program::WalRestore => archive_recovery::of_usage(launch(program, words, wal_restore::run)),
    }
}

/// Runs the command that the program's own name says, or else its first word.
pub fn run_by_name(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = argv.into_iter();
    let own_name = words.next().unwrap_or_default();
    let own_name = Path::new(&own_name).file_name().and_then(|name| name.to_str());
    if let Some(program) = own_name.and_then(Program::parse) {
        return run(program, words);
    }
    let first = words.next().unwrap_or_default();
    match first.to_str() {
        Some("--help") => overview(Exit::Success).into(),
        Some("--version" | "-V") => launch::answer(&format!("barman-cloud {OWN_VERSION}\n")).into(),
        first => match first.and_then(Program::parse) {
            Some(program) => run(program, words),
            None => archive_recovery::of_usage(overview(Exit::Input)).into(),
        },
    }
}

/// All commands in one screen: on stdout when asked for, on stderr as an error.
fn overview(exit: Exit) -> Exit {
    let mut text = String::from("usage: barman-cloud COMMAND [options] ...\n\nCommands:\n");
    for program in Program::ALL {
        let short = program.name().trim_start_matches("barman-cloud-");
        text.push_str(&format!("  {short:<20} {}\n", program.summary()));
    }
    text.push_str(&format!(
        "\nCommands take the options of Barman {BARMAN_VERSION}'s barman-cloud-*, and answer to\n\
         those names too. This is barman-cloud {OWN_VERSION}.\n"
    ));
    match exit {
        Exit::Success => launch::answer(&text),
        _ => {
            report::complain(&text);
            exit
        }
    }
}
