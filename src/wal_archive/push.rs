//! Archiving one file.
//!
//! ```text
//! open, check content ─┬─ read, digest and compress   (own threads)
//!                      ├─ whose archive is this       (one small GET)
//!                      ├─ does the store refuse to overwrite (one more at a named S3 endpoint)
//!                      └─ what lies under the name    (one LIST)
//!                      then one PUT that refuses to overwrite, and a look around (one LIST)
//! ```
//!
//! The questions run beside the compression; what is already there is never sent again.
//! Crash points: the PUT is the only change (but for `archive.json`, once in an archive's life);
//! a crash before it leaves nothing, after it the next try finds the same content and succeeds.
//! Memory: the object as stored, plus the window of its codec for each thread.

use crate::catalog::{Catalog, CatalogError};
use crate::codec::{Compression, CompressionLevel};
use crate::flow::{Cancel, Cancelled, Limits};
use crate::monitor::{Metric, Monitor};
use crate::pgdata::SystemIdentifier;
use crate::store::{ObjectKey, PutOptions, StoreErrorKind};
use crate::wal::{TimelineHistory, WalFileKind};
use crate::wal_archive::WalArchiveError;
use crate::wal_archive::compare::Comparison;
use crate::wal_archive::digest::PlainDigest;
use crate::wal_archive::source::{Source, header_of};
use crate::wal_archive::stored::{Stored, stored_form};
use std::path::Path;
use tracing::{info, warn};

/// How a file is archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushOptions {
    pub compression: Option<(Compression, CompressionLevel)>,
    pub tags: Vec<(String, String)>,
    /// Replace `tags` on timeline history files.
    pub history_tags: Option<Vec<(String, String)>>,
    pub other_content: OtherContent,
}

/// What happens when the archive holds other content under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherContent {
    Refuse,
    /// Replaced, and a warning logged (`--allow-overwrite`).
    Overwrite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    Archived,
    /// The same content was there, under this or another suffix; nothing was written.
    AlreadyArchived,
    /// Other content was there and has been replaced.
    Overwritten,
}

/// Archives the file at `path` under its own name. Success means that the store holds the bytes.
pub async fn push(
    path: &Path,
    catalog: &Catalog,
    options: &PushOptions,
    limits: &Limits,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<PushOutcome, WalArchiveError> {
    push_source(Source::open(path)?, catalog, options, limits, monitor, cancel).await
}

/// Archives a file that is open already.
pub(crate) async fn push_source(
    source: Source,
    catalog: &Catalog,
    options: &PushOptions,
    limits: &Limits,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<PushOutcome, WalArchiveError> {
    let push = Push { source, catalog, options, limits, cancel };
    let prepared = async {
        tokio::try_join!(push.stored_form(), push.check_owner(), push.copies(), push.dialect())
    };
    let (stored, (), copies, ()) = tokio::select! {
        ready = prepared => ready?,
        () = cancel.cancelled() => return Err(Cancelled.into()),
    };
    let bytes = u64::try_from(stored.bytes.len()).expect("a buffer's size fits 64 bits");
    let outcome = push.settle(stored, copies).await?;
    if outcome != PushOutcome::AlreadyArchived {
        monitor.add(Metric::StoredBytes, bytes);
    }
    info!(wal = %push.source.name(), bytes, outcome = ?outcome, "archived");
    Ok(outcome)
}

/// One file on its way; what becomes of it is told in `copies` and `owner`.
pub(crate) struct Push<'a> {
    pub source: Source,
    pub catalog: &'a Catalog,
    pub options: &'a PushOptions,
    pub limits: &'a Limits,
    pub cancel: &'a Cancel,
}

impl Push<'_> {
    async fn stored_form(&self) -> Result<Stored, WalArchiveError> {
        self.stored_form_as(self.options.compression).await
    }

    pub async fn stored_form_as(
        &self,
        compression: Option<(Compression, CompressionLevel)>,
    ) -> Result<Stored, WalArchiveError> {
        let (source, workers) = (self.source.clone(), self.limits.workers);
        let work = tokio::task::spawn_blocking(move || stored_form(&source, compression, workers));
        work.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Finds out what the store does with writes that must not replace: nothing where that is
    /// known, else one GET beside the others.
    async fn dialect(&self) -> Result<(), WalArchiveError> {
        self.catalog.conditional_writes().await?;
        Ok(())
    }

    /// How the stored copy differs, in full sentences.
    pub fn difference(&self, found: &Comparison) -> String {
        let first = match found {
            Comparison::Same => return "The stored copy is the same.".to_string(),
            Comparison::Unreadable { reason } => {
                return format!("The stored copy cannot be used: {reason}.");
            }
            Comparison::Different { stored_first } => stored_first,
        };
        let name = self.source.name();
        if name.kind() == WalFileKind::History {
            return self.history_difference(first);
        }
        let stored =
            header_of(name, first).map(|header| SystemIdentifier::new(header.system_identifier));
        match (stored, self.source.system_identifier()) {
            (Some(stored), Some(ours)) if stored != ours => format!(
                "The stored copy was written for system identifier {stored}, this cluster is {ours}."
            ),
            (Some(stored), _) => format!(
                "Both copies were written by system identifier {stored}: its history was rewritten \
                 without a new timeline."
            ),
            (None, _) => "The stored copy differs.".to_string(),
        }
    }

    fn history_difference(&self, stored: &[u8]) -> String {
        let timeline = self.source.name().timeline();
        let begin = |text: &[u8]| {
            let text = String::from_utf8_lossy(text);
            let history = TimelineHistory::parse(timeline, &text).ok()?;
            let last = history.switches().last()?;
            Some(format!("{} on timeline {}", last.at, last.parent))
        };
        let ours = self.source.content().ok();
        match (begin(stored), ours.as_deref().and_then(begin)) {
            (Some(stored), Some(ours)) => format!(
                "Two servers were promoted to timeline {timeline}: the stored one at {stored}, \
                 this one at {ours}."
            ),
            _ => "The stored copy differs.".to_string(),
        }
    }

    pub fn other_content(&self, key: &ObjectKey, detail: String) -> WalArchiveError {
        WalArchiveError::OtherContent {
            name: self.source.name().clone(),
            server: self.catalog.server(),
            object: self.catalog.store().url_of(key),
            detail,
        }
    }

    /// Who may only write still archives: the conditional PUT alone protects what is there.
    pub fn unless_denied(
        &self,
        error: WalArchiveError,
        question: &str,
    ) -> Result<(), WalArchiveError> {
        match error {
            WalArchiveError::Store(error) if error.kind == StoreErrorKind::Denied => {
                info!(wal = %self.source.name(), %error, question, "not allowed to look; archiving on");
                Ok(())
            }
            WalArchiveError::Catalog(error @ CatalogError::Malformed { .. }) => {
                warn!(wal = %self.source.name(), %error, "cannot tell whose archive this is");
                Ok(())
            }
            error => Err(error),
        }
    }

    pub fn put_options(&self, digest: &PlainDigest) -> PutOptions {
        let tags = match &self.options.history_tags {
            Some(tags) if self.source.name().kind() == WalFileKind::History => tags,
            _ => &self.options.tags,
        };
        PutOptions { tags: tags.clone(), metadata: digest.metadata() }
    }
}

#[cfg(test)]
mod tests {
    use crate::codec::{Compression, CompressionLevel};
    use crate::flow::Cancel;
    use crate::monitor::Silent;
    use crate::store::dialects::{Condition, Dialect};
    use crate::store::{PutMode, PutOptions as StorePutOptions, Store};
    use crate::wal::WalFileName;
    use crate::wal_archive::fixtures::{OURS, THEIRS, World, limits, name, push_options, segment};
    use crate::wal_archive::{OtherContent, PushOptions, PushOutcome, WalArchiveError, push};
    use std::path::Path;

    async fn pushed(
        world: &World,
        path: &Path,
        options: &PushOptions,
    ) -> Result<PushOutcome, WalArchiveError> {
        push(path, &world.catalog, options, &limits(), &Silent, &Cancel::new()).await
    }

    fn with(compression: Compression) -> PushOptions {
        PushOptions { compression: Some((compression, CompressionLevel::Low)), ..push_options() }
    }

    #[tokio::test]
    async fn a_segment_lands_under_its_suffix_beside_the_identity_of_the_archive() {
        let world = World::new();
        let path = world.file(&name(1), &segment(OURS, 1, 0));
        let outcome = pushed(&world, &path, &with(Compression::Zstd)).await.expect("push");
        assert_eq!(outcome, PushOutcome::Archived);
        let folder = "p/main/wals/0000000100000000";
        let expected = ["p/main/archive.json".to_string(), format!("{folder}/{}.zst", name(1))];
        assert_eq!(world.keys().await, expected);
        let identity = world.catalog.identity().await.expect("read").expect("identity");
        assert_eq!(identity.system_identifier.to_string(), OURS.to_string());
    }

    #[tokio::test]
    async fn a_push_is_one_put_two_questions_beside_the_compression_and_a_look_around() {
        let (store, requests) = Store::recording();
        let world = World::over(store);
        let first = world.file(&name(1), &segment(OURS, 1, 0));
        pushed(&world, &first, &with(Compression::Zstd)).await.expect("push");
        requests.take();
        let folder = "p/main/wals/0000000100000000";
        let key = |number| format!("{folder}/{}.zst", name(number));
        let second = world.file(&name(2), &segment(OURS, 2, 0));
        pushed(&world, &second, &with(Compression::Zstd)).await.expect("push");
        let (identity, list) = ("GET p/main/archive.json", format!("LIST {folder}"));
        let put = format!("PUT {}", key(2));
        assert_eq!(requests.take(), [identity, &list, &list, &put]);
        // The same again: its digest tells, and nothing is sent or decompressed.
        for again in [Compression::Zstd, Compression::Lz4] {
            pushed(&world, &second, &with(again)).await.expect("again");
            assert_eq!(requests.take(), [identity, &format!("HEAD {}", key(2)), &list], "{again}");
        }
    }

    #[tokio::test]
    async fn the_four_kinds_of_files_are_archived() {
        let world = World::new();
        let files = [
            (name(1), segment(OURS, 1, 0)),
            (format!("{}.partial", name(2)), segment(OURS, 2, 0)),
            ("00000002.history".into(), b"1\t0/3000000\tno recovery target\n".to_vec()),
            (format!("{}.00000028.backup", name(1)), b"START WAL LOCATION: 0/100028\n".to_vec()),
        ];
        for (name, content) in files {
            let path = world.file(&name, &content);
            let outcome = pushed(&world, &path, &with(Compression::Gzip)).await.expect(&name);
            assert_eq!(outcome, PushOutcome::Archived, "{name}");
        }
        assert_eq!(world.keys().await.len(), 5);
    }

    #[tokio::test]
    async fn the_same_content_again_is_success_and_writes_nothing() {
        let world = World::new();
        let path = world.file(&name(1), &segment(OURS, 1, 0));
        pushed(&world, &path, &with(Compression::Gzip)).await.expect("push");
        let keys = world.keys().await;
        for again in [Compression::Gzip, Compression::Zstd, Compression::Lz4] {
            let outcome = pushed(&world, &path, &with(again)).await.expect("again");
            assert_eq!(outcome, PushOutcome::AlreadyArchived, "{again}");
        }
        let outcome = pushed(&world, &path, &push_options()).await.expect("again");
        assert_eq!(outcome, PushOutcome::AlreadyArchived);
        assert_eq!(world.keys().await, keys);
    }

    #[tokio::test]
    async fn other_content_under_the_name_is_refused_whatever_its_suffix() {
        let world = World::new();
        let path = world.file(&name(1), &segment(OURS, 1, 0));
        pushed(&world, &path, &with(Compression::Gzip)).await.expect("push");
        let path = world.file(&name(1), &segment(OURS, 1, 99));
        for compression in [Compression::Gzip, Compression::Zstd] {
            let error = pushed(&world, &path, &with(compression)).await.expect_err("refused");
            assert!(matches!(error, WalArchiveError::OtherContent { .. }), "{error}");
            assert!(error.detail().expect("detail").contains("without a new timeline"));
        }
        assert_eq!(world.keys().await.len(), 2);
    }

    #[tokio::test]
    async fn an_archived_segment_stays_where_the_store_cannot_refuse_to_overwrite() {
        for condition in [Condition::Ignored, Condition::Refused] {
            let world = World::over(Dialect::new(condition, 1).open());
            let (ours, theirs) = (segment(OURS, 1, 0), segment(OURS, 1, 99));
            let outcome = pushed(&world, &world.file(&name(1), &ours), &push_options()).await;
            assert_eq!(outcome.expect("push"), PushOutcome::Archived);
            let outcome = pushed(&world, &world.file(&name(1), &ours), &push_options()).await;
            assert_eq!(outcome.expect("again"), PushOutcome::AlreadyArchived);
            let refused = pushed(&world, &world.file(&name(1), &theirs), &push_options()).await;
            let refused = refused.expect_err("other content");
            assert!(matches!(refused, WalArchiveError::OtherContent { .. }), "{refused}");
            let key =
                world.catalog.layout().wal(&WalFileName::parse(&name(1)).expect("name"), None);
            assert!(world.catalog.store().get(&key).await.expect("get").expect("there") == ours);
        }
    }

    #[tokio::test]
    async fn of_two_that_archive_one_name_at_once_the_loser_is_told_on_every_store() {
        for condition in [Condition::Honoured, Condition::Ignored, Condition::Refused] {
            for seed in 0..25 {
                let bucket = Dialect::new(condition, seed);
                let contents = [segment(OURS, 1, 0), segment(OURS, 1, 99)];
                let archived = |content| {
                    let world = World::over(bucket.open());
                    async move {
                        let path = world.file(&name(1), content);
                        pushed(&world, &path, &push_options()).await.is_ok()
                    }
                };
                let (one, two) = tokio::join!(archived(&contents[0]), archived(&contents[1]));
                assert!(!(one && two), "seed {seed}, {condition:?}: both were told success");
                let world = World::over(bucket.open());
                let name = WalFileName::parse(&name(1)).expect("name");
                let key = world.catalog.layout().wal(&name, None);
                let stored = world.catalog.store().get(&key).await.expect("get");
                for (won, content) in [one, two].into_iter().zip(&contents) {
                    assert!(!won || stored.as_deref() == Some(&content[..]), "seed {seed}");
                }
            }
        }
    }

    #[tokio::test]
    async fn allow_overwrite_replaces_other_content() {
        let world = World::new();
        let options = PushOptions { other_content: OtherContent::Overwrite, ..push_options() };
        let path = world.file(&name(1), &segment(OURS, 1, 0));
        assert_eq!(pushed(&world, &path, &options).await.expect("push"), PushOutcome::Archived);
        let outcome = pushed(&world, &path, &options).await.expect("again");
        assert_eq!(outcome, PushOutcome::AlreadyArchived);
        let path = world.file(&name(1), &segment(THEIRS, 1, 99));
        assert_eq!(pushed(&world, &path, &options).await.expect("push"), PushOutcome::Overwritten);
        let key = world.catalog.layout().wal(&WalFileName::parse(&name(1)).expect("name"), None);
        let stored = world.catalog.store().get(&key).await.expect("get").expect("object");
        assert_eq!(stored, segment(THEIRS, 1, 99));
    }

    #[tokio::test]
    async fn a_segment_of_another_cluster_is_refused_before_anything_is_written() {
        let world = World::new();
        let path = world.file(&name(1), &segment(OURS, 1, 0));
        pushed(&world, &path, &push_options()).await.expect("push");
        let keys = world.keys().await;
        let path = world.file(&name(2), &segment(THEIRS, 2, 0));
        let error = pushed(&world, &path, &push_options()).await.expect_err("refused");
        assert_eq!(
            error.to_string(),
            format!(
                "cannot archive WAL segment \"{}\": server name \"p/main\" holds the WAL of another cluster",
                name(2)
            )
        );
        let detail = error.detail().expect("detail");
        assert!(detail.contains(&OURS.to_string()) && detail.contains(&THEIRS.to_string()));
        assert_eq!(world.keys().await, keys);
    }

    #[tokio::test]
    async fn an_archive_that_barman_began_belongs_to_the_writer_of_its_newest_segment() {
        let world = World::new();
        let store = world.catalog.store();
        for (number, writer) in [(1, OURS), (2, THEIRS)] {
            let wal = WalFileName::parse(&name(number)).expect("name");
            let key = world.catalog.layout().wal(&wal, None);
            let content = segment(writer, number, 0).into();
            store
                .put(&key, content, PutMode::Create, &StorePutOptions::default())
                .await
                .expect("put");
        }
        let path = world.file(&name(3), &segment(OURS, 3, 0));
        let error = pushed(&world, &path, &push_options()).await.expect_err("refused");
        assert!(matches!(error, WalArchiveError::OtherCluster { .. }), "{error}");
        let path = world.file(&name(3), &segment(THEIRS, 3, 0));
        pushed(&world, &path, &push_options()).await.expect("push");
    }

    #[tokio::test]
    async fn what_barman_archived_counts_as_archived_whatever_its_algorithm() {
        for server in ["plain", "gzip", "bzip2", "xz", "snappy", "zstd", "lz4"] {
            let world = World::of_barman(server).await;
            let fixture = "walcomp/plain/wals/0000000100000000/00000001000000000000001A";
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/fixtures/barman-3.19.1/contract")
                .join(fixture);
            let keys = world.keys().await;
            let outcome = pushed(&world, &path, &with(Compression::Zstd)).await.expect(server);
            assert_eq!(outcome, PushOutcome::AlreadyArchived, "{server}");
            // Only the identity is new: the archive is now ours to guard.
            assert_eq!(world.keys().await.len(), keys.len() + 1);
        }
    }

    #[tokio::test]
    async fn files_that_are_not_what_their_name_says_are_refused() {
        let world = World::new();
        let segment_one = segment(OURS, 1, 0);
        let mut headless = segment_one.clone();
        headless[..40].fill(0);
        let cases: [(String, &[u8]); 9] = [
            (name(1), &[]),
            (name(1), &segment_one[..1000]),
            (name(1), b"<html>not found</html>"),
            (name(1), &headless),
            (name(2), &segment_one),
            (format!("{}.partial", name(2)), &segment_one),
            (format!("{}.partial", name(1)), &segment_one[..1 << 19]),
            ("00000002.history".into(), b"nonsense\n"),
            (format!("{}.00000028.backup", name(1)), &[]),
        ];
        for (name, content) in cases {
            let path = world.file(&name, content);
            let error = pushed(&world, &path, &push_options()).await.expect_err(&name);
            assert!(matches!(error, WalArchiveError::NotWal { .. }), "{name}: {error}");
        }
        let path = world.file(&name(1), &segment_one[..1000]);
        let error = pushed(&world, &path, &push_options()).await.expect_err("short");
        assert!(error.to_string().ends_with("it holds 1000 bytes instead of 1048576"), "{error}");
        let path = world.file("RECOVERYXLOG", b"x");
        let error = pushed(&world, &path, &push_options()).await.expect_err("name");
        assert!(matches!(error, WalArchiveError::BadName(_)), "{error}");
        let missing = world.path(&name(9));
        let error = pushed(&world, &missing, &push_options()).await.expect_err("missing");
        assert!(matches!(error, WalArchiveError::Source { .. }), "{error}");
        let directory = world.path(&name(8));
        std::fs::create_dir(&directory).expect("directory");
        assert!(pushed(&world, &directory, &push_options()).await.is_err());
        assert!(world.keys().await.is_empty());
    }

    #[tokio::test]
    async fn of_sixteen_clusters_archiving_at_once_one_owns_the_archive() {
        let world = World::new();
        let pushes = (0..16u64).map(|index| {
            let name = name(index);
            let path = world.file(&name, &segment(OURS + index % 2, index, 0));
            let (catalog, options) = (world.catalog.clone(), with(Compression::Lz4));
            tokio::spawn(async move {
                push(&path, &catalog, &options, &limits(), &Silent, &Cancel::new()).await
            })
        });
        let mut archived = 0;
        for outcome in futures::future::join_all(pushes).await {
            archived += usize::from(outcome.expect("task").is_ok());
        }
        assert_eq!(archived, 8);
        assert_eq!(world.keys().await.len(), 9);
    }

    #[tokio::test]
    async fn a_cancelled_push_says_so_and_writes_nothing() {
        let world = World::new();
        let path = world.file(&name(1), &segment(OURS, 1, 0));
        let cancel = Cancel::new();
        cancel.cancel();
        let outcome =
            push(&path, &world.catalog, &push_options(), &limits(), &Silent, &cancel).await;
        assert!(matches!(outcome, Err(WalArchiveError::Cancelled(_))));
        assert!(!world.keys().await.iter().any(|key| key.contains("wals")));
    }
}
