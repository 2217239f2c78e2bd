//! What the kernel should know of how a file is read.

use rustix::fs::{Advice, fadvise};
use std::fs::File;

/// The file is read from beginning to end, once.
///
/// PostgreSQL works on the same files: what it has in the page cache must stay there, so nothing
/// is dropped; what only the backup reads shall not push out what is used (`NOREUSE`, honoured
/// from Linux 6.3 on). Advice, so a kernel that does not know it changes nothing.
pub fn advise_once_through(file: &File) {
    for advice in [Advice::Sequential, Advice::NoReuse] {
        let _ = fadvise(file, 0, None, advice);
    }
}
