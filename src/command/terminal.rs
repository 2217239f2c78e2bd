//! Progress on a terminal: bars with rate and remaining time; a log line per phase elsewhere.

use crate::command::report::Voice;
use crate::monitor::{Metric, Monitor, Phase};
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tracing::info;

/// Whether bars may be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    OnTerminal,
    Never,
}

impl Progress {
    /// As `--no-progress` says.
    pub fn unless(no_progress: bool) -> Self {
        if no_progress { Self::Never } else { Self::OnTerminal }
    }
}

/// Shows a verb's counts: a line for bytes of the cluster, one for bytes of the store. Either
/// has a bar once its total is known.
#[derive(Debug)]
pub struct TerminalMonitor {
    cluster: ProgressBar,
    stored: ProgressBar,
    tarballs: AtomicU64,
    tarballs_expected: AtomicU64,
    snapshots: AtomicU64,
    snapshots_expected: AtomicU64,
    phase: Mutex<Option<(Phase, Instant)>>,
}

const OPEN_ENDED: &str = "{prefix:>8}  {binary_bytes}  {binary_bytes_per_sec}  {msg}";
const WITH_TOTAL: &str = "{prefix:>8} [{bar:30}] {percent:>3}%  {binary_bytes} of \
                          {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left  {msg}";

impl TerminalMonitor {
    pub fn new(voice: &Voice, progress: Progress) -> Self {
        let bar = |prefix: &'static str| match progress {
            Progress::Never => ProgressBar::hidden(),
            Progress::OnTerminal => voice
                .bars()
                .add(ProgressBar::no_length().with_style(style(OPEN_ENDED)).with_prefix(prefix)),
        };
        let (cluster, stored) = (bar("cluster"), bar("store"));
        for bar in [&cluster, &stored] {
            if !bar.is_hidden() {
                bar.enable_steady_tick(Duration::from_millis(200));
            }
        }
        Self {
            cluster,
            stored,
            tarballs: AtomicU64::new(0),
            tarballs_expected: AtomicU64::new(0),
            snapshots: AtomicU64::new(0),
            snapshots_expected: AtomicU64::new(0),
            phase: Mutex::new(None),
        }
    }

    fn show_tarballs(&self) {
        let done = self.tarballs.load(Ordering::Relaxed);
        let expected = self.tarballs_expected.load(Ordering::Relaxed);
        self.stored.set_message(match expected {
            0 => format!("{done} tarballs"),
            _ => format!("{done} of {expected} tarballs"),
        });
    }

    fn show_snapshots(&self, percent: u64) {
        let done = self.snapshots.fetch_add(percent, Ordering::Relaxed) + percent;
        let expected = self.snapshots_expected.load(Ordering::Relaxed).max(1);
        let message = format!("{}% of snapshots", done * 100 / expected);
        self.stored.set_message(message);
    }

    fn clear(&self) {
        self.cluster.finish_and_clear();
        self.stored.finish_and_clear();
    }
}

impl Monitor for TerminalMonitor {
    fn phase(&self, phase: Phase) {
        let before = match self.phase.lock() {
            Ok(mut current) => current.replace((phase, Instant::now())),
            Err(_) => None,
        };
        if let Some((phase, begun)) = before {
            info!(phase = words(phase), seconds = begun.elapsed().as_secs_f64(), "phase done");
        }
        if phase == Phase::Done {
            self.clear();
        } else {
            self.cluster.set_message(words(phase));
            info!(phase = words(phase), "phase begins");
        }
    }

    fn expect(&self, metric: Metric, total: u64) {
        let bar = match metric {
            Metric::ClusterBytes => &self.cluster,
            Metric::StoredBytes => &self.stored,
            Metric::Tarballs => {
                self.tarballs_expected.store(total, Ordering::Relaxed);
                self.show_tarballs();
                return;
            }
            Metric::SnapshotPercent => {
                self.snapshots_expected.store(total, Ordering::Relaxed);
                return;
            }
            Metric::Files => return,
        };
        bar.set_length(total);
        bar.set_style(style(WITH_TOTAL));
    }

    fn add(&self, metric: Metric, amount: u64) {
        match metric {
            Metric::ClusterBytes => self.cluster.inc(amount),
            Metric::StoredBytes => self.stored.inc(amount),
            Metric::Tarballs => {
                self.tarballs.fetch_add(amount, Ordering::Relaxed);
                self.show_tarballs();
            }
            Metric::SnapshotPercent => self.show_snapshots(amount),
            Metric::Files => {}
        }
    }
}

/// A failed command leaves no half bar above its error.
impl Drop for TerminalMonitor {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates above are well formed")
        .progress_chars("=> ")
}

fn words(phase: Phase) -> &'static str {
    match phase {
        Phase::StartingBackup => "waiting for checkpoint",
        Phase::CopyingFiles => "copying files",
        Phase::CreatingSnapshots => "creating snapshots",
        Phase::WaitingForSnapshots => "waiting for snapshots",
        Phase::CreatingVolumes => "creating volumes",
        Phase::StoppingBackup => "stopping backup",
        Phase::WaitingForWal => "waiting for WAL",
        Phase::Extracting => "extracting",
        Phase::Syncing => "syncing",
        Phase::Done => "done",
    }
}

#[cfg(test)]
mod tests {
    use crate::command::program::Program;
    use crate::command::report::{LogFormat, Verbosity, Voice};
    use crate::command::terminal::{OPEN_ENDED, Progress, TerminalMonitor, WITH_TOTAL, style};
    use crate::monitor::{Metric, Monitor, Phase};

    #[test]
    fn the_templates_are_well_formed() {
        style(OPEN_ENDED);
        style(WITH_TOTAL);
    }

    #[test]
    fn counts_add_up_and_totals_make_bars() {
        let voice = Voice::new(Program::Backup, Verbosity::Silent, LogFormat::Text);
        let monitor = TerminalMonitor::new(&voice, Progress::Never);
        monitor.phase(Phase::CopyingFiles);
        monitor.expect(Metric::ClusterBytes, 100);
        monitor.expect(Metric::Tarballs, 2);
        monitor.add(Metric::ClusterBytes, 40);
        monitor.add(Metric::ClusterBytes, 2);
        monitor.add(Metric::Tarballs, 1);
        assert_eq!((monitor.cluster.position(), monitor.cluster.length()), (42, Some(100)));
        assert_eq!(monitor.stored.message(), "1 of 2 tarballs");
        monitor.phase(Phase::Done);
        assert!(monitor.cluster.is_finished());
    }
}
