//! `tablespace_map`: where the links below `pg_tblspc` lead.
//!
//! One line per tablespace, `<oid> <path>`; a newline, carriage return or backslash in
//! the path has a backslash before it.
//! Source: `do_pg_backup_start` (writer) and `read_tablespace_map` (reader), PostgreSQL
//! src/backend/access/transam/xlog.c and xlogrecovery.c.

use std::fmt;

/// The tablespaces of a backup in PostgreSQL's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablespaceMap {
    pub links: Vec<TablespaceLink>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceLink {
    pub oid: u32,
    pub location: String,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the tablespace map has a malformed line \"{line}\"")]
pub struct TablespaceMapError {
    line: String,
}

impl TablespaceMap {
    pub fn parse(text: &str) -> Result<Self, TablespaceMapError> {
        let mut links = Vec::new();
        let mut line = String::new();
        let mut escaped = false;
        for character in text.chars() {
            match character {
                _ if escaped => {
                    line.push(character);
                    escaped = false;
                }
                '\\' => escaped = true,
                '\n' | '\r' if line.is_empty() => {}
                '\n' | '\r' => links.push(parse_line(&std::mem::take(&mut line))?),
                _ => line.push(character),
            }
        }
        // PostgreSQL refuses a last line without its newline: the file was cut.
        if !line.is_empty() || escaped {
            return Err(TablespaceMapError { line });
        }
        Ok(Self { links })
    }
}

fn parse_line(line: &str) -> Result<TablespaceLink, TablespaceMapError> {
    let link = || {
        let (oid, location) = line.split_once(' ')?;
        let digits_only = oid.bytes().all(|byte| byte.is_ascii_digit());
        let oid = oid.parse().ok().filter(|&oid| digits_only && oid != 0)?;
        (!location.is_empty()).then(|| TablespaceLink { oid, location: location.into() })
    };
    link().ok_or_else(|| TablespaceMapError { line: line.into() })
}

impl fmt::Display for TablespaceMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        for link in &self.links {
            write!(f, "{} ", link.oid)?;
            for character in link.location.chars() {
                if matches!(character, '\n' | '\r' | '\\') {
                    f.write_char('\\')?;
                }
                f.write_char(character)?;
            }
            f.write_char('\n')?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::pgdata::{TablespaceLink, TablespaceMap};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    #[test]
    fn escaped_newlines_and_backslashes_belong_to_the_path() {
        let map = TablespaceMap::parse("16384 /a/b c\n16385 /x\\\ny\\\\z\n").expect("parses");
        assert_eq!(map.links[0], TablespaceLink { oid: 16384, location: "/a/b c".into() });
        assert_eq!(map.links[1], TablespaceLink { oid: 16385, location: "/x\ny\\z".into() });
    }

    #[test]
    fn an_empty_map_has_no_tablespaces() {
        assert_eq!(TablespaceMap::parse("").expect("parses"), TablespaceMap::default());
    }

    #[test]
    fn cut_and_malformed_maps_are_refused() {
        for text in ["16384 /a", "16384 /a\\", "/a\n", "x /a\n", "0 /a\n", "+5 /a\n", "16384 \n"] {
            assert!(TablespaceMap::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn maps_round_trip(links in proptest::collection::vec((1u32.., "/[a-z\\\\\n\r é]{0,20}"), 0..5)) {
            let links = links.into_iter().map(|(oid, location)| TablespaceLink { oid, location });
            let map = TablespaceMap { links: links.collect() };
            prop_assert_eq!(TablespaceMap::parse(&map.to_string()), Ok(map));
        }

        #[test]
        fn any_text_parses_or_is_refused_without_panic(text in any::<String>()) {
            let _ = TablespaceMap::parse(&text);
        }
    }
}
