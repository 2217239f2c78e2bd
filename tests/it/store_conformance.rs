//! One suite that every kind of store passes: memory, a folder, S3, Azure, Google.
//!
//! What the emulators cannot prove: LocalStack checks no signatures (the strict S3 server does),
//! the Google fake checks no credentials and Azurite does not report an encryption scope back, so
//! there only the request is known to be accepted. Metadata servers, SSO, web identity and
//! regions exist nowhere here.

use crate::support::peers::{Kind, Peer, key, names, noise, on_every_store, put, untagged};
use barman_cloud::store::{
    Effect, FolderListing, ObjectKey, ObjectMeta, PutMode, PutOptions, PutOutcome, StoreError,
    StoreErrorKind,
};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::{join_all, try_join_all};
use std::collections::BTreeSet;
use std::num::NonZeroUsize;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_is_read_back() {
    on_every_store(|peer| async move {
        let store = peer.ready().await;
        for content in [Bytes::new(), Bytes::from_static(b"x"), noise(3 << 20)] {
            put(&store, "a/object", content.clone()).await;
            assert!(store.get(&key("a/object")).await.expect("get").expect("there") == content);
            let head = store.head(&key("a/object")).await.expect("head").expect("there");
            assert_eq!(head.bytes, u64::try_from(content.len()).expect("a length"));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_comes_back_with_an_object() {
    on_every_store(|peer| async move {
        let store = peer.ready().await;
        let noted = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let options =
            PutOptions { metadata: vec![("plainsha256", noted.into())], ..PutOptions::default() };
        let found = |meta: ObjectMeta| meta.metadata.get("plainsha256").cloned();
        for mode in [PutMode::Create, PutMode::Overwrite] {
            let key = key(&format!("noted/{mode:?}"));
            store.put(&key, Bytes::from("x"), mode, &options).await.expect("put");
            let head = store.head(&key).await.expect("head").expect("there");
            assert_eq!(found(head).as_deref(), Some(noted), "HEAD {mode:?}");
            let opened = store.get_stream(&key, None).await.expect("get").expect("there");
            assert_eq!(found(opened.0).as_deref(), Some(noted), "GET {mode:?}");
        }
        let plain = key("noted/nothing");
        put(&store, "noted/nothing", "x").await;
        let head = store.head(&plain).await.expect("head").expect("there");
        assert_eq!(found(head), None);
        assert_eq!(names(&store, "noted").await.len(), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_none() {
    on_every_store(|peer| async move {
        let store = peer.ready().await;
        let nothing = key("no/such/object");
        assert_eq!(store.get(&nothing).await, Ok(None));
        assert_eq!(store.head(&nothing).await, Ok(None));
        assert!(store.get_stream(&nothing, Some(2..5)).await.expect("an answer").is_none());
        assert_eq!(names(&store, "no").await, Vec::<String>::new());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_ends_where_it_was_asked_to() {
    on_every_store(|peer| async move {
        let store = peer.ready().await;
        put(&store, "digits", "0123456789").await;
        for (range, expected) in [(2..5, "234"), (0..10, "0123456789"), (8..99, "89"), (4..4, "")] {
            let opened = store.get_stream(&key("digits"), Some(range.clone())).await;
            let (meta, stream) = opened.expect("an answer").expect("there");
            let bytes: Vec<Bytes> = stream.try_collect().await.expect("bytes");
            assert_eq!(bytes.concat(), expected.as_bytes(), "{range:?}");
            assert_eq!(meta.bytes, 10);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_never_replaces() {
    on_every_store(|peer| async move {
    let store = peer.ready().await;
    let create = |text: &'static str| {
        let store = store.clone();
        async move { store.put(&key("one"), Bytes::from(text), PutMode::Create, &untagged()).await }
    };
    assert_eq!(create("first").await, Ok(PutOutcome::Written));
    assert_eq!(create("second").await, Ok(PutOutcome::AlreadyThere));
    assert_eq!(store.get(&key("one")).await, Ok(Some(Bytes::from("first"))));
    put(&store, "one", "third").await;
    assert_eq!(store.get(&key("one")).await, Ok(Some(Bytes::from("third"))));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sixteen_creators_one_wins() {
    on_every_store(|peer| async move {
        let store = peer.ready().await;
        for round in 0..5 {
            let name = key(&format!("race/{round}"));
            let racers = (0..16).map(|racer| {
                let (store, name) = (store.clone(), name.clone());
                tokio::spawn(async move {
                    let content = Bytes::from(format!("racer {racer}"));
                    store.put(&name, content, PutMode::Create, &untagged()).await
                })
            });
            let outcomes: Vec<PutOutcome> = join_all(racers)
                .await
                .into_iter()
                .map(|outcome| outcome.expect("a task").expect("an answer"))
                .collect();
            let winners: Vec<usize> =
                (0..16).filter(|racer| outcomes[*racer] == PutOutcome::Written).collect();
            assert_eq!(winners.len(), 1, "{outcomes:?}");
            let content = store.get(&name).await.expect("get").expect("there");
            assert_eq!(content, format!("racer {}", winners[0]));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_sent_at_once_become_one_object() {
    on_every_store(|peer| async move {
        let store = peer.ready().await;
        let content = noise((11 << 20) + 7);
        let mut upload = store.upload(&key("big"), &untagged()).await.expect("an upload");
        let parts: Vec<_> = content
            .chunks(5 << 20)
            .map(|part| {
                // Two chunks, to see that they are joined.
                let (head, tail) = part.split_at(part.len() / 2);
                upload.put_part(vec![Bytes::copy_from_slice(head), Bytes::copy_from_slice(tail)])
            })
            .collect();
        try_join_all(parts.into_iter().rev()).await.expect("parts");
        assert_eq!(store.get(&key("big")).await, Ok(None), "visible before it was complete");
        assert_eq!(names(&store, "").await, Vec::<String>::new());
        upload.complete().await.expect("complete");
        assert!(store.get(&key("big")).await.expect("get").expect("there") == content);
        let (_, stream) = store
            .get_stream(&key("big"), Some(5_000_000..6_000_000))
            .await
            .expect("ok")
            .expect("there");
        let middle: Vec<Bytes> = stream.try_collect().await.expect("bytes");
        assert!(middle.concat() == content[5_000_000..6_000_000]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_upload_leaves_no_object() {
    on_every_store(|peer| async move {
        let store = peer.ready().await;
        let mut upload = store.upload(&key("gone"), &untagged()).await.expect("an upload");
        upload.put_part(vec![noise(5 << 20)]).await.expect("a part");
        upload.abort().await.expect("abort");
        let mut upload = store.upload(&key("dropped"), &untagged()).await.expect("an upload");
        upload.put_part(vec![noise(1000)]).await.expect("a part");
        drop(upload);
        assert_eq!(names(&store, "").await, Vec::<String>::new());
        assert_eq!(store.get(&key("gone")).await, Ok(None));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_upload_left_is_found_below_its_folder_and_removed() {
    on_every_store(|peer| async move {
        let store = peer.ready().await;
        for name in ["main/base/a/data.tar", "mainly/b"] {
            let mut upload = store.upload(&key(name), &untagged()).await.expect("an upload");
            upload.put_part(vec![noise(1000)]).await.expect("a part");
            // As a process that is killed: nobody aborts it.
            std::mem::forget(upload);
        }
        put(&store, "main/base/a/data_0001.tar", "whole").await;
        let found = store.debris("main").await.expect("a listing");
        // A store in memory dies with its process, and Azure forgets blocks by itself.
        let told = !matches!(peer.kind, Kind::Memory | Kind::Azure);
        assert_eq!(found.len(), usize::from(told), "{found:?}");
        for debris in &found {
            assert!(debris.key.starts_with("main/base/a/data.tar"), "{debris}");
            store.remove_debris(debris).await.expect("removes");
            store.remove_debris(debris).await.expect("again");
        }
        assert!(store.debris("main").await.expect("a listing").is_empty());
        assert_eq!(store.debris("").await.expect("a listing").len(), usize::from(told));
        assert_eq!(names(&store, "main").await, ["main/base/a/data_0001.tar"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_without_parts_is_an_empty_object() {
    on_every_store(|peer| async move {
        let store = peer.ready().await;
        let upload = store.upload(&key("empty"), &untagged()).await.expect("an upload");
        upload.complete().await.expect("complete");
        assert_eq!(store.get(&key("empty")).await, Ok(Some(Bytes::new())));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_goes_over_pages_and_deletion_over_batches() {
    on_every_store(|peer| async move {
        let mut options = peer.options();
        options.delete_batch_size = NonZeroUsize::new(500);
        let store = peer.ready_with(&options).await;
        let expected: BTreeSet<String> = (0..1200).map(|n| format!("p/1/{n:04}")).collect();
        for names in expected.iter().cloned().collect::<Vec<_>>().chunks(64) {
            join_all(names.iter().map(|name| put(&store, name, "x"))).await;
        }
        // Neighbours that share the beginning of the prefix, but are not below it.
        put(&store, "p/10", "x").await;
        put(&store, "p/1x/y", "x").await;
        let listed = names(&store, "p/1").await;
        assert_eq!(listed.len(), 1200);
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
        assert_eq!(names(&store, "p/1/").await.len(), 1200);
        assert_eq!(names(&store, "").await.len(), 1202);
        let mut folder = store.list_folder("p").await.expect("a listing");
        folder.folders.sort();
        assert_eq!(folder.folders, ["1", "1x"]);
        assert_eq!(folder.objects.len(), 1, "p/10 and nothing below");
        let folder = store.list_folder("p/1").await.expect("a listing");
        assert_eq!((folder.objects.len(), folder.folders.len()), (1200, 0));
        assert_eq!(store.list_folder("p/2").await, Ok(FolderListing::default()));

        let mut doomed: Vec<ObjectKey> = expected.iter().map(|name| key(name)).collect();
        doomed.insert(3, key("p/1/never-was"));
        let answers = store.delete(doomed.clone()).await;
        assert!(answers.iter().map(|(name, _)| name).eq(&doomed), "another order");
        let failed = answers.iter().find(|(_, answer)| answer.is_err());
        assert_eq!(failed, None);
        let mut left = names(&store, "").await;
        left.sort();
        assert_eq!(left, ["p/10", "p/1x/y"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_with_one_beginning_are_found_in_their_folder_only() {
    on_every_store(|peer| async move {
        let store = peer.ready().await;
        for name in ["w/0A", "w/0A.gz", "w/0A.00000028.backup", "w/0B", "w/0A-folder/x", "x/0A"] {
            put(&store, name, "x").await;
        }
        let found = store.list_starting_with("w/0A").await.expect("a listing");
        let mut found: Vec<String> = found.into_iter().map(|entry| entry.key.to_string()).collect();
        found.sort();
        assert_eq!(found, ["w/0A", "w/0A.00000028.backup", "w/0A.gz"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_names_are_kept_to_the_byte() {
    on_every_store(|peer| async move {
        let store = peer.ready().await;
        let odd = ["a b", "ü/é", "pct%20x", "plus+and=amp&", "q?x", "tilde~", "(br)[ack]", "e'x!"];
        for name in odd {
            put(&store, &format!("odd/{name}"), name).await;
        }
        let mut listed = names(&store, "odd").await;
        let mut expected: Vec<String> = odd.iter().map(|name| format!("odd/{name}")).collect();
        listed.sort();
        expected.sort();
        assert_eq!(listed, expected);
        for name in odd {
            let read = store.get(&key(&format!("odd/{name}"))).await;
            assert_eq!(read, Ok(Some(Bytes::from(name))), "{name}");
        }
        let answers = store.delete(expected.iter().map(|name| key(name)).collect()).await;
        assert!(answers.iter().all(|(_, answer)| answer.is_ok()), "{answers:?}");
        assert_eq!(names(&store, "odd").await, Vec::<String>::new());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_bucket_is_an_error_and_never_none() {
    on_every_store(|peer| async move {
        if peer.kind == Kind::Memory {
            return;
        }
        let store = peer.open(&format!("{}-missing", peer.bucket), &peer.options());
        let any = key("any/key");
        let outcomes: Vec<(&str, Option<StoreError>)> = vec![
            ("get", store.get(&any).await.err()),
            ("head", store.head(&any).await.err()),
            ("put", store.put(&any, Bytes::from("x"), PutMode::Overwrite, &untagged()).await.err()),
            ("create", store.put(&any, Bytes::from("x"), PutMode::Create, &untagged()).await.err()),
            ("list", store.list("any").try_collect::<Vec<_>>().await.err()),
            ("delete", store.delete(vec![any.clone()]).await.remove(0).1.err()),
        ];
        for (operation, error) in outcomes {
            let error = error.unwrap_or_else(|| panic!("{operation} found something"));
            assert_eq!(error.kind, StoreErrorKind::BucketMissing, "{operation}: {error}");
            assert_eq!(error.effect, Effect::SurelyNot, "{operation}: {error}");
        }
        assert_eq!(store.bucket_exists().await, Ok(false));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_created_once_and_found() {
    on_every_store(|peer| async move {
        let store = peer.ready().await;
        assert_eq!(store.bucket_exists().await, Ok(true));
        assert_eq!(store.create_bucket().await, Ok(()));
        put(&store, "kept", "x").await;
        assert_eq!(store.create_bucket().await, Ok(()));
        assert_eq!(store.get(&key("kept")).await, Ok(Some(Bytes::from("x"))));
    })
    .await;
}

#[tokio::test]
async fn a_folder_keeps_its_files_private_and_its_unfinished_ones_hidden() {
    use std::os::unix::fs::PermissionsExt;
    let peer = Peer::find(Kind::Folder).expect("a folder");
    let store = peer.ready().await;
    put(&store, "a/b", "x").await;
    let root = std::path::Path::new(&peer.bucket);
    let mode = |path: &str| {
        std::fs::metadata(root.join(path)).expect("metadata").permissions().mode() & 0o777
    };
    assert_eq!((mode("a"), mode("a/b")), (0o700, 0o600));
    let mut upload = store.upload(&key("a/c"), &untagged()).await.expect("an upload");
    upload.put_part(vec![Bytes::from("x")]).await.expect("a part");
    assert_eq!(std::fs::read_dir(root.join("a")).expect("a folder").count(), 2);
    assert_eq!(names(&store, "").await, ["a/b"]);
    upload.abort().await.expect("abort");
    assert_eq!(std::fs::read_dir(root.join("a")).expect("a folder").count(), 1);
    let answers = store.delete(vec![key("a/b")]).await;
    assert!(answers[0].1.is_ok());
    assert!(!root.join("a").exists(), "an empty folder was left");
}
