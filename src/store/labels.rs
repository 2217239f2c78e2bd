//! How tags and metadata travel with an object.

use crate::store::{
    Effect, ObjectKey, PutOptions, Store, StoreError, StoreErrorKind, StoreOperation,
};
use http::{HeaderName, HeaderValue};
use object_store::{Attribute, Attributes, TagSet};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where a store keeps tags.
#[derive(Debug)]
pub enum Labels {
    /// S3 object tags, Azure blob index tags.
    Tags,
    /// Google's custom metadata, which travels in headers.
    Metadata,
    /// A folder. Said once per store, then left out.
    Nowhere { said: AtomicBool },
}

impl Labels {
    pub fn nowhere() -> Self {
        Self::Nowhere { said: AtomicBool::new(false) }
    }

    /// What to send; refuses tags that could not arrive unchanged. Metadata wins over a tag of the
    /// same name.
    pub fn apply(
        &self,
        store: &Store,
        key: &ObjectKey,
        options: &PutOptions,
    ) -> Result<(TagSet, Attributes), StoreError> {
        let tags = &options.tags;
        let mut set = TagSet::default();
        let mut attributes = Attributes::new();
        match self {
            Self::Tags => tags.iter().for_each(|(name, value)| set.push(name, value)),
            Self::Metadata => {
                for (name, value) in tags {
                    check_header(name, value).map_err(|reason| refused(store, key, reason))?;
                    let attribute = Attribute::Metadata(name.clone().into());
                    attributes.insert(attribute, value.clone().into());
                }
            }
            Self::Nowhere { said } => {
                if !tags.is_empty() && !said.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        store = store.root_url(),
                        "a folder holds no tags, going on without"
                    );
                }
            }
        }
        for (name, value) in &options.metadata {
            attributes.insert(Attribute::Metadata((*name).into()), value.clone().into());
        }
        Ok((set, attributes))
    }
}

/// What came back with an object, by name in lower case: headers have no other.
pub fn metadata_of(attributes: &Attributes) -> BTreeMap<String, String> {
    let custom = attributes.iter().filter_map(|(attribute, value)| match attribute {
        Attribute::Metadata(name) => Some((name.to_ascii_lowercase(), value.to_string())),
        _ => None,
    });
    custom.collect()
}

fn check_header(name: &str, value: &str) -> Result<(), String> {
    if HeaderName::try_from(name).is_err() {
        return Err(format!("\"{name}\" cannot be the name of custom metadata"));
    }
    match HeaderValue::try_from(value) {
        Ok(value) if value.to_str().is_ok() => Ok(()),
        _ => Err(format!("the value of \"{name}\" cannot be custom metadata")),
    }
}

fn refused(store: &Store, key: &ObjectKey, reason: String) -> StoreError {
    StoreError {
        operation: StoreOperation::Write,
        kind: StoreErrorKind::Refused,
        effect: Effect::SurelyNot,
        object: store.url_of(key),
        reason,
        hint: Some(
            "On Google Cloud Storage tags become custom metadata: use letters, digits and dashes."
                .into(),
        ),
    }
}
