//! Creating an object where the store cannot refuse to overwrite: one writer at a time.
//!
//! ```text
//! claim <folder>/<content>-<random> → list <folder> → nobody else's claim? look, write, read back
//!                                                   → somebody's: withdraw, wait, try again
//! ```
//!
//! Who lists after having claimed sees everybody who claimed before, so of two writers at least
//! one sees the other, and who sees another one writes nothing. Claims for the same content do
//! not exclude each other. Crash points: a writer that was killed leaves its claim, which counts
//! for [`CLAIM_MAX`] by the store's own clock; before that nobody with other content gets in.

use crate::flow::{Backoff, random_token};
use crate::store::{
    Effect, ListEntry, ObjectKey, PutMode, PutOptions, PutOutcome, Store, StoreError,
    StoreErrorKind, StoreOperation, hex,
};
use bytes::Bytes;
use futures::stream::TryStreamExt;
use jiff::SignedDuration;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// How long a claim counts: longer than one write with all its retries takes.
const CLAIM_MAX: SignedDuration = SignedDuration::from_mins(15);

/// How long withdrawing may take after the command was told to stop.
const WITHDRAW_MAX: Duration = Duration::from_secs(5);

/// How often a writer gives way to others before it reports them.
const TRIES: u32 = 6;

/// The right to write, until it is given back.
#[derive(Debug)]
pub struct Claim {
    key: ObjectKey,
}

impl Store {
    /// Creates an object for which several writers may compete, on a store whose conditional
    /// writes do not work. `claims` is a folder for this object's claims alone.
    pub async fn put_alone(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        options: &PutOptions,
        claims: &str,
    ) -> Result<PutOutcome, StoreError> {
        let content = hex(&Sha256::digest(&bytes));
        let mut backoff = Backoff::new(self.retry());
        for _ in 0..TRIES {
            if let Some(claim) = self.claim(claims, &content).await? {
                let outcome = self.put(key, bytes, PutMode::Create, options).await;
                self.withdraw(claim).await;
                return outcome;
            }
            let Some(delay) = backoff.next_delay(None) else { break };
            self.pause(delay).await;
        }
        Err(StoreError {
            operation: StoreOperation::Write,
            kind: StoreErrorKind::Refused,
            effect: Effect::SurelyNot,
            object: self.url_of(key),
            reason: "somebody else is writing it with other content".into(),
            hint: Some("Do two clusters archive to the same server name?".into()),
        })
    }

    /// Claims a folder for one content; `None` when somebody claims it for another one.
    pub async fn claim(&self, folder: &str, content: &str) -> Result<Option<Claim>, StoreError> {
        let name = format!("{folder}/{content}-{}", random_token());
        let key = ObjectKey::parse_with_empty_segments(&name).expect("a folder and a checked name");
        let claim = Claim { key };
        match self.is_alone(&claim, folder, content).await {
            Ok(true) => Ok(Some(claim)),
            Ok(false) => {
                self.withdraw(claim).await;
                Ok(None)
            }
            Err(error) => {
                self.withdraw(claim).await;
                Err(error)
            }
        }
    }

    async fn is_alone(
        &self,
        claim: &Claim,
        folder: &str,
        content: &str,
    ) -> Result<bool, StoreError> {
        let body = Bytes::from_static(b"claim\n");
        self.put(&claim.key, body, PutMode::Overwrite, &PutOptions::default()).await?;
        let listed: Vec<ListEntry> = self.list(folder).try_collect().await?;
        // Gone when somebody held it for the claim of a dead process.
        let Some(ours) = listed.iter().find(|entry| entry.key == claim.key) else {
            return Ok(false);
        };
        let rival = |entry: &&ListEntry| {
            let same = entry.key.file_name().starts_with(&format!("{content}-"));
            !same && ours.modified.duration_since(entry.modified) < CLAIM_MAX
        };
        Ok(!listed.iter().any(|entry| rival(&entry)))
    }

    /// Deletes an object that may have been written when the command was told to stop, if it has
    /// this very content.
    pub async fn take_back(&self, key: &ObjectKey, content: &Bytes) {
        let store = self.regardless();
        let taking = async {
            if store.get(key).await.is_ok_and(|stored| stored.as_ref() == Some(content)) {
                store.delete(vec![key.clone()]).await;
            }
        };
        if self.stop.bounded(WITHDRAW_MAX, taking).await.is_none() {
            tracing::warn!(object = %self.url_of(key), "no time to take the object back");
        }
    }

    /// A short wait of random length, so that those who met do not meet again.
    pub async fn linger(&self) {
        if let Some(delay) = Backoff::new(self.retry()).next_delay(None) {
            self.pause(delay).await;
        }
    }

    /// Gives a claim back. One that stays counts for a while, and blocks others only.
    pub async fn withdraw(&self, claim: Claim) {
        let store = self.regardless();
        let Some(answers) = self.stop.bounded(WITHDRAW_MAX, store.delete(vec![claim.key])).await
        else {
            return;
        };
        for (key, answer) in answers {
            if let Err(error) = answer {
                tracing::debug!(object = %key, %error, "could not withdraw a claim");
            }
        }
    }
}
