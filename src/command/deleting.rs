//! What `barman-cloud-backup-delete --dry-run` prints (contract §9.5).

use crate::catalog::format::python::quoted;
use crate::retention::{DeletePlan, FolderDeletion};
use crate::store::ObjectKey;

/// One line per group of objects that would go together: a backup, the WAL only it needed, and
/// what is left in folders that are no backup any more. The keys are a Python list. What no listing
/// of the store shows has a line of its own.
pub fn dry_run(plan: &DeletePlan) -> String {
    let mut text = String::new();
    for backup in &plan.backups {
        text.push_str(&folder(&backup.folder));
        text.push_str(&line(backup.wals.iter()));
    }
    for leftover in &plan.leftovers {
        text.push_str(&folder(leftover));
    }
    plan.debris.iter().for_each(|debris| text.push_str(&skipping(&debris.to_string())));
    text
}

/// Snapshots and the label that goes with them have lines of their own, as with Barman.
fn folder(folder: &FolderDeletion) -> String {
    let objects = folder.objects.iter().chain(&folder.entry);
    if folder.snapshots.is_empty() {
        return line(objects);
    }
    let is_label = |key: &&ObjectKey| key.file_name() == "backup_label";
    let (labels, others): (Vec<_>, Vec<_>) = objects.partition(is_label);
    let mut text = skipping("snapshots");
    labels.iter().for_each(|key| text.push_str(&skipping(key.as_str())));
    text.push_str(&line(others.into_iter()));
    text
}

fn skipping(what: &str) -> String {
    format!("Skipping deletion of {what} due to --dry-run option\n")
}

fn line<'a>(keys: impl Iterator<Item = &'a ObjectKey>) -> String {
    let keys: Vec<String> = keys.map(|key| quoted(key.as_str())).collect();
    if keys.is_empty() {
        return String::new();
    }
    skipping(&format!("objects [{}]", keys.join(", ")))
}

#[cfg(test)]
mod tests {
    use crate::catalog::fixtures::{self, expected_output, limits};
    use crate::catalog::{BackupSelector, Catalog};
    use crate::command::deleting::dry_run;
    use crate::flow::Cancel;
    use crate::retention::{self, DeleteOptions, DeleteTarget, LockCheck, RetentionPolicy};
    use jiff::Timestamp;

    /// After the fixtures were made, whatever the clock says where the tests run.
    const NOW: Timestamp = Timestamp::constant(1_795_227_000, 0);

    async fn printed(target: DeleteTarget) -> String {
        let catalog: Catalog = fixtures::catalog("contract", "pg15", "main").await;
        let options = DeleteOptions { minimum_redundancy: 0, locks: LockCheck::Skip };
        let plan =
            retention::plan(&catalog, &target, &options, &limits(), NOW, &Cancel::new()).await;
        let plan = plan.expect("plans");
        let text = dry_run(&plan);
        plan.into_result().expect("no hindrance");
        text
    }

    /// Barman's output, with the three files that it leaves behind: the WAL of timeline 1 after
    /// the standalone backup, which no backup needs, goes with the last backup of timeline 1
    /// that needed it; so does the first segment of timeline 2, from before its first backup,
    /// which Barman finds one backup later.
    fn without_leaks(barman: &str) -> String {
        const WALS: &str = "pg15/main/wals";
        let last = format!("'{WALS}/0000000100000000/000000010000000000000018.gz'");
        let leaked = [
            "0000000100000000/00000001000000000000001A.gz",
            "0000000100000000/00000001000000000000001B.partial.gz",
            "0000000200000000/00000002000000000000001B.gz",
        ];
        let leaked = leaked.map(|key| format!("'{WALS}/{key}'")).join(", ");
        let one_backup_later = format!("['{WALS}/0000000200000000/00000002000000000000001B.gz', ");
        barman.replace(&one_backup_later, "[").replace(&last, &format!("{last}, {leaked}"))
    }

    #[tokio::test]
    async fn dry_runs_print_what_barman_3_19_prints_plus_what_it_leaks() {
        for (policy, name) in [
            ("REDUNDANCY 0", "redundancy-0"),
            ("REDUNDANCY 1", "redundancy-1"),
            ("REDUNDANCY 2", "redundancy-2"),
            ("REDUNDANCY 3", "redundancy-3"),
            ("RECOVERY WINDOW OF 0 DAYS", "window-0"),
        ] {
            let policy = RetentionPolicy::parse(policy).expect(policy);
            let barman = expected_output(&format!("pg15-delete-dry-run.{name}.txt"));
            let ours = printed(DeleteTarget::Policy(policy)).await;
            assert_eq!(ours, without_leaks(&barman), "{name}");
        }
    }

    #[tokio::test]
    async fn a_dry_run_by_name_prints_what_barman_3_19_prints() {
        let selector = BackupSelector::parse("nightly-gz");
        let ours = printed(DeleteTarget::Backup(selector)).await;
        assert_eq!(ours, expected_output("pg15-delete-dry-run.nightly-gz.txt"));
    }
}
