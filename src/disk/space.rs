//! How much still fits.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// One file system, and the bytes that this user may still write to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Tells file systems apart.
    pub device: u64,
    pub available_bytes: u64,
}

/// Asks the file system of `path`, or of the nearest directory above it that exists.
pub fn space(path: &Path) -> io::Result<Space> {
    let mut path = std::path::absolute(path)?;
    loop {
        match std::fs::metadata(&path) {
            Ok(metadata) => {
                let system = rustix::fs::statvfs(&path)?;
                let available_bytes = system.f_bavail.saturating_mul(system.f_frsize);
                return Ok(Space { device: metadata.dev(), available_bytes });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.pop() => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::disk::space;

    #[test]
    fn a_directory_to_be_has_the_space_of_the_one_above() {
        let directory = tempfile::tempdir().expect("temp");
        let here = space(directory.path()).expect("space");
        let below = space(&directory.path().join("not/yet")).expect("space");
        assert_eq!(here.device, below.device);
        assert!(here.available_bytes > 0);
    }
}
