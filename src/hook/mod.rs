//! What a Barman server tells its hook scripts, when one of our commands is such a script.
//!
//! `barman-cloud-wal-archive` may be a `pre_archive_script` and `barman-cloud-backup` a
//! `post_backup_script` (or their retry forms); Barman then says in the environment what to
//! archive or upload (contract §16). Pure: the environment comes as a lookup function.

use std::ffi::OsString;
use std::path::PathBuf;

/// Looks up an environment variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The WAL file that Barman is about to archive on its own disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalHook {
    pub file: PathBuf,
}

/// The backup that Barman has just completed on its own disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupHook {
    /// The backup's folder: `data` and one folder per tablespace OID are in it.
    pub directory: PathBuf,
    /// The id that the uploaded backup shall have.
    pub backup_id: String,
    /// The local `backup.info`, uploaded to the byte.
    pub backup_info: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// Called as a hook script that this command cannot be.
    #[error("cannot run as hook script \"{hook}\" in phase \"{phase}\"")]
    Unsuitable { hook: String, phase: String, wanted: &'static str },
    #[error("environment variable \"{variable}\" is not set")]
    Missing { variable: &'static str },
    /// The backup failed or is not complete: trying again cannot help.
    #[error("cannot upload backup \"{backup_id}\": its status is {status}, not DONE")]
    NotDone { backup_id: String, status: String },
}

impl HookError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unsuitable { wanted, .. } => {
                Some(format!("In Barman's configuration, use it as \"{wanted}\"."))
            }
            Self::Missing { .. } | Self::NotDone { .. } => None,
        }
    }
}

/// Whether Barman called us at all: it always sets both variables.
pub fn is_active(lookup: Lookup<'_>) -> bool {
    lookup("BARMAN_HOOK").is_some() && lookup("BARMAN_PHASE").is_some()
}

/// The WAL file to archive; `None` outside of a hook.
pub fn wal_hook(lookup: Lookup<'_>) -> Result<Option<WalHook>, HookError> {
    if !is_active(lookup) {
        return Ok(None);
    }
    let kinds = ["archive_script", "archive_retry_script"];
    suitable(lookup, &kinds, "pre", "pre_archive_retry_script")?;
    let file = PathBuf::from(required(lookup, "BARMAN_FILE")?);
    Ok(Some(WalHook { file }))
}

/// The backup to upload; `None` outside of a hook.
///
/// What is wrong is told in Barman's order: directory, id, status, `backup.info`.
pub fn backup_hook(lookup: Lookup<'_>) -> Result<Option<BackupHook>, HookError> {
    if !is_active(lookup) {
        return Ok(None);
    }
    let kinds = ["backup_script", "backup_retry_script"];
    suitable(lookup, &kinds, "post", "post_backup_script")?;
    let directory = PathBuf::from(required(lookup, "BARMAN_BACKUP_DIR")?);
    let backup_id = text(required(lookup, "BARMAN_BACKUP_ID")?);
    let status = text(required(lookup, "BARMAN_STATUS")?);
    if status != "DONE" {
        return Err(HookError::NotDone { backup_id, status });
    }
    let backup_info = PathBuf::from(required(lookup, "BARMAN_BACKUP_INFO_PATH")?);
    Ok(Some(BackupHook { directory, backup_id, backup_info }))
}

fn suitable(
    lookup: Lookup<'_>,
    kinds: &[&str],
    wanted_phase: &str,
    wanted: &'static str,
) -> Result<(), HookError> {
    let hook = text(lookup("BARMAN_HOOK").unwrap_or_default());
    let phase = text(lookup("BARMAN_PHASE").unwrap_or_default());
    if kinds.contains(&hook.as_str()) && phase == wanted_phase {
        return Ok(());
    }
    Err(HookError::Unsuitable { hook, phase, wanted })
}

fn required(lookup: Lookup<'_>, variable: &'static str) -> Result<OsString, HookError> {
    lookup(variable).ok_or(HookError::Missing { variable })
}

fn text(value: OsString) -> String {
    value.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use crate::hook::{BackupHook, HookError, WalHook, backup_hook, wal_hook};
    use std::ffi::OsString;

    fn lookup<'a>(variables: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
    }

    const BACKUP: [(&str, &str); 6] = [
        ("BARMAN_HOOK", "backup_script"),
        ("BARMAN_PHASE", "post"),
        ("BARMAN_BACKUP_DIR", "/b/20260101T000000"),
        ("BARMAN_BACKUP_ID", "20260101T000000"),
        ("BARMAN_STATUS", "DONE"),
        ("BARMAN_BACKUP_INFO_PATH", "/b/20260101T000000/backup.info"),
    ];

    #[test]
    fn both_variables_make_a_hook() {
        assert_eq!(wal_hook(&lookup(&[])), Ok(None));
        assert_eq!(wal_hook(&lookup(&[("BARMAN_HOOK", "archive_script")])), Ok(None));
        assert_eq!(backup_hook(&lookup(&[("BARMAN_PHASE", "post")])), Ok(None));
    }

    #[test]
    fn a_wal_hook_runs_before_archiving_and_names_the_file() {
        for hook in ["archive_script", "archive_retry_script"] {
            let variables =
                [("BARMAN_HOOK", hook), ("BARMAN_PHASE", "pre"), ("BARMAN_FILE", "/w/x")];
            assert_eq!(wal_hook(&lookup(&variables)), Ok(Some(WalHook { file: "/w/x".into() })));
            let missing = wal_hook(&lookup(&variables[..2]));
            assert_eq!(missing, Err(HookError::Missing { variable: "BARMAN_FILE" }));
        }
        for (hook, phase) in [("archive_script", "post"), ("backup_script", "pre"), ("", "")] {
            let variables = [("BARMAN_HOOK", hook), ("BARMAN_PHASE", phase)];
            let refused = wal_hook(&lookup(&variables));
            assert!(matches!(refused, Err(HookError::Unsuitable { .. })), "{hook} {phase}");
        }
    }

    #[test]
    fn a_backup_hook_runs_after_a_backup_and_names_its_place() {
        let expected = BackupHook {
            directory: "/b/20260101T000000".into(),
            backup_id: "20260101T000000".into(),
            backup_info: "/b/20260101T000000/backup.info".into(),
        };
        assert_eq!(backup_hook(&lookup(&BACKUP)), Ok(Some(expected)));
    }

    #[test]
    fn a_backup_hook_complains_in_barmans_order() {
        let wanted =
            [(3, "BARMAN_BACKUP_ID"), (4, "BARMAN_STATUS"), (5, "BARMAN_BACKUP_INFO_PATH")];
        for (known, variable) in wanted {
            let refused = backup_hook(&lookup(&BACKUP[..known]));
            assert_eq!(refused, Err(HookError::Missing { variable }));
        }
        let mut failed = BACKUP;
        failed[4].1 = "FAILED";
        // Without the last variable: the status is judged first.
        let refused = backup_hook(&lookup(&failed[..5]));
        assert!(matches!(refused, Err(HookError::NotDone { status, .. }) if status == "FAILED"));
    }
}
