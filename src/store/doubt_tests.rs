//! Stores whose conditional writes do not work, and answers that get lost.

use crate::store::dialects::{Condition, Dialect};
use crate::store::{ConditionalWrites, ObjectKey, PutMode, PutOptions, PutOutcome, Store};
use bytes::Bytes;
use futures::future::join_all;
use futures::stream::TryStreamExt;

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).expect("key")
}

async fn put_alone(store: &Store, content: &'static str) -> Option<PutOutcome> {
    store.learn_conditional_writes("main").await.expect("learns");
    let (key, content) = (key("main/wals/X"), Bytes::from_static(content.as_bytes()));
    store.put_alone(&key, content, &PutOptions::default(), "main/claims/X").await.ok()
}

#[tokio::test]
async fn what_a_store_does_with_conditions_is_found_out_and_not_believed() {
    for (condition, expected) in [
        (Condition::Honoured, ConditionalWrites::Honoured),
        (Condition::Ignored, ConditionalWrites::Ignored),
        (Condition::Refused, ConditionalWrites::Refused),
    ] {
        let bucket = Dialect::new(condition, 1);
        assert_eq!(bucket.open().learn_conditional_writes("main").await, Ok(expected));
        // Somebody else finds the note, with one request, and the same handle asks no more.
        let (store, _) = (bucket.open(), bucket.requests());
        assert_eq!(store.learn_conditional_writes("main").await, Ok(expected));
        assert_eq!(store.learn_conditional_writes("main").await, Ok(expected));
        assert_eq!(bucket.requests(), 1, "{condition:?}");
    }
}

#[tokio::test]
async fn those_who_find_it_out_at_once_find_the_same() {
    for seed in 0..300 {
        let bucket = Dialect::new(Condition::Ignored, seed);
        let finders = (0..4).map(|_| {
            let store = bucket.open();
            async move { store.learn_conditional_writes("main").await }
        });
        for found in join_all(finders).await {
            assert_eq!(found, Ok(ConditionalWrites::Ignored), "seed {seed}");
        }
    }
}

#[tokio::test]
async fn an_object_is_not_replaced_where_conditions_do_nothing() {
    for condition in [Condition::Ignored, Condition::Refused] {
        let store = Dialect::new(condition, 1).open();
        store.learn_conditional_writes("").await.expect("learns");
        for (content, outcome) in [("a", PutOutcome::Written), ("b", PutOutcome::AlreadyThere)] {
            let (key, options) = (key("k"), PutOptions::default());
            let put = store.put(&key, content.into(), PutMode::Create, &options).await;
            assert_eq!(put, Ok(outcome), "{condition:?}");
        }
        assert_eq!(store.get(&key("k")).await, Ok(Some("a".into())));
    }
}

/// No order of requests lets a writer believe that its content is there when it is not.
#[tokio::test]
async fn of_two_writers_without_conditions_no_loser_is_told_that_it_won() {
    for condition in [Condition::Ignored, Condition::Refused] {
        let mut won = 0;
        for seed in 0..600 {
            let bucket = Dialect::new(condition, seed);
            let contents = ["ours", "theirs", "ours"];
            let writers = contents.map(|content| {
                let store = bucket.open();
                async move { (content, put_alone(&store, content).await) }
            });
            let outcomes = join_all(writers).await;
            let store = bucket.open();
            let stored = store.get(&key("main/wals/X")).await.expect("get");
            for (content, outcome) in &outcomes {
                if *outcome == Some(PutOutcome::Written) {
                    let told = format!("seed {seed}, {condition:?}: {outcomes:?}");
                    assert_eq!(stored.as_deref(), Some(content.as_bytes()), "{told}");
                    won += 1;
                }
            }
            let claims: Vec<_> = store.list("main/claims").try_collect().await.expect("list");
            assert!(claims.is_empty(), "seed {seed}: {claims:?}");
        }
        assert!(won > 450, "writers give way for ever: {won}");
    }
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_a_write() {
    let bucket = Dialect::new(Condition::Honoured, 1);
    let (store, options) = (bucket.open(), PutOptions::default());
    for (name, mode) in [("a", PutMode::Create), ("b", PutMode::Overwrite)] {
        bucket.lose_answers(1);
        let put = store.put(&key(name), "content".into(), mode, &options).await;
        assert_eq!(put, Ok(PutOutcome::Written), "{mode:?}");
    }
    bucket.lose_answers(1);
    let put = store.put(&key("a"), "other".into(), PutMode::Create, &options).await;
    assert_ne!(put, Ok(PutOutcome::Written));
    assert_eq!(store.get(&key("a")).await, Ok(Some("content".into())));
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_is_the_object_and_never_an_older_one() {
    let bucket = Dialect::new(Condition::Honoured, 1);
    let (store, options) = (bucket.open(), PutOptions::default());
    let begun = async || {
        let mut upload = store.upload(&key("tar"), &options).await.expect("begins");
        upload.put_part(vec![Bytes::from_static(b"same size")]).await.expect("a part");
        upload
    };
    let upload = begun().await;
    bucket.lose_answers(1);
    assert!(upload.complete().await.is_ok());
    // Now an object of this size is there, but of another upload.
    let upload = begun().await;
    bucket.lose_requests(1);
    assert!(upload.complete().await.is_err());
}
