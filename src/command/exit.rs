//! From what went wrong to the code that the process exits with (contract §3).
//!
//! One exhaustive match per room's errors, without a wild card: a new meaning must choose its
//! code. PostgreSQL takes 1 to 125 of `restore_command` as "not available" and stops recovery
//! above that, so only signals answer with more, as a shell would.

use std::process::ExitCode;

/// The codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Success,
    /// The operation failed although the store answered. From `wal-restore`: the file is
    /// positively not in the archive.
    Failed,
    /// No connection, where the contract tells it apart (`--test`, `check-wal-archive`).
    Network,
    /// The command line or an input name is wrong.
    Input,
    /// Everything else; network failures outside of tests too.
    Other,
    /// A hook script after a backup that Barman did not complete; trying again is no use.
    HookNotDone,
    Interrupted,
    Terminated,
}

impl Exit {
    pub const fn number(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Network => 2,
            Self::Input => 3,
            Self::Other => 4,
            Self::HookNotDone => 63,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}
