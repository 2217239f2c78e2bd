//! Progress on a terminal: bars with rate and remaining time; a line per phase elsewhere.

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

/// Shows a verb's counts.
#[derive(Debug)]
pub struct TerminalMonitor {
    cluster: ProgressBar,
    stored: ProgressBar,
    tarballs: AtomicU64,
    tarballs_expected: AtomicU64,
    phase: Mutex<Option<(Phase, Instant)>>,
}

impl TerminalMonitor {
    /// Adds two bars to those of `voice`: bytes of the cluster, bytes of the store.
    pub fn new(voice: &Voice, progress: Progress) -> Self {
        let bar = |template: &str| match progress {
            Progress::Never => ProgressBar::hidden(),
            Progress::OnTerminal => {
                voice.bars().add(ProgressBar::no_length()).with_style(style(template))
            }
        };
        let monitor = Self {
            cluster: bar(
                "{msg:>22} [{bar:30}] {percent:>3}%  {binary_bytes} of {binary_total_bytes}  \
                 {binary_bytes_per_sec}  {eta} left",
            ),
            stored: bar("{msg:>22}  {binary_bytes}  {binary_bytes_per_sec}"),
            tarballs: AtomicU64::new(0),
            tarballs_expected: AtomicU64::new(0),
            phase: Mutex::new(None),
        };
        if !monitor.cluster.is_hidden() {
            monitor.cluster.enable_steady_tick(Duration::from_millis(200));
        }
        monitor
    }

    fn show_tarballs(&self) {
        let done = self.tarballs.load(Ordering::Relaxed);
        let expected = self.tarballs_expected.load(Ordering::Relaxed);
        self.stored.set_message(match expected {
            0 => format!("{done} tarballs"),
            _ => format!("{done} of {expected} tarballs"),
        });
    }
}

impl Monitor for TerminalMonitor {
    fn phase(&self, phase: Phase) {
        self.cluster.set_message(words(phase));
        let now = Instant::now();
        let before = match self.phase.lock() {
            Ok(mut current) => current.replace((phase, now)),
            Err(_) => None,
        };
        if let Some((phase, begun)) = before {
            info!(phase = words(phase), seconds = begun.elapsed().as_secs_f64(), "phase done");
        }
        if phase == Phase::Done {
            self.cluster.finish_and_clear();
            self.stored.finish_and_clear();
        } else {
            info!(phase = words(phase), "phase begins");
        }
    }

    fn expect(&self, metric: Metric, total: u64) {
        match metric {
            Metric::ClusterBytes => self.cluster.set_length(total),
            Metric::Tarballs => {
                self.tarballs_expected.store(total, Ordering::Relaxed);
                self.show_tarballs();
            }
            Metric::StoredBytes | Metric::Files => {}
        }
    }

    fn add(&self, metric: Metric, amount: u64) {
        match metric {
            Metric::ClusterBytes => self.cluster.inc(amount),
            Metric::StoredBytes => self.stored.inc(amount),
            Metric::Tarballs => {
                self.tarballs.fetch_add(amount, Ordering::Relaxed);
                self.show_tarballs();
            }
            Metric::Files => {}
        }
    }
}

/// A failed command leaves no half bar above its error.
impl Drop for TerminalMonitor {
    fn drop(&mut self) {
        self.cluster.finish_and_clear();
        self.stored.finish_and_clear();
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
        Phase::StoppingBackup => "stopping backup",
        Phase::WaitingForWal => "waiting for WAL",
        Phase::Extracting => "extracting",
        Phase::Syncing => "syncing",
        Phase::Done => "done",
    }
}
