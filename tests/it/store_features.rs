//! What only some stores have: tags, encryption, blocks, credentials that are checked.

use crate::support::http;
use crate::support::peers::{
    ACCOUNT, Kind, Peer, azure_get, google_fake, key, names, noise, s3_get, s3_headers, untagged,
};
use barman_cloud::store::{PutMode, PutOptions, PutOutcome, S3Encryption, Store, StoreErrorKind};
use bytes::Bytes;
use futures::TryStreamExt;
use std::num::NonZeroUsize;

fn tags() -> PutOptions {
    let tags = vec![("team".into(), "db one".into()), ("tier".into(), "gold".into())];
    PutOptions { tags, metadata: vec![("note", "kept apart".into())] }
}

async fn write_tagged(store: &Store) {
    store.put(&key("small"), Bytes::from("x"), PutMode::Create, &tags()).await.expect("put");
    let mut upload = store.upload(&key("large"), &tags()).await.expect("an upload");
    upload.put_part(vec![Bytes::from("x")]).await.expect("a part");
    upload.complete().await.expect("complete");
}

#[tokio::test]
async fn tags_reach_s3_as_object_tags() {
    for kind in [Kind::S3, Kind::S3Strict] {
        let Some(peer) = Peer::find(kind) else { continue };
        write_tagged(&peer.ready().await).await;
        for name in ["small", "large"] {
            let answer = s3_get(&peer, &format!("/{}/{name}?tagging", peer.bucket));
            for text in ["<Key>team</Key>", "<Value>db one</Value>", "<Value>gold</Value>"] {
                assert!(answer.contains(text), "{kind:?} {name}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn tags_reach_azure_as_blob_tags() {
    let Some(peer) = Peer::find(Kind::Azure) else { return };
    write_tagged(&peer.ready().await).await;
    for name in ["small", "large"] {
        let answer = azure_get(&peer, &format!("/{ACCOUNT}/{}/{name}?comp=tags", peer.bucket));
        for text in ["<Key>team</Key>", "<Value>db one</Value>", "<Value>gold</Value>"] {
            assert!(answer.contains(text), "{name}: {answer}");
        }
    }
}

#[tokio::test]
async fn tags_reach_google_as_metadata() {
    let peer = Peer::find(Kind::Google).expect("the fake");
    let store = peer.ready().await;
    write_tagged(&store).await;
    for name in ["small", "large"] {
        let target = format!("/storage/v1/b/{}/o/{name}", peer.bucket);
        let (status, answer) = http::request("GET", &peer.endpoint, &target, &[], "");
        let json: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!((status, json["metadata"]["team"].as_str()), (200, Some("db one")), "{answer}");
    }
    let unfit =
        PutOptions { tags: vec![("not a header".into(), "x".into())], ..PutOptions::default() };
    let refused = store.put(&key("unfit"), Bytes::new(), PutMode::Create, &unfit).await;
    assert_eq!(refused.expect_err("refused").kind, StoreErrorKind::Refused);
}

#[tokio::test]
async fn encryption_is_asked_for_on_s3() {
    let Some(peer) = Peer::find(Kind::S3) else { return };
    let kms = S3Encryption::Kms { key_id: Some("1234abcd-12ab-34cd-56ef-1234567890ab".into()) };
    let asked = [(S3Encryption::Aes256, "AES256", ""), (kms, "aws:kms", "1234abcd-12ab-34cd")];
    for (encryption, algorithm, key_id) in asked {
        let mut options = peer.options();
        options.s3_encryption = Some(encryption);
        let store = peer.ready_with(&options).await;
        store.delete(vec![key("small"), key("large")]).await;
        write_tagged(&store).await;
        for name in ["small", "large"] {
            let headers = s3_headers(&peer, &format!("/{}/{name}", peer.bucket)).await;
            let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
            assert_eq!(header("x-amz-server-side-encryption"), Some(algorithm), "{name}");
            let stored = header("x-amz-server-side-encryption-aws-kms-key-id").unwrap_or_default();
            assert!(stored.contains(key_id), "{name}: {stored}");
        }
    }
}

#[tokio::test]
async fn an_encryption_scope_is_signed_on_azure() {
    let Some(peer) = Peer::find(Kind::Azure) else { return };
    let mut options = peer.options();
    options.azure_encryption_scope = Some("scope1".into());
    let store = peer.ready_with(&options).await;
    write_tagged(&store).await;
    assert_eq!(store.get(&key("small")).await, Ok(Some(Bytes::from("x"))));
    assert_eq!(names(&store, "").await.len(), 2);
}

#[tokio::test]
async fn a_kms_key_reaches_google() {
    let peer = Peer::find(Kind::Google).expect("the fake");
    let mut options = peer.options();
    options.gcs_kms_key = Some("projects/p/keys/k".into());
    write_tagged(&peer.ready_with(&options).await).await;
    for name in ["small", "large"] {
        let kms_key = google_fake().kms_key(&peer.bucket, name);
        assert_eq!(kms_key.as_deref(), Some("projects/p/keys/k"), "{name}");
    }
}

#[tokio::test]
async fn azure_objects_above_the_single_put_size_are_written_in_blocks_and_never_replace() {
    let Some(peer) = Peer::find(Kind::Azure) else { return };
    let mut options = peer.options();
    options.azure_blocks.single_put_max_bytes = 1 << 20;
    options.azure_blocks.block_max_bytes = 300_000;
    options.azure_blocks.concurrency = NonZeroUsize::new(3).expect("3");
    let store = peer.ready_with(&options).await;
    let content = noise(2 << 20);
    for expected in [PutOutcome::Written, PutOutcome::AlreadyThere] {
        let outcome =
            store.put(&key("blocks"), content.clone(), PutMode::Create, &untagged()).await;
        assert_eq!(outcome, Ok(expected));
    }
    assert!(store.get(&key("blocks")).await.expect("get").expect("there") == content);
    let target = format!("/{ACCOUNT}/{}/blocks?comp=blocklist", peer.bucket);
    assert_eq!(azure_get(&peer, &target).matches("<Block>").count(), 7);
}

#[tokio::test]
async fn wrong_credentials_are_denied() {
    let wrong = [
        (Kind::S3Strict, "AWS_SECRET_ACCESS_KEY", "wrongwrong"),
        (Kind::S3Strict, "AWS_ACCESS_KEY_ID", "nobody"),
        (Kind::Azure, "AZURE_STORAGE_KEY", "d3Jvbmc="),
    ];
    for (kind, variable, value) in wrong {
        let Some(mut peer) = Peer::find(kind) else { continue };
        peer.ready().await;
        for (name, old) in &mut peer.variables {
            if *name == variable {
                *old = value.to_string();
            }
        }
        let store = peer.open(&peer.bucket, &peer.options());
        let any = key("any");
        let errors = [
            store.get(&any).await.expect_err("denied"),
            store.put(&any, Bytes::new(), PutMode::Create, &untagged()).await.expect_err("denied"),
            store.list("any").try_collect::<Vec<_>>().await.expect_err("denied"),
            store.bucket_exists().await.expect_err("denied"),
        ];
        for error in errors {
            assert_eq!(error.kind, StoreErrorKind::Denied, "{kind:?} {variable}: {error}");
            assert!(error.hint.is_some() && !error.to_string().contains(value), "{error}");
        }
    }
}
