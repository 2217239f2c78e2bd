//! What `barman-cloud-backup-keep --status` prints (contract §9.2).

use crate::catalog::Keep;

/// One line: `Keep: full`, `Keep: standalone`, `Keep: nokeep`.
pub fn status(keep: Option<&Keep>) -> String {
    let word = keep.map(Keep::as_str).filter(|word| !word.is_empty()).unwrap_or("nokeep");
    format!("Keep: {word}\n")
}

#[cfg(test)]
mod tests {
    use crate::catalog::Keep;
    use crate::command::keeping::status;

    #[test]
    fn the_words_are_those_of_barman() {
        assert_eq!(status(None), "Keep: nokeep\n");
        assert_eq!(status(Some(&Keep::parse(b""))), "Keep: nokeep\n");
        assert_eq!(status(Some(&Keep::parse(b"standalone"))), "Keep: standalone\n");
        assert_eq!(status(Some(&Keep::parse(b"forever"))), "Keep: forever\n");
    }
}
