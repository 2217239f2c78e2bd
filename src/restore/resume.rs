//! What an earlier run finished, before it is believed.

use crate::flow::{Cancel, Limits};
use crate::restore::extract::Targets;
use crate::restore::journal::Journal;
use crate::restore::receipts::deviation;
use crate::restore::stage::on_thread;
use crate::restore::{RestoreError, RestorePlan};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::sync::Arc;

/// Reads the files of every finished tarball, `jobs` tarballs at once; what is not as it was
/// written is no longer finished, and the journal on the disk says so before anything changes.
pub async fn check_finished(
    plan: &Arc<RestorePlan>,
    targets: &Arc<Targets>,
    mut journal: Journal,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<Journal, RestoreError> {
    let finished = plan.tarballs.iter().filter(|tarball| journal.has_finished(tarball));
    let finished: Vec<_> = finished.cloned().collect();
    let changed: Vec<(String, String)> = stream::iter(finished)
        .map(|tarball| async move {
            cancel.check()?;
            let targets = Arc::clone(targets);
            let name = tarball.name.file_name();
            let found = on_thread("restore-check", move || deviation(&targets, &tarball)).await?;
            Ok::<_, RestoreError>(found.map(|reason| (name, reason)))
        })
        .buffer_unordered(limits.jobs.get())
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect()
        .await?;
    // A tarball of an older listing is none of this plan's.
    let known =
        |name: &String| plan.tarballs.iter().any(|tarball| tarball.name.file_name() == *name);
    journal.finished.retain(known);
    for (tarball, reason) in &changed {
        tracing::warn!(
            tarball,
            reason,
            "what an earlier run restored has changed, extracting it again"
        );
        journal.finished.remove(tarball);
    }
    if !changed.is_empty() {
        journal.write(&targets.data)?;
    }
    Ok(journal)
}
