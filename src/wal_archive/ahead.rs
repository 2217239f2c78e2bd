//! The look-ahead as recovery's calls see it: where they are, and who fetches what follows.
//!
//! A call never waits for the look-ahead. It leaves a note of its position in the spool, and
//! starts a companion when the spool runs low and nobody tends it.

use crate::disk::{DiskError, Spool};
use crate::flow::Cancel;
use crate::wal_archive::notes::{self, Position};
use std::fmt;
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::debug;

/// How often a segment that is on its way is looked for.
const TICK: Duration = Duration::from_millis(1);
/// A segment that arrives so slowly is asked of the store at once.
const STALL_MAX: Duration = Duration::from_millis(500);
/// When nothing came for so long, is there still somebody who fetches?
const DOUBT_AFTER: Duration = Duration::from_millis(20);

/// Fetching ahead was asked for.
#[derive(Clone, Debug)]
pub struct Ahead {
    /// Segments behind the requested one that the spool may hold.
    pub segments: NonZeroU64,
    pub companion: Arc<dyn StartCompanion>,
}

/// Starts, without waiting for it, what runs [`look_ahead`](crate::wal_archive::look_ahead) on
/// the same archive and spool, and outlives the caller.
pub trait StartCompanion: fmt::Debug + Send + Sync {
    fn start(&self) -> io::Result<()>;
}

impl Ahead {
    /// Tells where recovery is, and sees to it that somebody fetches what follows.
    pub fn announce(&self, spool: &Spool, position: &Position) -> Result<(), DiskError> {
        notes::set_position(spool, position)?;
        if self.is_well_filled(spool, position) || spool.lock()?.is_none() {
            return Ok(());
        }
        if let Err(error) = self.companion.start() {
            debug!(%error, "nothing is fetched ahead");
        }
        Ok(())
    }

    /// Half of the spool is plenty: a companion for each segment would cost more than it brings.
    fn is_well_filled(&self, spool: &Spool, position: &Position) -> bool {
        let route = notes::route(spool, position.size);
        let names = spool.names();
        let held = (1..=self.segments.get())
            .filter(|distance| {
                let number = position.segment.number + distance;
                let candidates = route.candidates(position.segment, number).into_iter();
                candidates.map(|it| it.name(position.size)).any(|name| names.contains(&name))
            })
            .count();
        u64::try_from(held).unwrap_or(u64::MAX) * 2 >= self.segments.get()
    }
}

/// Waits for a segment that a companion is just writing; returns when it is there, and as soon
/// as waiting makes no sense.
pub async fn arrival(spool: &Spool, name: &str, cancel: &Cancel) {
    let (mut seen, mut since) = (None, Instant::now());
    while let Some(bytes) = spool.arriving(name) {
        if seen != Some(bytes) {
            (seen, since) = (Some(bytes), Instant::now());
        }
        let still = since.elapsed();
        let abandoned = still > DOUBT_AFTER && matches!(spool.lock(), Ok(Some(_)));
        if abandoned || still > STALL_MAX || cancel.is_cancelled() {
            return;
        }
        tokio::time::sleep(TICK).await;
    }
}
