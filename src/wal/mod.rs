//! Values of the write-ahead log: positions, timelines, segments and the names of their files.
//!
//! Nothing here does I/O. Names and arithmetic follow PostgreSQL's
//! `src/include/access/xlog_internal.h`.

mod file_check;
mod file_name;
mod history;
mod lsn;
mod page_header;
mod segment;

pub use file_check::{WalFileCheck, WalFileFault};
pub use file_name::{WalFileKind, WalFileName, WalFileNameError};
pub use history::{HistoryError, TimelineHistory, TimelineSwitch};
pub use lsn::{Lsn, LsnError, TimelineId, TimelineIdError};
pub use page_header::WalPageHeader;
pub use segment::{SegmentSize, SegmentSizeError, WalSegment};
