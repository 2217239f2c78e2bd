//! Names of objects.

use object_store::path::Path;
use std::fmt;

/// The full name of an object in its bucket, without a leading slash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{text}\" cannot be the name of an object: {reason}")]
pub struct ObjectKeyError {
    text: String,
    reason: String,
}

impl ObjectKey {
    /// Refuses what the store could not address exactly: empty names, empty path segments,
    /// `.` and `..` segments.
    pub fn parse(text: &str) -> Result<Self, ObjectKeyError> {
        let refused = |reason: String| ObjectKeyError { text: text.into(), reason };
        if text.is_empty() {
            return Err(refused("it is empty".into()));
        }
        match Path::parse(text) {
            Ok(path) if path.as_ref() == text => Ok(Self(text.into())),
            Ok(_) => Err(refused("it has an empty path segment".into())),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// As [`parse`](Self::parse), but empty path segments are allowed inside: `a//b`. Other
    /// tools write such keys; they can be read, written and deleted, but not listed.
    pub fn parse_with_empty_segments(text: &str) -> Result<Self, ObjectKeyError> {
        let dense: Vec<&str> = text.split('/').filter(|segment| !segment.is_empty()).collect();
        Self::parse(&dense.join("/"))?;
        if text.starts_with('/') || text.ends_with('/') {
            let reason = "it begins or ends with a slash".to_string();
            return Err(ObjectKeyError { text: text.into(), reason });
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last path segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::store::ObjectKey;

    #[test]
    fn keys_are_kept_to_the_byte() {
        for text in ["a", "a/b c/d", "main/wals/0000000100000000/x.gz", "é/ü", "pct%20x/y"] {
            assert_eq!(ObjectKey::parse(text).expect(text).as_str(), text);
        }
        assert_eq!(ObjectKey::parse("a/b").expect("key").file_name(), "b");
    }

    #[test]
    fn keys_of_other_tools_may_have_empty_segments_inside() {
        let parse = ObjectKey::parse_with_empty_segments;
        assert_eq!(parse("a//b/c").expect("key").as_str(), "a//b/c");
        for text in ["", "/", "/a", "a/", "a//..//b"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_that_no_store_could_address_exactly_are_refused() {
        for text in ["", "/", "a//b", "a/", "/a", "a/../b", "./a"] {
            assert!(ObjectKey::parse(text).is_err(), "{text}");
        }
    }
}
