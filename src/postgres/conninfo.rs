//! `key = 'value'` connection strings.
//!
//! Source: `conninfo_parse`, PostgreSQL src/interfaces/libpq/fe-connect.c.

use crate::postgres::PostgresError;
use crate::postgres::keywords::keyword;
use std::collections::BTreeMap;
use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

/// Connection parameters by name; all names are known ones.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, String>,
}

impl Settings {
    /// Sets `name`, replacing an earlier value: the last one wins, as in libpq.
    pub(crate) fn set(&mut self, name: &str, value: String) -> Result<(), PostgresError> {
        // Kept by libpq for clients from before sslmode.
        if name == "requiressl" {
            let mode = if value.starts_with('1') { "require" } else { "prefer" };
            return self.set("sslmode", mode.into());
        }
        let Some(keyword) = keyword(name) else {
            return Err(PostgresError::malformed(format!("invalid connection option \"{name}\"")));
        };
        self.values.insert(keyword.name, value);
        Ok(())
    }

    /// Sets `name` unless a stronger source has set it.
    pub(crate) fn set_default(
        &mut self,
        name: &'static str,
        value: impl FnOnce() -> Option<String>,
    ) {
        if !self.values.contains_key(name)
            && let Some(value) = value()
        {
            self.values.insert(name, value);
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The value, where an empty one counts as none; so libpq reads most of them.
    pub(crate) fn non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.values.keys().copied()
    }
}

/// Names only: values may be passwords.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// Parses `host=/tmp dbname = 'it''s'`-like strings (a quote inside is written `\'`).
pub(crate) fn parse_conninfo(text: &str) -> Result<Settings, PostgresError> {
    let mut settings = Settings::default();
    let mut characters = text.chars().peekable();
    loop {
        skip_blanks(&mut characters);
        if characters.peek().is_none() {
            return Ok(settings);
        }
        let name = take_name(&mut characters)?;
        skip_blanks(&mut characters);
        let value = take_value(&mut characters)?;
        settings.set(&name, value)?;
    }
}

fn take_name(characters: &mut Peekable<Chars<'_>>) -> Result<String, PostgresError> {
    let mut name = String::new();
    while let Some(character) = characters.next_if(|&c| c != '=' && !is_blank(c)) {
        name.push(character);
    }
    skip_blanks(characters);
    match characters.next() {
        Some('=') => Ok(name),
        _ => Err(PostgresError::ConninfoIncomplete {
            reason: format!("missing \"=\" after \"{name}\" in connection info string"),
        }),
    }
}

fn take_value(characters: &mut Peekable<Chars<'_>>) -> Result<String, PostgresError> {
    let quoted = characters.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    loop {
        match characters.peek().copied() {
            None if quoted => {
                let reason = "unterminated quoted string in connection info string";
                return Err(PostgresError::malformed(reason));
            }
            None => return Ok(value),
            Some(blank) if !quoted && is_blank(blank) => return Ok(value),
            Some('\'') if quoted => {
                characters.next();
                return Ok(value);
            }
            Some('\\') => {
                characters.next();
                value.extend(characters.next());
            }
            Some(character) => {
                characters.next();
                value.push(character);
            }
        }
    }
}

fn skip_blanks(characters: &mut Peekable<Chars<'_>>) {
    while characters.next_if(|&c| is_blank(c)).is_some() {}
}

/// `isspace` in the C locale.
fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\x0B' | '\x0C')
}

#[cfg(test)]
mod tests {
    use crate::postgres::conninfo::parse_conninfo;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    #[test]
    fn blanks_quotes_and_backslashes_are_read_as_libpq_does() {
        let settings =
            parse_conninfo(r" host=/tmp port = 5433 user='a b' password='it\'s \\' dbname= x\ y")
                .expect("parses");
        let get = |name| settings.get(name);
        assert_eq!(get("host"), Some("/tmp"));
        assert_eq!(get("port"), Some("5433"));
        assert_eq!(get("user"), Some("a b"));
        assert_eq!(get("password"), Some(r"it's \"));
        assert_eq!(get("dbname"), Some("x y"));
    }

    #[test]
    fn the_last_of_two_values_wins_and_empty_values_are_kept() {
        let settings = parse_conninfo("host=a host=b port=").expect("parses");
        assert_eq!(settings.get("host"), Some("b"));
        assert_eq!(settings.get("port"), Some(""));
        assert_eq!(settings.non_empty("port"), None);
    }

    #[test]
    fn malformed_strings_are_refused_in_libpqs_words() {
        for (text, message) in [
            ("host", "missing \"=\" after \"host\" in connection info string"),
            ("host x=1", "missing \"=\" after \"host\" in connection info string"),
            ("host='a", "unterminated quoted string in connection info string"),
            ("hots=a", "invalid connection option \"hots\""),
            ("=a", "invalid connection option \"\""),
        ] {
            let error = parse_conninfo(text).expect_err(text).to_string();
            assert!(error.ends_with(message), "{error}");
        }
    }

    #[test]
    fn settings_print_no_values() {
        let settings = parse_conninfo("password=secret").expect("parses");
        assert_eq!(format!("{settings:?}"), "{\"password\"}");
    }

    proptest! {
        #[test]
        fn any_value_survives_quoting(value in any::<String>()) {
            let quoted = value.replace('\\', r"\\").replace('\'', r"\'");
            let settings = parse_conninfo(&format!("password='{quoted}' host=h")).expect("parses");
            prop_assert_eq!(settings.get("password"), Some(value.as_str()));
        }

        #[test]
        fn any_text_parses_or_is_refused_without_panic(text in any::<String>()) {
            let _ = parse_conninfo(&text);
        }
    }
}
