//! The password file.
//!
//! Lines `host:port:database:user:password`; `*` matches anything, a backslash keeps the
//! next character from meaning anything.
//! Source: `passwordFromFile`, PostgreSQL src/interfaces/libpq/fe-connect.c.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tracing::warn;

/// What a line must match.
pub(crate) struct PasswordQuery<'a> {
    /// The host as the user named it, or `localhost` for the default socket.
    pub host: &'a str,
    pub port: u16,
    pub dbname: &'a str,
    pub user: &'a str,
}

/// Reads the password file once; `None` when there is none or it is open to others.
pub(crate) fn read_passfile(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    let file = path.display().to_string();
    if !metadata.is_file() {
        warn!(file, "password file is not a plain file, ignoring it");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        warn!(
            file,
            "password file has group or world access, ignoring it; permissions should be u=rw (0600) or less"
        );
        return None;
    }
    match fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) => {
            warn!(file, %error, "could not read password file");
            None
        }
    }
}

/// The password on the first line that matches.
pub(crate) fn find_password(text: &str, query: &PasswordQuery<'_>) -> Option<String> {
    let port = query.port.to_string();
    let wanted = [query.host, &port, query.dbname, query.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line.strip_suffix('\r').unwrap_or(line);
        for value in wanted {
            rest = match_field(rest, value)?;
        }
        Some(unescape(rest)).filter(|password| !password.is_empty())
    })
}

/// What follows the field and its colon when the field matches `value`.
fn match_field<'a>(text: &'a str, value: &str) -> Option<&'a str> {
    if let Some(rest) = text.strip_prefix("*:") {
        return Some(rest);
    }
    let mut characters = text.char_indices();
    let mut field = String::new();
    while let Some((at, character)) = characters.next() {
        match character {
            ':' => return (field == value).then(|| &text[at + 1..]),
            '\\' => field.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => field.push(character),
        }
    }
    None
}

/// The password ends at an unescaped colon: later versions may add fields.
fn unescape(text: &str) -> String {
    let mut characters = text.chars();
    let mut value = String::new();
    while let Some(character) = characters.next() {
        match character {
            '\\' => value.extend(characters.next()),
            ':' => break,
            _ => value.push(character),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use crate::postgres::passfile::{PasswordQuery, find_password, read_passfile};
    use std::os::unix::fs::PermissionsExt;

    fn find(text: &str) -> Option<String> {
        let query = PasswordQuery { host: "db.example", port: 5432, dbname: "main", user: "me" };
        find_password(text, &query)
    }

    #[test]
    fn the_first_matching_line_gives_the_password() {
        let text = "# db.example:5432:main:me:comment\nother:5432:main:me:no\n\
            db.example:*:*:me:first\n*:*:*:*:second\n";
        assert_eq!(find(text).as_deref(), Some("first"));
        assert_eq!(find("db.example:5433:main:me:x\n"), None);
        assert_eq!(find("*:*:*:*:\n"), None);
        assert_eq!(find("db.example:5432:main\n"), None);
    }

    #[test]
    fn backslashes_protect_colons() {
        assert_eq!(find(r"*:*:*:*:a\:b\\c").as_deref(), Some(r"a:b\c"));
        assert_eq!(find(r"db\.example:*:main:m\e:ok").as_deref(), Some("ok"));
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("pgpass");
        std::fs::write(&file, "*:*:*:*:x").expect("write");
        let set_mode = |mode| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode));
        set_mode(0o640).expect("chmod");
        assert_eq!(read_passfile(&file), None);
        set_mode(0o600).expect("chmod");
        assert!(read_passfile(&file).is_some());
        assert_eq!(read_passfile(directory.path()), None);
    }
}
