//! tarball.
