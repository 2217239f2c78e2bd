//! Whether whoever calls `wal-restore` would end a recovery at its failure.
//!
//! PostgreSQL runs `restore_command` in the data directory. In archive recovery it takes exit
//! codes 1 to 125 for the end of the archive and promotes, so that WAL which is archived but could
//! not be fetched would be lost; a code above makes it stop. A standby asks again, as other callers
//! do that know the codes of the contract.
//!
//! | There | Means |
//! | --- | --- |
//! | `standby.signal` | a standby, whatever else is there (PostgreSQL 12 and later) |
//! | `recovery.signal` | archive recovery |
//! | `recovery.conf` | archive recovery, or with `standby_mode` a standby (before 12) |
//!
//! Source: `readRecoverySignalFile`, PostgreSQL src/backend/access/transam/xlogrecovery.c;
//! `RestoreArchivedFile`, xlogarchive.c (`WEXITSTATUS(rc) > 125` up to 11,
//! `wait_result_is_any_signal` from 12 on).

use crate::command::exit::Exit;
use crate::command::report::{self, Failure};
use std::path::Path;

/// The file that says that a server in archive recovery runs in `directory`.
pub fn signal_in(directory: &Path) -> Option<&'static str> {
    let there = |name: &str| directory.join(name).exists();
    if !there("global/pg_control") || there("standby.signal") {
        return None;
    }
    if there("recovery.signal") {
        return Some("recovery.signal");
    }
    let settings = std::fs::read(directory.join("recovery.conf")).ok()?;
    let standby = standby_mode(&String::from_utf8_lossy(&settings));
    (!standby).then_some("recovery.conf")
}

/// Gives a failure, unless a signal caused it, the code that makes PostgreSQL stop, and says why.
pub fn stop_recovery(failure: Failure, signal: &str) -> Failure {
    if failure.exit.number() > POSTGRESQL_GOES_ON_MAX {
        return failure;
    }
    let reason = reason(failure.exit, signal);
    let detail = match failure.detail {
        Some(detail) => format!("{detail} {reason}"),
        None => reason,
    };
    Failure { exit: Exit::RecoveryMustStop, detail: Some(detail), ..failure }
}

/// The same for a command line that was not understood, which has told its error already.
pub fn of_usage(exit: Exit) -> Exit {
    match (exit, signal_in(Path::new("."))) {
        (Exit::Input, Some(signal)) => {
            report::complain(&format!("DETAIL: {}\n", reason(exit, signal)));
            Exit::RecoveryMustStop
        }
        _ => exit,
    }
}

fn reason(exit: Exit, signal: &str) -> String {
    format!(
        "PostgreSQL is in archive recovery here (\"{signal}\"): it would take exit code {} for the \
         end of the archive and promote without what is still there. Exit code {} makes it stop.",
        exit.number(),
        Exit::RecoveryMustStop.number(),
    )
}

/// The highest code that PostgreSQL takes for "not available".
const POSTGRESQL_GOES_ON_MAX: u8 = 125;

/// `standby_mode` as the last line of `recovery.conf` that sets it says.
///
/// Source: `ParseConfigFp` and `parse_bool_with_len`, PostgreSQL 11 src/backend/utils.
fn standby_mode(settings: &str) -> bool {
    let mut values = settings.lines().filter_map(|line| {
        let line = line.trim();
        let end = line.find(|c: char| c == '=' || c.is_whitespace())?;
        let (name, rest) = line.split_at(end);
        let rest = rest.trim_start().trim_start_matches('=').trim_start();
        let word = rest.split(|c: char| c == '#' || c.is_whitespace()).next()?;
        name.eq_ignore_ascii_case("standby_mode").then(|| word.trim_matches('\'').to_lowercase())
    });
    values.next_back().is_some_and(|value| {
        let spelled = |word: &str| !value.is_empty() && word.starts_with(&value);
        value == "1" || value == "on" || spelled("true") || spelled("yes")
    })
}

#[cfg(test)]
mod tests {
    use crate::command::archive_recovery::{signal_in, standby_mode, stop_recovery};
    use crate::command::exit::Exit;
    use crate::command::report::Failure;
    use std::fs;

    fn found(files: &[(&str, &str)]) -> Option<&'static str> {
        let directory = tempfile::tempdir().expect("directory");
        fs::create_dir(directory.path().join("global")).expect("create");
        for (name, content) in files {
            fs::write(directory.path().join(name), content).expect("write");
        }
        signal_in(directory.path())
    }

    #[test]
    fn only_a_data_directory_in_archive_recovery_is_one() {
        let data = ("global/pg_control", "x");
        assert_eq!(found(&[data]), None);
        assert_eq!(found(&[data, ("recovery.signal", "")]), Some("recovery.signal"));
        assert_eq!(found(&[data, ("standby.signal", "")]), None);
        assert_eq!(found(&[data, ("recovery.signal", ""), ("standby.signal", "")]), None);
        assert_eq!(found(&[("recovery.signal", "")]), None, "somebody else's directory");
    }

    #[test]
    fn before_postgresql_12_recovery_conf_tells_a_standby_from_archive_recovery() {
        let data = ("global/pg_control", "x");
        let conf = |text| found(&[data, ("recovery.conf", text)]);
        assert_eq!(conf("restore_command = 'x'\n"), Some("recovery.conf"));
        assert_eq!(conf("standby_mode = off"), Some("recovery.conf"));
        assert_eq!(conf("standby_mode = 'on'\nrestore_command = 'x'\n"), None);
    }

    #[test]
    fn standby_mode_is_read_as_postgresql_reads_it() {
        for on in [
            "standby_mode = 'on'",
            " STANDBY_MODE='TRUE' # yes",
            "standby_mode yes",
            "standby_mode=1",
            "standby_mode = 't'",
            "standby_mode = off\nstandby_mode = on",
        ] {
            assert!(standby_mode(on), "{on}");
        }
        for off in
            ["", "#standby_mode = on", "standby_mode = ''", "standby_mode = on\nstandby_mode = off"]
        {
            assert!(!standby_mode(off), "{off}");
        }
    }

    #[test]
    fn a_failure_gets_a_code_above_125_and_a_reason_unless_a_signal_gave_it_one() {
        let failure = Failure::new(Exit::Other, "could not read");
        let stopped = stop_recovery(failure, "recovery.signal");
        assert!(stopped.exit.number() > 125);
        assert!(stopped.detail.expect("a reason").contains("promote"), "says why");
        let signalled = Failure::new(Exit::Terminated, "told to stop");
        assert_eq!(stop_recovery(signalled.clone(), "recovery.signal"), signalled);
    }
}
