//! Bringing one file back for recovery.
//!
//! ```text
//! spool ──────────────────────────────────────────────→ check → destination
//! GET <name>.<suffix seen last> ──┐
//! (or GET .gz beside a LIST)      ├→ decompress → temporary file → check → fsync → rename
//! LIST <name>* → GET what it says ┘        └→ first page known: position noted, companion started
//! ```
//!
//! What follows is fetched by a companion (`prefetch`), which no call waits for, but for a segment
//! that it is just writing.
//!
//! "Not there" is said only after a LIST of all names that could serve came back without one; a
//! GET that finds nothing is not believed alone, because some stores answer so for a bucket that
//! is gone. Nor is a LIST, where the server's folder is not there. Doubtful answers are asked
//! again until the deadline, then they are an error: an absence that is none would end a recovery
//! early. A damaged copy is passed over for a whole one under another suffix.
//! Memory: eight chunks of the network, 128 KiB and the codec's window; a history file's text.
//! Crash points: before it gets its name the file has none, or a temporary one that the next call
//! removes.

use crate::catalog::{Catalog, WalObject};
use crate::codec::Compression;
use crate::disk::{DiskError, Spool};
use crate::flow::{Backoff, Cancel, Cancelled, Limits};
use crate::monitor::{Metric, Monitor};
use crate::store::{StoreError, StoreErrorKind};
use crate::wal::{WalFileCheck, WalFileKind, WalFileName, WalPageHeader};
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::ahead::{Ahead, arrival};
use crate::wal_archive::locate::{Suffix, locate};
use crate::wal_archive::notes::{self, Position};
use crate::wal_archive::receive::{Destination, FirstPage, ObjectToFetch, receive};
use crate::wal_archive::source::segment_of;
use futures::stream::TryStreamExt;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

/// Tried beside the LIST while no suffix is known: what most archives use.
const FIRST_GUESS: Suffix = Some(Compression::Gzip);
/// How often a file may be listed and then not be there.
const VANISHED_MAX: u32 = 3;

/// How a file is fetched.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    pub partial: PartialSegments,
    pub absence: Absence,
    /// How the segments that follow a requested one get into the spool; `None`: they do not.
    pub ahead: Option<Ahead>,
    pub spool: SpoolOptions,
}

/// Where segments wait that were fetched ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolOptions {
    pub directory: PathBuf,
    /// All that tells this archive from any other: provider, endpoint, URL, server name.
    pub scope: String,
}

/// Whether a `.partial` file may stand in for its complete segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartialSegments {
    Accept,
    /// Also when it is asked for by its own name (`--no-partial`).
    Refuse,
}

/// When the store's word that a file is not there is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// When the listing was positive and, on a file system, the server's folder is there.
    Listed,
    /// When besides that the archive holds anything at all: for a recovery that ends with an
    /// absence. Costs one request more, for absent files only.
    InUse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    Delivered,
    /// The store said so.
    NotThere,
}

/// Brings the file `name` to `destination`, complete and durable or not at all.
pub async fn fetch(
    name: &WalFileName,
    destination: &Path,
    catalog: &Catalog,
    options: &FetchOptions,
    limits: &Limits,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<FetchOutcome, WalArchiveError> {
    if name.kind() == WalFileKind::Partial && options.partial == PartialSegments::Refuse {
        return Ok(FetchOutcome::NotThere);
    }
    let spool = Spool::new(&options.spool.directory, &options.spool.scope);
    let ahead = options.ahead.as_ref().filter(|_| is_usable(&spool));
    let fetch = Fetch { name, destination, catalog, options, ahead, spool: &spool, cancel };
    if fetch.take_from_spool().await {
        debug!(wal = %name, "delivered from the spool");
        return Ok(FetchOutcome::Delivered);
    }
    fetch.empty_spool();
    let (first_page, mut first_pages) = mpsc::channel(1);
    let requested = fetch.persistently(limits, first_page);
    let announced = async {
        // Without a first page (not a segment, not there) nothing can follow.
        if let Some(page) = first_pages.recv().await {
            fetch.remember(page.compression);
            fetch.announce(&page.header);
        }
    };
    let (delivered, ()) = tokio::join!(requested, announced);
    match delivered? {
        None => {
            debug!(wal = %name, "the archive does not hold it");
            Ok(FetchOutcome::NotThere)
        }
        Some(bytes) => {
            monitor.add(Metric::ClusterBytes, bytes);
            fetch.remember_history();
            info!(wal = %name, bytes, "fetched");
            Ok(FetchOutcome::Delivered)
        }
    }
}

/// A spool is there for speed: without a good one recovery goes on from the store.
fn is_usable(spool: &Spool) -> bool {
    let prepared = spool.prepare();
    if let Err(error) = &prepared {
        let cause = &error.cause;
        warn!(%error, %cause, "cannot use the spool, nothing is fetched ahead");
    }
    prepared.is_ok()
}

struct Fetch<'a> {
    name: &'a WalFileName,
    destination: &'a Path,
    catalog: &'a Catalog,
    options: &'a FetchOptions,
    /// `None` also when the spool cannot be used.
    ahead: Option<&'a Ahead>,
    spool: &'a Spool,
    cancel: &'a Cancel,
}

impl Fetch<'_> {
    /// Delivers what was fetched ahead, or arrives just now. Whatever is wrong with the spool or
    /// an entry, the file is fetched as if there had been none.
    async fn take_from_spool(&self) -> bool {
        let (name, spool) = (self.name, self.spool);
        if name.kind() != WalFileKind::Segment {
            return false;
        }
        if self.ahead.is_some() && !spool.holds(name.as_str()) {
            arrival(spool, name.as_str(), self.cancel).await;
        }
        match self.deliver_from_spool() {
            Ok(delivered) => delivered,
            Err(error) if self.ahead.is_some() => {
                warn!(wal = %name, %error, cause = %error.cause, "the spool is passed over");
                false
            }
            Err(error) => {
                debug!(wal = %name, %error, "the spool is not used");
                false
            }
        }
    }

    fn deliver_from_spool(&self) -> Result<bool, DiskError> {
        let name = self.name;
        let Some(mut spooled) = self.spool.take(name.as_str())? else { return Ok(false) };
        let mut check = WalFileCheck::new(name);
        check.take(&spooled.beginning(WalPageHeader::BYTES)?);
        if let Err(fault) = check.finish_with(spooled.bytes()?) {
            warn!(wal = %name, %fault, "dropped a damaged file from the spool");
            return Ok(false);
        }
        // Before the delivery: what follows is fetched while this one is made durable.
        if let Some(header) = check.header() {
            self.announce(&header);
        }
        spooled.deliver(self.destination)?;
        Ok(true)
    }

    /// Where nothing is fetched ahead any more, what lies in the spool was left by a companion that
    /// was killed: one that lives holds the lock until it has emptied it.
    fn empty_spool(&self) {
        if self.options.ahead.is_some() || self.spool.names().is_empty() {
            return;
        }
        if let Ok(Some(lock)) = self.spool.lock() {
            let _ = self.spool.remove_arriving(&lock);
            let _ = self.spool.retain(&lock, |_| false);
        }
    }

    /// Tells the companion where recovery is. Without one, recovery is only slower.
    fn announce(&self, header: &WalPageHeader) {
        let segment = segment_of(self.name, header.segment_size);
        let (Some(ahead), Some(segment)) = (self.ahead, segment) else { return };
        let position = Position { segment, size: header.segment_size };
        if let Err(error) = ahead.announce(self.spool, &position) {
            warn!(wal = %self.name, %error, "nothing is fetched ahead");
        }
    }

    /// Keeps a timeline history for the companion: the segments that follow depend on it.
    fn remember_history(&self) {
        if self.ahead.is_none() || self.name.kind() != WalFileKind::History {
            return;
        }
        let kept = std::fs::read_to_string(self.destination).ok();
        let kept = kept.map(|text| notes::set_history(self.spool, self.name.timeline(), &text));
        debug!(wal = %self.name, ?kept, "timeline history");
    }

    /// Tries until the store gives a clear answer or the deadline has come.
    async fn persistently(
        &self,
        limits: &Limits,
        first_page: mpsc::Sender<FirstPage>,
    ) -> Result<Option<u64>, WalArchiveError> {
        let mut backoff = Backoff::new(limits.retry);
        let mut vanished = 0;
        loop {
            let error = match self.attempt(first_page.clone()).await {
                Ok(Attempt::Delivered(bytes)) => return Ok(Some(bytes)),
                Ok(Attempt::NotThere) => return Ok(None),
                Ok(Attempt::Vanished(url)) => {
                    vanished += 1;
                    if vanished == VANISHED_MAX {
                        let reason = "it is listed and cannot be read".to_string();
                        return Err(WalArchiveError::Damaged { object: url, reason });
                    }
                    continue;
                }
                Err(WalArchiveError::Store(error)) if is_doubtful(error.kind) => error,
                Err(error) => return Err(error),
            };
            let Some(delay) = backoff.next_delay(None) else {
                let (attempts, elapsed) = backoff.spent();
                let name = self.name.clone();
                return Err(WalArchiveError::GaveUp {
                    name,
                    attempts,
                    elapsed,
                    source: Box::new(error),
                });
            };
            debug!(wal = %self.name, %error, ?delay, "asking again");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.cancel.cancelled() => return Err(Cancelled.into()),
            }
        }
    }

    async fn attempt(
        &self,
        first_page: mpsc::Sender<FirstPage>,
    ) -> Result<Attempt, WalArchiveError> {
        let likely = notes::suffix(self.spool);
        // Only without a hint: the LIST runs beside the guess, so that a wrong one costs nothing.
        let listing = likely.is_none().then(|| tokio::spawn(self.locate(likely)));
        let guess = self.object_of(likely.unwrap_or(FIRST_GUESS));
        let damage = match self.receive(&guess, first_page.clone()).await {
            Ok(Some(bytes)) => return Ok(Attempt::Delivered(bytes)),
            Ok(None) => None,
            // S3 answers so for a missing key when the caller may not list.
            Err(WalArchiveError::Store(error)) if error.kind == StoreErrorKind::Denied => None,
            // A copy under another suffix may be whole.
            Err(error) if is_damage(&error) => Some(error),
            Err(error) => return Err(error),
        };
        let located = async {
            match listing {
                Some(listing) => listing
                    .await
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())),
                None => self.locate(likely).await,
            }
        };
        let mut objects = tokio::select! {
            located = located => located?,
            () = self.cancel.cancelled() => return Err(Cancelled.into()),
        };
        if let Some(damage) = damage {
            objects.retain(|object| object.key != guess.key);
            return self.copies(objects, Some(damage), first_page).await;
        }
        match objects.is_empty() {
            true => self.absent().await,
            false => self.copies(objects, None, first_page).await,
        }
    }

    /// The first of the copies that is whole; else what was wrong with the first one.
    async fn copies(
        &self,
        objects: Vec<WalObject>,
        mut damage: Option<WalArchiveError>,
        first_page: mpsc::Sender<FirstPage>,
    ) -> Result<Attempt, WalArchiveError> {
        let mut vanished = None;
        for object in objects.into_iter().map(ObjectToFetch::from) {
            match self.receive(&object, first_page.clone()).await {
                Ok(Some(bytes)) => {
                    if let Some(error) = damage {
                        let delivered = object.key.as_str();
                        warn!(wal = %self.name, %error, delivered, "passed over a damaged copy");
                    }
                    return Ok(Attempt::Delivered(bytes));
                }
                Ok(None) => vanished = Some(self.catalog.store().url_of(&object.key)),
                Err(error) if is_damage(&error) => damage = damage.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        match (damage, vanished) {
            (Some(damage), _) => Err(damage),
            (None, Some(url)) => Ok(Attempt::Vanished(url)),
            (None, None) => Ok(Attempt::NotThere),
        }
    }

    /// What is not listed is not there, if this is an archive at all.
    async fn absent(&self) -> Result<Attempt, WalArchiveError> {
        let (store, root) = (self.catalog.store(), self.catalog.layout().root());
        let in_use = async {
            match self.options.absence {
                Absence::Listed => Ok(true),
                Absence::InUse => Ok(store.list(root).try_next().await?.is_some()),
            }
        };
        let in_use: Result<bool, StoreError> = tokio::select! {
            in_use = in_use => in_use,
            () = self.cancel.cancelled() => return Err(Cancelled.into()),
        };
        if store.vouches_for(root) && in_use? {
            return Ok(Attempt::NotThere);
        }
        let url = format!("{}/{root}", store.root_url());
        Err(WalArchiveError::NoArchive { name: self.name.clone(), url })
    }

    fn locate(
        &self,
        likely: Option<Suffix>,
    ) -> impl Future<Output = Result<Vec<WalObject>, WalArchiveError>> + use<> {
        let (catalog, name) = (self.catalog.clone(), self.name.clone());
        let partial = self.options.partial;
        async move { locate(&catalog, &name, partial, likely).await }
    }

    async fn receive(
        &self,
        object: &ObjectToFetch,
        first_page: mpsc::Sender<FirstPage>,
    ) -> Result<Option<u64>, WalArchiveError> {
        let destination = Destination::File(self.destination.to_path_buf());
        let store = self.catalog.store();
        let received = receive(store, object, destination, Some(first_page), self.cancel).await?;
        if received.is_some() {
            self.remember(object.compression);
        }
        Ok(received)
    }

    fn object_of(&self, compression: Suffix) -> ObjectToFetch {
        let key = self.catalog.layout().wal(self.name, compression);
        ObjectToFetch { key, compression, name: self.name.clone() }
    }

    /// Spares the next call its LIST. A spool that cannot be written costs only that.
    fn remember(&self, compression: Suffix) {
        if notes::suffix(self.spool) == Some(compression) {
            return;
        }
        let kept = self.spool.prepare().and_then(|()| notes::set_suffix(self.spool, compression));
        if let Err(error) = kept {
            debug!(%error, "the suffix seen last is not kept");
        }
    }
}

enum Attempt {
    Delivered(u64),
    NotThere,
    /// Listed, then gone: with its URL.
    Vanished(String),
}

/// Whether the object, and not the way to it, is the trouble.
fn is_damage(error: &WalArchiveError) -> bool {
    matches!(error, WalArchiveError::Damaged { .. } | WalArchiveError::Codec(_))
}

/// Whether asking again may give another answer. So may what nobody understood: the page of a
/// balancer that has lost its servers.
fn is_doubtful(kind: StoreErrorKind) -> bool {
    match kind {
        StoreErrorKind::Unreachable | StoreErrorKind::Interrupted | StoreErrorKind::Other => true,
        StoreErrorKind::Denied
        | StoreErrorKind::NoCredentials
        | StoreErrorKind::BucketMissing
        | StoreErrorKind::ObjectMissing
        | StoreErrorKind::Refused
        | StoreErrorKind::Full
        | StoreErrorKind::Stopped => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::codec::{Compression, CompressionLevel};
    use crate::flow::Cancel;
    use crate::monitor::Silent;
    use crate::store::{PutMode, PutOptions as StorePutOptions, Store};
    use crate::wal::WalFileName;
    use crate::wal_archive::fixtures::{
        OURS, World, files_below, limits, name, push_options, segment,
    };
    use crate::wal_archive::{
        FetchOptions, FetchOutcome, PartialSegments, PushOptions, WalArchiveError, fetch, push,
    };
    use sha2::{Digest, Sha256};
    use std::path::Path;

    async fn archive(world: &World, name: &str, content: &[u8], compression: Option<Compression>) {
        let path = world.file(name, content);
        let compression = compression.map(|compression| (compression, CompressionLevel::Low));
        let options = PushOptions { compression, ..push_options() };
        push(&path, &world.catalog, &options, &limits(), &Silent, &Cancel::new())
            .await
            .expect("push");
        std::fs::remove_file(path).expect("remove");
    }

    async fn store_raw(
        world: &World,
        name: &str,
        compression: Option<Compression>,
        content: Vec<u8>,
    ) {
        let key = world.catalog.layout().wal(&WalFileName::parse(name).expect("name"), compression);
        let options = StorePutOptions::default();
        let put = world.catalog.store().put(&key, content.into(), PutMode::Overwrite, &options);
        put.await.expect("put");
    }

    async fn fetched(
        world: &World,
        name: &str,
        destination: &Path,
        options: &FetchOptions,
    ) -> Result<FetchOutcome, WalArchiveError> {
        let name = WalFileName::parse(name).expect("name");
        let cancel = Cancel::new();
        fetch(&name, destination, &world.catalog, options, &limits(), &Silent, &cancel).await
    }

    #[tokio::test]
    async fn every_suffix_is_found_with_and_without_a_hint() {
        let world = World::new();
        let all = std::iter::once(None).chain(Compression::ALL.into_iter().map(Some));
        let archived: Vec<_> = (1..).zip(all).collect();
        for (number, compression) in &archived {
            archive(&world, &name(*number), &segment(OURS, *number, 0), *compression).await;
        }
        // The second round finds each one behind a hint that names the suffix before it.
        for round in 0..2 {
            for (number, compression) in &archived {
                let destination = world.path("RECOVERYXLOG");
                let options = world.fetch_options(0);
                if round == 0 {
                    std::fs::remove_dir_all(world.path("spool")).ok();
                }
                let outcome = fetched(&world, &name(*number), &destination, &options).await;
                assert_eq!(outcome.expect("fetch"), FetchOutcome::Delivered, "{compression:?}");
                assert_eq!(std::fs::read(&destination).expect("read"), segment(OURS, *number, 0));
            }
        }
        assert_eq!(files_below(world.directory.path()), ["RECOVERYXLOG", "suffix"]);
    }

    #[tokio::test]
    async fn a_fetch_behind_a_hint_is_one_get_and_an_absence_one_get_and_one_list() {
        let (store, requests) = Store::recording();
        let world = World::over(store);
        for number in 1..4 {
            archive(&world, &name(number), &segment(OURS, number, 0), Some(Compression::Zstd))
                .await;
        }
        let (destination, options) = (world.path("out"), world.fetch_options(0));
        let folder = "p/main/wals/0000000100000000";
        let get = |number, suffix| format!("GET {folder}/{}.{suffix}", name(number));
        let list = format!("LIST {folder}");
        requests.take();
        fetched(&world, &name(1), &destination, &options).await.expect("fetch");
        assert_eq!(requests.take(), [get(1, "gz"), get(1, "zst"), list.clone()]);
        fetched(&world, &name(2), &destination, &options).await.expect("fetch");
        assert_eq!(requests.take(), [get(2, "zst")]);
        fetched(&world, &name(9), &destination, &options).await.expect("fetch");
        assert_eq!(requests.take(), [get(9, "zst"), list]);
    }

    #[tokio::test]
    async fn the_four_kinds_of_files_come_back_by_name() {
        let world = World::new();
        let files = [
            (name(1), segment(OURS, 1, 0)),
            (format!("{}.partial", name(2)), segment(OURS, 2, 0)),
            ("00000002.history".to_string(), b"1\t0/3000000\tno recovery target\n".to_vec()),
            (format!("{}.00000028.backup", name(1)), b"START WAL LOCATION: 0/100028\n".to_vec()),
        ];
        for (name, content) in &files {
            archive(&world, name, content, Some(Compression::Gzip)).await;
        }
        for (name, content) in &files {
            let destination = world.path("out");
            let outcome = fetched(&world, name, &destination, &world.fetch_options(0)).await;
            assert_eq!(outcome.expect("fetch"), FetchOutcome::Delivered);
            assert_eq!(&std::fs::read(&destination).expect("read"), content);
        }
    }

    #[tokio::test]
    async fn what_is_not_archived_is_not_there_and_leaves_nothing() {
        let world = World::new();
        archive(&world, &format!("{}.00000028.backup", name(1)), b"label", None).await;
        for name in [name(1), name(2), "00000002.history".into()] {
            let outcome = fetched(&world, &name, &world.path("out"), &world.fetch_options(4)).await;
            assert_eq!(outcome.expect("fetch"), FetchOutcome::NotThere, "{name}");
        }
        assert!(files_below(world.directory.path()).is_empty());
    }

    #[tokio::test]
    async fn a_partial_segment_stands_in_unless_refused_and_never_for_a_complete_one() {
        let world = World::new();
        let partial = format!("{}.partial", name(1));
        archive(&world, &partial, &segment(OURS, 1, 7), Some(Compression::Gzip)).await;
        let accept = world.fetch_options(4);
        let refuse = FetchOptions { partial: PartialSegments::Refuse, ..accept.clone() };
        let destination = world.path("out");
        for requested in [&name(1), &partial] {
            let outcome = fetched(&world, requested, &destination, &refuse).await.expect("fetch");
            assert_eq!(outcome, FetchOutcome::NotThere);
            let outcome = fetched(&world, requested, &destination, &accept).await.expect("fetch");
            assert_eq!(outcome, FetchOutcome::Delivered);
        }
        archive(&world, &name(1), &segment(OURS, 1, 8), Some(Compression::Zstd)).await;
        fetched(&world, &name(1), &destination, &accept).await.expect("fetch");
        assert_eq!(std::fs::read(&destination).expect("read"), segment(OURS, 1, 8));
    }

    #[tokio::test]
    async fn what_barman_archived_with_any_algorithm_comes_back_to_the_byte() {
        let files = [
            (
                "00000001000000000000001A",
                "02966a52c53a4bffed248ec8cf41f17a6ed2d67a248c63ee8941b367dede4e1f",
            ),
            (
                "00000002.history",
                "ac0e8285e4b6cd1a3455fd4456c651fe0c343269633c04ff87fd1961d2af8b6a",
            ),
            (
                "000000010000000000000019.00000028.backup",
                "1a323aa02bbdc37c731fe80443df2078c63a1f54eb4268c6dccd1d35a9a4466c",
            ),
        ];
        let servers = ["plain", "gzip", "bzip2", "xz", "snappy", "zstd", "lz4"];
        for server in servers {
            let world = World::of_barman(server).await;
            for (name, sha256) in files {
                let destination = world.path("out");
                let outcome = fetched(&world, name, &destination, &world.fetch_options(0)).await;
                assert_eq!(outcome.expect("fetch"), FetchOutcome::Delivered);
                let content = std::fs::read(&destination).expect("read");
                let digest: String =
                    Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(digest, sha256, "{server} {name}");
            }
        }
        let world = World::of_barman("zstd").await;
        let (name, destination) = ("00000001000000000000001B", world.path("out"));
        fetched(&world, name, &destination, &world.fetch_options(0)).await.expect("fetch");
        let content = std::fs::read(&destination).expect("read");
        assert!(Sha256::digest(&content).starts_with(&[0xb6, 0xa7, 0x30, 0x9f]));
    }

    #[tokio::test]
    async fn damaged_objects_are_errors_and_leave_nothing() {
        let good = segment(OURS, 1, 0);
        let zstd = crate::codec::compress(Compression::Zstd, 3, &good).expect("compresses");
        let damages = [
            (None, good[..500_000].to_vec()),
            (None, [good.clone(), vec![0]].concat()),
            (None, segment(OURS, 2, 0)),
            (Some(Compression::Zstd), zstd[..zstd.len() / 2].to_vec()),
            (Some(Compression::Zstd), Vec::new()),
            (Some(Compression::Gzip), b"not gzip at all".to_vec()),
        ];
        for (compression, content) in damages {
            let world = World::new();
            store_raw(&world, &name(1), compression, content).await;
            let (destination, options) = (world.path("out"), world.fetch_options(3));
            let error = fetched(&world, &name(1), &destination, &options).await;
            let error = error.expect_err("damaged");
            assert!(matches!(error, WalArchiveError::Damaged { .. }), "{error}");
            let left = files_below(world.directory.path());
            assert!(left.iter().all(|name| ["position", "suffix"].contains(&name.as_str())));
        }
    }

    #[tokio::test]
    async fn a_poisoned_spool_is_not_believed() {
        let world = World::new();
        for number in 1..4 {
            archive(&world, &name(number), &segment(OURS, number, 0), None).await;
        }
        let options = world.fetch_options(3);
        let destination = world.path("out");
        fetched(&world, &name(1), &destination, &options).await.expect("fetch");
        world.look_ahead(3).await;
        // Under Barman's name, under a name of ours with a wrong checksum, and with a right one.
        let wrong = segment(OURS, 9, 9);
        world_spool_write(&world, &name(2), &wrong);
        world_spool_write(&world, &format!("{}.00000000", name(2)), &wrong);
        let right = crc32c::crc32c(&wrong);
        world_spool_write(&world, &format!("{}.{right:08x}", name(3)), &wrong);
        std::fs::write(world.path("spool").join(name(2)), &wrong).expect("write");
        for number in [2, 3] {
            fetched(&world, &name(number), &destination, &options).await.expect("fetch");
            assert_eq!(std::fs::read(&destination).expect("read"), segment(OURS, number, 0));
        }
    }

    fn world_spool_write(world: &World, name: &str, content: &[u8]) {
        let mut folders = std::fs::read_dir(world.path("spool")).expect("spool");
        let folder = folders.find_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()));
        std::fs::write(folder.expect("folder").path().join(name), content).expect("write");
    }

    #[tokio::test]
    async fn a_destination_that_cannot_be_written_is_an_error_of_the_disk() {
        let world = World::new();
        archive(&world, &name(1), &segment(OURS, 1, 0), None).await;
        let destination = world.path("missing/out");
        let error = fetched(&world, &name(1), &destination, &world.fetch_options(0)).await;
        assert!(matches!(error, Err(WalArchiveError::Disk(_))));
    }
}
