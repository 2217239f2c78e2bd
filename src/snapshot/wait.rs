//! Waiting for snapshots: one loop for all clouds, with a limit, progress and cancellation.

use crate::flow::Cancel;
use crate::monitor::{Metric, Monitor};
use crate::snapshot::{
    SnapshotCloud, SnapshotError, SnapshotErrorKind, SnapshotRecord, SnapshotState,
};
use std::time::{Duration, Instant};

/// How long something is waited for and how often it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    pub timeout: Duration,
    /// The longest pause between two looks; the first ones are shorter.
    pub pause_max: Duration,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The point in time of every snapshot is fixed: what is written later is not in it.
    PointInTime,
    /// Every snapshot can be restored from.
    Completion,
}

const PAUSE_MIN: Duration = Duration::from_millis(500);

/// After this long the operator is told how far it is, and again after each such time.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Waits until all snapshots have reached the point. Counts percent in
/// [`Metric::SnapshotPercent`], a hundred for each snapshot.
///
/// A look that is throttled or not answered tells nothing of the snapshots: they are looked at
/// again until the deadline of the whole wait.
pub async fn wait(
    cloud: &dyn SnapshotCloud,
    snapshots: &[SnapshotRecord],
    reached: Reached,
    patience: Patience,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<(), SnapshotError> {
    let begun = Instant::now();
    let mut pause = PAUSE_MIN.min(patience.pause_max);
    let (mut told, mut tell_at) = (0, TELL_EVERY);
    let mut seen = vec![false; snapshots.len()];
    loop {
        let looked = tokio::select! {
            looked = cloud.states(snapshots) => looked,
            () = cancel.cancelled() => return Err(cancelled()),
        };
        let states = match looked {
            Ok(states) => states,
            Err(error) if error.kind == SnapshotErrorKind::Unanswered => {
                let waited = begun.elapsed();
                if waited >= patience.timeout {
                    return Err(SnapshotError { kind: SnapshotErrorKind::TimedOut, ..error });
                }
                tracing::warn!(%error, "could not look at the snapshots, looking again");
                rest(patience.pause_max, waited, patience, cancel).await?;
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some(error) = broken(snapshots, &states, &mut seen) {
            return Err(error);
        }
        let percent: u64 = states.iter().map(percent).sum();
        if reached == Reached::Completion && percent > told {
            monitor.add(Metric::SnapshotPercent, percent - told);
            told = percent;
        }
        let open = states.iter().filter(|state| !has_reached(state, reached)).count();
        if open == 0 {
            return Ok(());
        }
        let waited = begun.elapsed();
        if waited >= patience.timeout {
            let message = format!(
                "{open} of {} snapshots were not complete after {} s",
                snapshots.len(),
                waited.as_secs()
            );
            return Err(SnapshotError::new(SnapshotErrorKind::TimedOut, message)
                .hint("The first snapshot of a volume takes longest; allow more time."));
        }
        if waited >= tell_at {
            tell_at += TELL_EVERY;
            tracing::info!(open, percent, snapshots = snapshots.len(), "waiting for snapshots");
        }
        rest(pause, waited, patience, cancel).await?;
        pause = (pause * 2).min(patience.pause_max);
    }
}

/// Waits before the next look; the last one is at the deadline, not a pause before it.
async fn rest(
    pause: Duration,
    waited: Duration,
    patience: Patience,
    cancel: &Cancel,
) -> Result<(), SnapshotError> {
    tokio::select! {
        () = tokio::time::sleep(pause.min(patience.timeout.saturating_sub(waited))) => Ok(()),
        () = cancel.cancelled() => Err(cancelled()),
    }
}

fn has_reached(state: &SnapshotState, reached: Reached) -> bool {
    match state {
        SnapshotState::Creating | SnapshotState::Failed { .. } => false,
        SnapshotState::Copying { .. } => reached == Reached::PointInTime,
        SnapshotState::Complete => true,
    }
}

fn percent(state: &SnapshotState) -> u64 {
    match state {
        SnapshotState::Complete => 100,
        SnapshotState::Copying { percent } => u64::from(percent.unwrap_or(0).min(100)),
        SnapshotState::Creating | SnapshotState::Failed { .. } => 0,
    }
}

/// The first snapshot that went wrong, or that was there and is not any more.
fn broken(
    snapshots: &[SnapshotRecord],
    states: &[SnapshotState],
    seen: &mut [bool],
) -> Option<SnapshotError> {
    snapshots.iter().zip(states).zip(seen).find_map(|((snapshot, state), seen)| {
        let reason = match state {
            SnapshotState::Failed { reason } => reason,
            SnapshotState::Creating if *seen => "it is not there any more",
            SnapshotState::Creating => return None,
            SnapshotState::Copying { .. } | SnapshotState::Complete => {
                *seen = true;
                return None;
            }
        };
        let message = format!("snapshot \"{}\" failed: {reason}", snapshot.identifier());
        Some(SnapshotError::new(SnapshotErrorKind::Broken, message))
    })
}

fn cancelled() -> SnapshotError {
    crate::flow::Cancelled.into()
}
