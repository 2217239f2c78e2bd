//! No core dumps: the memory of a command holds keys, tokens and the database's password.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Turns core dumps of this process off.
///
/// Both ways, because a kernel that hands core files to a program does not look at the limit.
/// The second also keeps other processes of the same user from reading this one's memory and
/// environment. Hooks and credential programs get the lower limit, which they may raise again.
pub fn off() {
    let maximum = getrlimit(Resource::Core).maximum;
    // A sandbox may refuse either; that is no reason not to archive.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
