//! Retention policies: their grammar and their verdict (contract §9.3). Pure.

use crate::catalog::{Backup, BackupId};
use jiff::{SignedDuration, Timestamp};
use std::fmt;

/// What makes a backup obsolete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionPolicy {
    /// All but the newest so many backups.
    Redundancy(u32),
    /// All that are not needed to recover to any time of the last so many days.
    RecoveryWindow { days: u32 },
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{text}\" is not a retention policy: {reason}")]
pub struct RetentionPolicyError {
    text: String,
    reason: String,
}

impl RetentionPolicyError {
    pub fn hint(&self) -> &'static str {
        "Write \"REDUNDANCY 2\" or \"RECOVERY WINDOW OF 7 DAYS\"."
    }
}

impl RetentionPolicy {
    /// Parses `REDUNDANCY n` or `RECOVERY WINDOW OF n DAYS|WEEKS|MONTHS`, in any case, with any
    /// blanks around and between the words. A month has 31 days.
    pub fn parse(text: &str) -> Result<Self, RetentionPolicyError> {
        let words: Vec<String> = text.split_whitespace().map(str::to_ascii_uppercase).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let refused = |reason: String| RetentionPolicyError { text: text.into(), reason };
        let number = |word: &str| {
            let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            // More days or backups than fit are as good as all of them.
            digits
                .then(|| word.parse::<u32>().unwrap_or(u32::MAX))
                .ok_or_else(|| refused(format!("\"{word}\" is not a number")))
        };
        match words.as_slice() {
            ["REDUNDANCY", count] => Ok(Self::Redundancy(number(count)?)),
            ["RECOVERY", "WINDOW", "OF", count, unit] => {
                let days = match *unit {
                    "DAY" | "DAYS" => 1,
                    "WEEK" | "WEEKS" => 7,
                    "MONTH" | "MONTHS" => 31,
                    other => return Err(refused(format!("\"{other}\" is an unknown unit"))),
                };
                Ok(Self::RecoveryWindow { days: number(count)?.saturating_mul(days) })
            }
            _ => Err(refused("it begins like none".into())),
        }
    }

    /// The obsolete backups, oldest first.
    ///
    /// `newest_first` are the DONE backups; others get no verdict. Kept backups are never
    /// obsolete, nor are the ancestors of a backup that stays. One that does not `count`, because
    /// the cluster's present cannot be reached from it, is never the reason why another may go.
    pub fn obsolete(
        &self,
        newest_first: &[&Backup],
        counts: impl Fn(&Backup) -> bool,
        minimum_redundancy: u32,
        now: Timestamp,
    ) -> Vec<BackupId> {
        let mut obsolete = match self {
            Self::Redundancy(count) => {
                beyond_count(newest_first, counts, (*count).max(minimum_redundancy))
            }
            Self::RecoveryWindow { days } => {
                let window = SignedDuration::from_hours(24 * i64::from(*days));
                let begin = now.checked_sub(window).unwrap_or(Timestamp::MIN);
                beyond_window(newest_first, counts, begin, minimum_redundancy)
            }
        };
        retain_ancestors(newest_first, &mut obsolete);
        obsolete.into_iter().rev().map(|backup| backup.id.clone()).collect()
    }
}

impl fmt::Display for RetentionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redundancy(count) => write!(f, "REDUNDANCY {count}"),
            Self::RecoveryWindow { days } => write!(f, "RECOVERY WINDOW OF {days} DAYS"),
        }
    }
}

/// Kept backups use up places too, as with Barman.
fn beyond_count<'a>(
    newest_first: &[&'a Backup],
    counts: impl Fn(&Backup) -> bool,
    count: u32,
) -> Vec<&'a Backup> {
    let places = usize::try_from(count).unwrap_or(usize::MAX);
    let (mut obsolete, mut retained) = (Vec::new(), 0);
    for backup in newest_first {
        if retained >= places && backup.kept().is_none() {
            obsolete.push(*backup);
        }
        retained += usize::from(counts(backup));
    }
    obsolete
}

/// Everything stays up to and including the first backup that ended before the window: from it
/// recovery reaches the window's beginning.
fn beyond_window<'a>(
    newest_first: &[&'a Backup],
    counts: impl Fn(&Backup) -> bool,
    begin: Timestamp,
    minimum_redundancy: u32,
) -> Vec<&'a Backup> {
    let (mut obsolete, mut retained, mut covered) = (Vec::new(), 0, false);
    for backup in newest_first {
        let stays = !covered || retained < minimum_redundancy;
        if !stays && backup.kept().is_none() {
            obsolete.push(*backup);
        }
        if stays && counts(backup) {
            retained += 1;
            let end_time = backup.info.end_time.as_ref();
            covered |= end_time.is_some_and(|end| end.timestamp() < begin);
        }
    }
    obsolete
}

/// An incremental backup is worth nothing without the ones it builds on.
fn retain_ancestors(all: &[&Backup], obsolete: &mut Vec<&Backup>) {
    // Newest first, a child comes before its parent: one pass finds whole chains.
    for backup in all {
        if obsolete.iter().any(|candidate| candidate.id == backup.id) {
            continue;
        }
        if let Some(parent) = &backup.info.parent_backup_id {
            obsolete.retain(|candidate| candidate.id.as_str() != parent);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::{Backup, BackupId, BackupInfo, BackupStatus, Keep, KeepTarget};
    use crate::retention::RetentionPolicy;
    use jiff::tz::TimeZone;
    use jiff::{SignedDuration, Timestamp};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use std::collections::BTreeSet;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    /// A backup that ended so many hours ago, after half an hour.
    fn backup(hours_ago: i64, kept: bool) -> Backup {
        let end = NOW - SignedDuration::from_hours(hours_ago);
        let begin = end - SignedDuration::from_mins(30);
        Backup {
            id: BackupId::at(begin),
            info: BackupInfo {
                status: Some(BackupStatus::Done),
                begin_time: Some(begin.to_zoned(TimeZone::UTC)),
                end_time: Some(end.to_zoned(TimeZone::UTC)),
                ..BackupInfo::default()
            },
            record: None,
            started: None,
            objects: Vec::new(),
            keep: kept.then(|| Keep::new(KeepTarget::Full)),
        }
    }

    fn obsolete(policy: &str, backups: &[Backup], minimum: u32) -> BTreeSet<usize> {
        let newest_first: Vec<&Backup> = backups.iter().collect();
        let policy = RetentionPolicy::parse(policy).expect(policy);
        let ids = policy.obsolete(&newest_first, |_| true, minimum, NOW);
        let index = |id: &BackupId| backups.iter().position(|backup| backup.id == *id);
        ids.iter().map(|id| index(id).expect("one of them")).collect()
    }

    #[test]
    fn the_grammar_is_that_of_barman() {
        use RetentionPolicy::{RecoveryWindow, Redundancy};
        for (text, policy) in [
            ("REDUNDANCY 2", Redundancy(2)),
            ("  redundancy\t0 ", Redundancy(0)),
            ("RECOVERY WINDOW OF 3 DAYS", RecoveryWindow { days: 3 }),
            ("recovery window of 1 day", RecoveryWindow { days: 1 }),
            ("Recovery Window Of 2 Weeks", RecoveryWindow { days: 14 }),
            ("recovery  window of 6 month", RecoveryWindow { days: 186 }),
            ("REDUNDANCY 99999999999", Redundancy(u32::MAX)),
        ] {
            assert_eq!(RetentionPolicy::parse(text), Ok(policy), "{text}");
        }
        for text in [
            "",
            "main",
            "REDUNDANCY",
            "REDUNDANCY -1",
            "REDUNDANCY 1 2",
            "RECOVERY WINDOW OF 7days",
            "RECOVERY WINDOW OF 7 DAYZ",
            "RECOVERY WINDOW 7 DAYS",
            "RECOVERY WINDOW OF x DAYS",
        ] {
            assert!(RetentionPolicy::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            RetentionPolicy::parse("recovery window of 3 dayz").expect_err("unit").to_string(),
            "\"recovery window of 3 dayz\" is not a retention policy: \"DAYZ\" is an unknown unit"
        );
    }

    #[test]
    fn redundancy_counts_kept_backups_and_never_drops_them() {
        let backups = [1, 2, 3, 4, 5].map(|day| backup(24 * day, day == 2 || day == 5));
        assert_eq!(obsolete("REDUNDANCY 2", &backups, 0), BTreeSet::from([2, 3]));
        assert_eq!(obsolete("REDUNDANCY 0", &backups, 0), BTreeSet::from([0, 2, 3]));
        assert_eq!(obsolete("REDUNDANCY 1", &backups, 4), BTreeSet::new());
    }

    #[test]
    fn a_window_needs_one_backup_from_before_it() {
        let backups = [1, 2, 3, 4, 5].map(|day| backup(24 * day - 12, day == 4));
        assert_eq!(obsolete("RECOVERY WINDOW OF 2 DAYS", &backups, 0), BTreeSet::from([4]));
        assert_eq!(obsolete("RECOVERY WINDOW OF 0 DAYS", &backups, 0), BTreeSet::from([1, 2, 4]));
        assert_eq!(obsolete("RECOVERY WINDOW OF 0 DAYS", &backups, 3), BTreeSet::from([4]));
        assert_eq!(obsolete("RECOVERY WINDOW OF 1 MONTH", &backups, 0), BTreeSet::new());
    }

    #[test]
    fn the_ancestors_of_a_backup_that_stays_stay() {
        let mut backups = [1, 2, 3, 4].map(|day| backup(24 * day, false));
        backups[0].info.parent_backup_id = Some(backups[1].id.to_string());
        backups[1].info.parent_backup_id = Some(backups[2].id.to_string());
        assert_eq!(obsolete("REDUNDANCY 1", &backups, 0), BTreeSet::from([3]));
    }

    #[test]
    fn a_backup_that_does_not_count_is_no_reason_to_delete_another() {
        let backups = [1, 2, 3, 4, 5].map(|day| backup(24 * day - 12, false));
        let newest_first: Vec<&Backup> = backups.iter().collect();
        // The two newest lie on a dead branch.
        let counts = |backup: &Backup| backup.id != backups[0].id && backup.id != backups[1].id;
        for (policy, minimum, left) in [
            ("REDUNDANCY 1", 0, 3),
            ("REDUNDANCY 2", 0, 4),
            ("REDUNDANCY 1", 3, 5),
            ("RECOVERY WINDOW OF 0 DAYS", 0, 3),
            ("RECOVERY WINDOW OF 0 DAYS", 2, 4),
        ] {
            let parsed = RetentionPolicy::parse(policy).expect(policy);
            let obsolete = parsed.obsolete(&newest_first, counts, minimum, NOW);
            assert_eq!(backups.len() - obsolete.len(), left, "{policy} {minimum}");
            assert!(obsolete.iter().all(|id| *id != backups[2].id), "{policy} {minimum}");
        }
        // They go like any other when enough that count are newer.
        let dead_last = |backup: &Backup| backup.id != backups[4].id;
        let policy = RetentionPolicy::Redundancy(2);
        let obsolete = policy.obsolete(&newest_first, dead_last, 0, NOW);
        assert!(obsolete.contains(&backups[4].id));
    }

    /// The contract's words, one backup at a time.
    fn naive(policy: RetentionPolicy, backups: &[Backup], minimum: u32) -> BTreeSet<usize> {
        let end = |index: usize| backups[index].info.end_time.as_ref().expect("end").timestamp();
        let stays = |index: usize| {
            let before = u32::try_from(index).expect("small");
            match policy {
                RetentionPolicy::Redundancy(count) => before < count.max(minimum),
                RetentionPolicy::RecoveryWindow { days } => {
                    let begin = NOW - SignedDuration::from_hours(24 * i64::from(days));
                    let none_before_covers = (0..index).all(|newer| end(newer) >= begin);
                    none_before_covers || before < minimum
                }
            }
        };
        (0..backups.len()).filter(|i| backups[*i].kept().is_none() && !stays(*i)).collect()
    }

    proptest! {
        #[test]
        fn verdicts_are_those_of_the_naive_model(
            ages in proptest::collection::btree_set(1i64..2000, 0..12),
            kept in any::<[bool; 12]>(),
            number in 0u32..14,
            window in any::<bool>(),
            minimum in 0u32..6,
        ) {
            let backups: Vec<Backup> =
                ages.iter().zip(kept).map(|(hours, kept)| backup(*hours, kept)).collect();
            let policy = if window {
                RetentionPolicy::RecoveryWindow { days: number * 6 }
            } else {
                RetentionPolicy::Redundancy(number)
            };
            let obsolete = obsolete(&policy.to_string(), &backups, minimum);
            prop_assert_eq!(&obsolete, &naive(policy, &backups, minimum));
            let retained = backups.len() - obsolete.len();
            let promised = usize::try_from(minimum).expect("small").min(backups.len());
            prop_assert!(retained >= promised);
        }
    }
}
