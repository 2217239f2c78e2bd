//! Keep annotations: what holds a backup against retention (contract §9.2).

/// The content of `annotations/keep`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    text: String,
}

/// What of a kept backup's WAL stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeepTarget {
    /// All WAL from the backup on, so that it can be recovered to any later time.
    Full,
    /// Only the WAL that makes the backup consistent.
    Standalone,
}

impl KeepTarget {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Standalone => "standalone",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Full, Self::Standalone].into_iter().find(|target| target.as_str() == text)
    }
}

impl Keep {
    pub fn new(target: KeepTarget) -> Self {
        Self { text: target.as_str().into() }
    }

    /// Reads the annotation: its first line, whatever it says.
    pub fn parse(content: &[u8]) -> Self {
        let text = String::from_utf8_lossy(content);
        Self { text: text.lines().next().unwrap_or("").trim().to_string() }
    }

    /// The one that holds more.
    pub fn stronger(self, other: Self) -> Self {
        if self.target() == KeepTarget::Full { self } else { other }
    }

    /// The word as it is shown; empty when the annotation is empty.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Everything that is not `standalone` holds as much as `full` does, an empty annotation
    /// too: half-written, it still was meant to hold the backup.
    pub fn target(&self) -> KeepTarget {
        KeepTarget::parse(&self.text).unwrap_or(KeepTarget::Full)
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::{Keep, KeepTarget};

    #[test]
    fn whatever_is_not_standalone_holds_as_full() {
        assert_eq!(Keep::parse(b"standalone").target(), KeepTarget::Standalone);
        for text in ["full", "", "forever", "full\nstandalone"] {
            assert_eq!(Keep::parse(text.as_bytes()).target(), KeepTarget::Full, "{text}");
        }
        assert_eq!(Keep::parse(b"forever\nmore").as_str(), "forever");
    }
}
