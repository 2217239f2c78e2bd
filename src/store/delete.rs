//! Deleting many objects: batches side by side, one answer per key.

use crate::cloud::{Answer, Trace};
use crate::flow::Backoff;
use crate::store::handle::path;
use crate::store::{Effect, ObjectKey, Store, StoreError, StoreErrorKind, StoreOperation};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, StreamExt};
use object_store::ObjectStore;
use std::sync::Arc;

/// Batches in flight at once.
const BATCHES_AT_ONCE: usize = 4;

/// So few keys are not divided among several requests: a round trip costs more.
const SMALL_BATCH: usize = 100;

type Answers = Vec<(ObjectKey, Result<(), StoreError>)>;

impl Store {
    /// Deletes objects, in batches that the store takes, several side by side. An object that is not there counts as deleted.
    /// Every key gets its own answer, in the order given.
    pub async fn delete(&self, keys: Vec<ObjectKey>) -> Answers {
        let batches: Vec<BoxFuture<'_, Answers>> = keys
            .chunks(batch_keys(keys.len(), self.inner.delete_batch))
            .map(|batch| self.delete_batch(batch.to_vec()).boxed())
            .collect();
        let mut answered = stream::iter(batches).buffered(BATCHES_AT_ONCE);
        let mut answers = Vec::with_capacity(keys.len());
        while let Some(batch) = answered.next().await {
            answers.extend(batch);
        }
        answers
    }

    /// Asks again for those keys that the store was not able to answer for: what a lost answer
    /// has deleted counts as deleted.
    async fn delete_batch(&self, keys: Vec<ObjectKey>) -> Answers {
        let mut backoff = Backoff::new(self.retry());
        let mut answers = self.delete_once(keys).await;
        for _ in 1..self.retry().attempts_max {
            let open = |(_, answer): &&(ObjectKey, Result<(), StoreError>)| {
                answer.as_ref().is_err_and(|error| error.kind == StoreErrorKind::Interrupted)
            };
            let doubtful: Vec<_> =
                answers.iter().filter(open).map(|(key, _)| key.clone()).collect();
            let delay = if doubtful.is_empty() { None } else { backoff.next_delay(None) };
            let Some(delay) = delay else { break };
            self.pause(delay).await;
            let mut again = self.delete_once(doubtful).await.into_iter().peekable();
            for answer in &mut answers {
                if again.peek().is_some_and(|(key, _)| *key == answer.0) {
                    *answer = again.next().expect("peeked at");
                }
            }
        }
        answers
    }

    async fn delete_once(&self, keys: Vec<ObjectKey>) -> Answers {
        let trace = Trace::new();
        let asked = trace.follow(ask(Arc::clone(self.objects()), &keys));
        let answers = match self.unless_stopped(asked).await {
            Ok(answers) => answers,
            Err(stopped) => {
                let failed = |key: ObjectKey| {
                    let error = self.error(StoreOperation::Delete, &key, &trace, &stopped);
                    (key, Err(error))
                };
                return keys.into_iter().map(failed).collect();
            }
        };
        if let Some(objects) = &self.inner.one_by_one
            && answers.iter().any(Result::is_err)
            && refuses_batches(&trace)
        {
            let trace = Trace::new();
            let answers = trace.follow(ask(Arc::clone(objects), &keys)).await;
            return self.judge(keys, answers, &trace);
        }
        self.judge(keys, answers, &trace)
    }

    fn judge(
        &self,
        keys: Vec<ObjectKey>,
        answers: Vec<Result<(), object_store::Error>>,
        trace: &Trace,
    ) -> Answers {
        let judged: Vec<Result<(), StoreError>> = keys
            .iter()
            .zip(&answers)
            .map(|(key, answer)| match answer {
                Ok(()) => Ok(()),
                Err(error @ object_store::Error::NotFound { .. }) => self.gone(key, trace, error),
                Err(error) => Err(self.error(StoreOperation::Delete, key, trace, error)),
            })
            .collect();
        // A request that failed as a whole answers once for all of its keys.
        let whole =
            (answers.len() != keys.len()).then(|| judged.iter().find_map(|a| a.clone().err()));
        keys.into_iter()
            .enumerate()
            .map(|(index, key)| {
                let answer = match &whole {
                    None => judged[index].clone(),
                    Some(error) => Err(self.for_key(&key, error.clone(), trace)),
                };
                (key, answer)
            })
            .collect()
    }

    /// A missing object is as good as deleted; a missing bucket is not.
    fn gone(
        &self,
        key: &ObjectKey,
        trace: &Trace,
        error: &object_store::Error,
    ) -> Result<(), StoreError> {
        let code = match trace.last() {
            Some(Answer::Status { code: Some(code), .. }) => code,
            _ => String::new(),
        };
        if ["NoSuchBucket", "ContainerNotFound"].contains(&code.as_str()) {
            return Err(self.error(StoreOperation::Delete, key, trace, error));
        }
        // Azure answers each blob of a batch alone, and the library keeps of that only the
        // status line: "404 The specified container does not exist."
        if !root_text(error).contains("container does not exist") {
            return Ok(());
        }
        Err(StoreError {
            operation: StoreOperation::Delete,
            kind: StoreErrorKind::BucketMissing,
            effect: Effect::SurelyNot,
            object: self.url_of(key),
            reason: "the container does not exist (404 ContainerNotFound)".into(),
            hint: None,
        })
    }

    fn for_key(&self, key: &ObjectKey, error: Option<StoreError>, trace: &Trace) -> StoreError {
        let error = error.unwrap_or_else(|| {
            let unknown = std::io::Error::other("the answer does not name every object");
            self.error(StoreOperation::Delete, key, trace, &unknown)
        });
        StoreError { object: self.url_of(key), ..error }
    }
}

/// Keys of one request: servers work through them one after another, so that even what would
/// fit into one request is divided.
fn batch_keys(keys: usize, batch_max: usize) -> usize {
    keys.div_ceil(BATCHES_AT_ONCE).max(SMALL_BATCH).min(batch_max).max(1)
}

async fn ask(
    objects: Arc<dyn ObjectStore>,
    keys: &[ObjectKey],
) -> Vec<Result<(), object_store::Error>> {
    let paths: Vec<_> = keys.iter().map(|key| Ok(path(key))).collect();
    let deleted = objects.delete_stream(stream::iter(paths).boxed());
    deleted.map(|answer| answer.map(|_| ())).collect().await
}

fn root_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

/// Whether the dialect has no batch deletion: "not implemented", "method not allowed", or one
/// that insists on another checksum than we send.
fn refuses_batches(trace: &Trace) -> bool {
    match trace.last() {
        Some(Answer::Status { status: 405 | 501, .. }) => true,
        Some(Answer::Status { code: Some(code), .. }) => {
            ["MissingContentMD5", "NotImplemented", "MethodNotAllowed"].contains(&code.as_str())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::store::delete::batch_keys;

    #[test]
    fn batches_are_divided_among_requests_and_never_larger_than_the_store_takes() {
        for (keys, batch_max, batch) in [
            (0, 1000, 100),
            (3, 1000, 100),
            (400, 1000, 100),
            (1000, 1000, 250),
            (4000, 1000, 1000),
            (9000, 1000, 1000),
            (9000, 3, 3),
            (9000, 0, 1),
        ] {
            assert_eq!(batch_keys(keys, batch_max), batch, "{keys} keys");
        }
    }
}
