//! The nine commands by name.

/// One of Barman's cloud commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Backup,
    BackupDelete,
    BackupKeep,
    BackupList,
    BackupShow,
    CheckWalArchive,
    Restore,
    WalArchive,
    WalRestore,
}

impl Program {
    pub const ALL: [Self; 9] = [
        Self::Backup,
        Self::BackupDelete,
        Self::BackupKeep,
        Self::BackupList,
        Self::BackupShow,
        Self::CheckWalArchive,
        Self::Restore,
        Self::WalArchive,
        Self::WalRestore,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Backup => "barman-cloud-backup",
            Self::BackupDelete => "barman-cloud-backup-delete",
            Self::BackupKeep => "barman-cloud-backup-keep",
            Self::BackupList => "barman-cloud-backup-list",
            Self::BackupShow => "barman-cloud-backup-show",
            Self::CheckWalArchive => "barman-cloud-check-wal-archive",
            Self::Restore => "barman-cloud-restore",
            Self::WalArchive => "barman-cloud-wal-archive",
            Self::WalRestore => "barman-cloud-wal-restore",
        }
    }

    /// Finds a command by its full name or without `barman-cloud-`.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|program| {
            let name = program.name();
            name == word || name.strip_prefix("barman-cloud-") == Some(word)
        })
    }

    /// One line for overviews.
    pub const fn summary(self) -> &'static str {
        match self {
            Self::Backup => "Takes a base backup of a running PostgreSQL server",
            Self::BackupDelete => "Deletes backups, and WAL that no backup needs any more",
            Self::BackupKeep => "Protects a backup from retention policies",
            Self::BackupList => "Lists the backups of a server",
            Self::BackupShow => "Shows one backup in full",
            Self::CheckWalArchive => "Checks that a new server may archive its WAL here",
            Self::Restore => "Restores a base backup into a directory",
            Self::WalArchive => "Archives one WAL file (for archive_command)",
            Self::WalRestore => "Fetches one WAL file (for restore_command)",
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::command::program::Program;

    #[test]
    fn commands_are_found_by_long_and_short_name() {
        for program in Program::ALL {
            assert_eq!(Program::parse(program.name()), Some(program));
        }
        assert_eq!(Program::parse("wal-archive"), Some(Program::WalArchive));
        assert_eq!(Program::parse("barman-cloud"), None);
        assert_eq!(Program::parse(""), None);
    }
}
