//! What was noticed during a backup, collected from all threads, bounded.

use crate::catalog::DamagedFile;
use std::sync::{Mutex, PoisonError};

/// Files and notes kept by name; more is told by number only.
const KEPT_MAX: usize = 100;

/// Damage found while files were read, and what the operator should know.
#[derive(Debug, Default)]
pub struct Tally {
    noticed: Mutex<Noticings>,
}

/// What a tally holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noticings {
    pub files: u64,
    pub damaged_blocks: u64,
    /// All damaged files, and those of them that are kept by name.
    pub damaged_files: u64,
    pub damaged: Vec<DamagedFile>,
    pub notes: Vec<String>,
}

impl Tally {
    pub fn file(&self) {
        self.change(|noticed| noticed.files += 1);
    }

    pub fn damage(&self, file: DamagedFile) {
        self.change(|noticed| {
            noticed.damaged_files += 1;
            noticed.damaged_blocks += file.damaged_blocks;
            keep(&mut noticed.damaged, file);
        });
    }

    pub fn note(&self, text: String) {
        self.change(|noticed| keep(&mut noticed.notes, text));
    }

    pub fn noticed(&self) -> Noticings {
        self.noticed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Noticings)) {
        change(&mut self.noticed.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn keep<T>(kept: &mut Vec<T>, item: T) {
    if kept.len() < KEPT_MAX {
        kept.push(item);
    }
}
