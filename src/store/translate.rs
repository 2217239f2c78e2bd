//! From what a cloud answered to what it means.
//!
//! `object_store` says too little (no code, and a missing bucket looks like a missing object) and
//! repeats itself, so errors are made from the [`Trace`] of the operation; the library's own
//! error counts only where no request was sent.

use crate::cloud::{Answer, Trace};
use crate::flow::Cancelled;
use crate::store::local::FolderMissing;
use crate::store::{Effect, StoreError, StoreErrorKind, StoreOperation};
use std::error::Error;
use std::io;

/// What is known about a failure besides the operation and its object.
struct Meaning {
    kind: StoreErrorKind,
    reason: String,
    hint: Option<&'static str>,
}

/// Makes the error of one operation on one object.
pub fn store_error(
    operation: StoreOperation,
    object: String,
    trace: &Trace,
    error: &(dyn Error + 'static),
) -> StoreError {
    let meaning = match (trace.last(), trace.identity_failure()) {
        _ if is_stopped(error) => {
            Meaning { kind: StoreErrorKind::Stopped, reason: Cancelled.to_string(), hint: None }
        }
        (Some(answer), _) => of_answer(&answer, trace, operation),
        (None, Some(why)) => no_credentials(why, trace),
        (None, None) => of_library(error),
    };
    StoreError {
        operation,
        kind: meaning.kind,
        effect: effect(operation, meaning.kind, trace),
        object,
        reason: meaning.reason,
        hint: meaning.hint.map(Into::into),
    }
}

fn is_stopped(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<Cancelled>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Whether an answer of 404 says that the object, and not something else, is missing.
///
/// Anything but these codes (a proxy's page, a missing bucket) proves nothing.
pub fn says_object_missing(answer: &Answer) -> bool {
    let missing = ["NoSuchKey", "BlobNotFound"];
    matches!(answer, Answer::Status { status: 404, code: Some(code), .. } if missing.contains(&code.as_str()))
}

fn of_answer(answer: &Answer, trace: &Trace, operation: StoreOperation) -> Meaning {
    match answer {
        Answer::Status { status, code, region, .. } => {
            of_status(answer, *status, code.as_deref(), region.as_deref(), trace, operation)
        }
        Answer::Unreachable { detail } => Meaning {
            kind: StoreErrorKind::Unreachable,
            reason: format!("no connection: {detail}{}", spent(trace)),
            hint: Some("Are the endpoint URL, the region and the proxy variables right?"),
        },
        Answer::Untrusted { detail } => Meaning {
            kind: StoreErrorKind::Unreachable,
            reason: format!("no trusted connection: {detail}"),
            hint: Some(
                "AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE names a file with the certificate of your \
                 authority, or of the server itself if it is self-signed.",
            ),
        },
        Answer::Silent { .. } | Answer::Cut { .. } => Meaning {
            kind: StoreErrorKind::Interrupted,
            reason: format!("{answer}{}", spent(trace)),
            hint: None,
        },
    }
}

fn of_status(
    answer: &Answer,
    status: u16,
    code: Option<&str>,
    region: Option<&str>,
    trace: &Trace,
    operation: StoreOperation,
) -> Meaning {
    let words = answer.to_string();
    let meaning =
        |kind, text: &str, hint| Meaning { kind, reason: format!("{text} ({words})"), hint };
    match (status, code.unwrap_or_default()) {
        (_, "NoSuchBucket" | "ContainerNotFound") => meaning(
            StoreErrorKind::BucketMissing,
            "the bucket does not exist",
            Some("Is its name right? barman-cloud-check-wal-archive creates a missing bucket."),
        ),
        (404, "NoSuchUpload") => {
            meaning(StoreErrorKind::ObjectMissing, "the upload was ended by somebody else", None)
        }
        (404, code) if says_object_missing(answer) || code == "XAdminUserNotFound" => {
            if code == "XAdminUserNotFound" {
                return meaning(
                    StoreErrorKind::Denied,
                    "access denied",
                    denied_hint(code, operation),
                );
            }
            meaning(StoreErrorKind::ObjectMissing, "there is no such object", None)
        }
        (_, "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull") | (507, _) => {
            meaning(StoreErrorKind::Full, "the store is full", None)
        }
        (301 | 307 | 308, _) | (_, "AuthorizationHeaderMalformed") => {
            let reason = match region {
                Some(region) => format!("the bucket is in region \"{region}\" ({words})"),
                None => format!("the bucket is elsewhere ({words})"),
            };
            let hint = Some("Set AWS_DEFAULT_REGION to the bucket's region.");
            Meaning { kind: StoreErrorKind::Refused, reason, hint }
        }
        (401 | 403, code) => {
            meaning(StoreErrorKind::Denied, "access denied", denied_hint(code, operation))
        }
        (404, _) => meaning(
            StoreErrorKind::Other,
            "the answer does not say what is missing",
            Some("Is there something else than an object store at the endpoint URL?"),
        ),
        (408 | 429 | 500..=599, _) if status != 501 => Meaning {
            kind: StoreErrorKind::Interrupted,
            reason: format!("the store is not able to answer ({words}){}", spent(trace)),
            hint: None,
        },
        _ => Meaning { kind: StoreErrorKind::Refused, reason: refusal(answer, &words), hint: None },
    }
}

/// The store's own sentence says most about a request it did not like.
fn refusal(answer: &Answer, words: &str) -> String {
    match answer {
        Answer::Status { message: Some(message), .. } => {
            format!("the store refused: {} ({words})", message.trim_end_matches('.'))
        }
        _ => format!("the store refused ({words})"),
    }
}

fn denied_hint(code: &str, operation: StoreOperation) -> Option<&'static str> {
    match code {
        "InvalidAccessKeyId" | "XAdminUserNotFound" => Some("Is the access key right?"),
        "SignatureDoesNotMatch" => Some("Is the secret key right?"),
        "ExpiredToken" => Some("The session has expired; renew its credentials."),
        "RequestTimeTooSkewed" => Some("Is the clock of this machine right?"),
        "AuthenticationFailed" | "InvalidAuthenticationInfo" => {
            Some("Are the account name and its key or signature right?")
        }
        "AuthorizationPermissionMismatch" => {
            Some("Give the identity the role \"Storage Blob Data Contributor\" on the container.")
        }
        _ => Some(match operation {
            StoreOperation::Read => {
                "Allow the identity to read objects (s3:GetObject, storage.objects.get)."
            }
            StoreOperation::Write => {
                "Allow the identity to write objects (s3:PutObject, storage.objects.create)."
            }
            StoreOperation::List => {
                "Allow the identity to list objects (s3:ListBucket, storage.objects.list)."
            }
            StoreOperation::Delete => {
                "Allow the identity to delete objects (s3:DeleteObject, storage.objects.delete)."
            }
            StoreOperation::Open | StoreOperation::Connect => {
                "Allow the identity to see the bucket (s3:ListBucket, storage.buckets.get)."
            }
            StoreOperation::CreateBucket => {
                "Allow the identity to create buckets, or create this one by hand."
            }
        }),
    }
}

/// A source of credentials that may work later is trouble on the way, as a busy store is.
fn no_credentials(why: String, trace: &Trace) -> Meaning {
    Meaning {
        kind: match trace.identity_may_pass() {
            true => StoreErrorKind::Interrupted,
            false => StoreErrorKind::NoCredentials,
        },
        reason: format!("no credentials: {why}"),
        hint: Some("Set the provider's environment variables, or give this machine an identity."),
    }
}

/// Where no request was sent: the local file system, or something the library refused itself.
fn of_library(error: &(dyn Error + 'static)) -> Meaning {
    let mut next = Some(error);
    let mut last = error;
    while let Some(error) = next {
        if error.is::<FolderMissing>() {
            return Meaning {
                kind: StoreErrorKind::BucketMissing,
                reason: error.to_string(),
                hint: Some(
                    "Is its file system mounted? barman-cloud-check-wal-archive creates a missing folder.",
                ),
            };
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return of_io(error);
        }
        last = error;
        next = error.source();
    }
    if let Some(meaning) = of_batch(error) {
        return meaning;
    }
    Meaning { kind: StoreErrorKind::Other, reason: last.to_string(), hint: None }
}

fn of_io(error: &io::Error) -> Meaning {
    if let Some(missing) = error.get_ref().filter(|inner| inner.is::<FolderMissing>()) {
        return of_library(missing);
    }
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreErrorKind::Denied
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
        io::ErrorKind::NotFound => StoreErrorKind::ObjectMissing,
        _ => StoreErrorKind::Other,
    };
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text).to_lowercase();
    Meaning { kind, reason: words, hint: None }
}

/// One key of a batch that as a whole was answered with 200: the library keeps the code only in
/// its text, as `(code: AccessDenied)`.
fn of_batch(error: &(dyn Error + 'static)) -> Option<Meaning> {
    let text = error.to_string();
    let code = text.split("(code: ").nth(1)?.split(')').next()?.to_string();
    let (kind, reason) = match code.as_str() {
        "AccessDenied" | "403" => (StoreErrorKind::Denied, "access denied"),
        "InternalError" | "SlowDown" | "500" | "503" => {
            (StoreErrorKind::Interrupted, "the store is not able to answer")
        }
        _ => (StoreErrorKind::Refused, "the store refused"),
    };
    Some(Meaning { kind, reason: format!("{reason} ({code})"), hint: None })
}

/// How long it was tried: always said of what was given up.
fn spent(trace: &Trace) -> String {
    let (attempts, elapsed) = trace.spent();
    match attempts {
        0 | 1 => format!(" after 1 attempt in {} s", elapsed.as_secs()),
        attempts => format!(" after {attempts} attempts in {} s", elapsed.as_secs()),
    }
}

fn effect(operation: StoreOperation, kind: StoreErrorKind, trace: &Trace) -> Effect {
    use StoreErrorKind as Kind;
    let changes = matches!(
        operation,
        StoreOperation::Write | StoreOperation::Delete | StoreOperation::CreateBucket
    );
    let certain = matches!(
        kind,
        Kind::Denied
            | Kind::NoCredentials
            | Kind::BucketMissing
            | Kind::Refused
            | Kind::Unreachable
    );
    // A refusal counts for the attempt that was refused; an earlier one may have gone through.
    // Without credentials nothing was sent.
    let certain = certain || (trace.last().is_none() && trace.identity_failure().is_some());
    if !changes || (certain && !trace.was_doubtful()) {
        Effect::SurelyNot
    } else {
        Effect::MayHaveHappened
    }
}

#[cfg(test)]
mod tests {
    use crate::cloud::{Answer, Trace};
    use crate::store::translate::store_error;
    use crate::store::{Effect, StoreError, StoreErrorKind, StoreOperation};

    #[derive(Debug, thiserror::Error)]
    #[error("Generic S3 error: Error performing PUT https://host/?sig=hush")]
    struct Library;

    fn status(status: u16, code: &str) -> Answer {
        let code = (!code.is_empty()).then(|| code.to_string());
        Answer::Status { status, code, message: None, region: None }
    }

    fn write_error(answer: Option<Answer>) -> StoreError {
        let trace = Trace::new();
        if let Some(answer) = answer {
            trace.answered(answer);
        }
        store_error(StoreOperation::Write, "s3://b/k".into(), &trace, &Library)
    }

    #[test]
    fn answers_become_meanings() {
        use StoreErrorKind as Kind;
        let cases = [
            (status(403, "AccessDenied"), Kind::Denied),
            (status(401, ""), Kind::Denied),
            (status(404, "XAdminUserNotFound"), Kind::Denied),
            (status(404, "NoSuchBucket"), Kind::BucketMissing),
            (status(404, "ContainerNotFound"), Kind::BucketMissing),
            (status(404, "NoSuchUpload"), Kind::ObjectMissing),
            (status(404, ""), Kind::Other),
            (status(400, "InvalidArgument"), Kind::Refused),
            (status(501, "NotImplemented"), Kind::Refused),
            (status(507, ""), Kind::Full),
            (status(503, "SlowDown"), Kind::Interrupted),
            (status(429, ""), Kind::Interrupted),
            (Answer::Unreachable { detail: "connection refused".into() }, Kind::Unreachable),
            (Answer::Cut { detail: "connection reset".into() }, Kind::Interrupted),
        ];
        for (answer, kind) in cases {
            assert_eq!(write_error(Some(answer.clone())).kind, kind, "{answer:?}");
        }
    }

    #[test]
    fn a_busy_source_of_credentials_is_trouble_on_the_way_and_nothing_was_written() {
        for (busy, kind) in
            [(true, StoreErrorKind::Interrupted), (false, StoreErrorKind::NoCredentials)]
        {
            let trace = Trace::new();
            trace.no_identity("the identity service answered 503".into());
            if busy {
                trace.identity_was_busy();
            }
            let error = store_error(StoreOperation::Write, "s3://b/k".into(), &trace, &Library);
            assert_eq!((error.kind, error.effect), (kind, Effect::SurelyNot));
            assert!(error.reason.contains("no credentials"), "{}", error.reason);
        }
    }

    #[test]
    fn the_text_is_a_few_words_and_never_the_librarys() {
        let error = write_error(Some(status(403, "AccessDenied")));
        let expected = "could not write object \"s3://b/k\": access denied (403 AccessDenied)";
        assert_eq!(error.to_string(), expected);
        let error = write_error(Some(status(503, "SlowDown")));
        assert!(error.reason.ends_with("after 1 attempt in 0 s"), "{}", error.reason);
        assert!(!error.to_string().contains("hush"));
    }

    #[test]
    fn a_refusal_after_a_cut_may_have_happened() {
        let trace = Trace::new();
        let refused = |trace: &Trace| {
            trace.answered(status(403, "AccessDenied"));
            store_error(StoreOperation::Write, "s3://b/k".into(), trace, &Library).effect
        };
        assert_eq!(refused(&trace), Effect::SurelyNot);
        trace.answered(Answer::Cut { detail: "connection reset".into() });
        assert_eq!(refused(&trace), Effect::MayHaveHappened);
    }
}
