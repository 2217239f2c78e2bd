//! wal_archive.
