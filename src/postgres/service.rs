//! The connection service file: named sets of parameters.
//!
//! Source: `parseServiceInfo` and `parseServiceFile`, PostgreSQL
//! src/interfaces/libpq/fe-connect.c.

use crate::postgres::PostgresError;
use crate::postgres::conninfo::Settings;
use std::path::{Path, PathBuf};

/// Fills what `settings` lacks from `service`, which the first of `files` that has it defines.
///
/// A file that does not exist is passed over, unless it is `named` by the user.
pub(crate) fn apply_service(
    settings: &mut Settings,
    service: &str,
    named: Option<&Path>,
    files: &[PathBuf],
) -> Result<(), PostgresError> {
    if let Some(file) = named
        && !file.exists()
    {
        return Err(PostgresError::malformed(format!(
            "service file \"{}\" not found",
            file.display()
        )));
    }
    for file in named.into_iter().chain(files.iter().map(PathBuf::as_path)) {
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        if let Some(defined) = find_service(&text, service, file)? {
            for name in defined.names() {
                settings.set_default(name, || defined.get(name).map(Into::into));
            }
            return Ok(());
        }
    }
    Err(PostgresError::malformed(format!("definition of service \"{service}\" not found")))
}

pub(crate) fn find_service(
    text: &str,
    service: &str,
    file: &Path,
) -> Result<Option<Settings>, PostgresError> {
    let mut found: Option<Settings> = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if header.strip_suffix(']') == Some(service) {
                found = Some(Settings::default());
            }
        } else if let Some(settings) = &mut found {
            take_line(settings, line).ok_or_else(|| syntax_error(file, index + 1))?;
        }
    }
    Ok(found)
}

/// `None` when the line is no `name=value` with a known name. LDAP look-ups (lines that
/// begin with `ldap`) and nested services are such lines too.
fn take_line(settings: &mut Settings, line: &str) -> Option<()> {
    let (name, value) = line.split_once('=')?;
    if name == "service" || name == "servicefile" {
        return None;
    }
    // The first value of a name stands, unlike in connection strings.
    match settings.get(name) {
        Some(_) => Some(()),
        None => settings.set(name, value.into()).ok(),
    }
}

fn syntax_error(file: &Path, line: usize) -> PostgresError {
    PostgresError::malformed(format!(
        "syntax error in service file \"{}\", line {line}",
        file.display()
    ))
}

#[cfg(test)]
mod tests {
    use crate::postgres::conninfo::Settings;
    use crate::postgres::service::apply_service;
    use std::path::PathBuf;

    fn apply(text: &str, service: &str) -> Result<Settings, String> {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("services");
        std::fs::write(&file, text).expect("write");
        let mut settings = Settings::default();
        settings.set("port", "1".into()).expect("port");
        let files = [PathBuf::from("/nonexistent/pg_service.conf"), file];
        apply_service(&mut settings, service, None, &files).map_err(|error| error.to_string())?;
        Ok(settings)
    }

    #[test]
    fn a_service_fills_what_is_not_set() {
        let text =
            "# comment\n[other]\nhost=no\n\n[main]\nhost=yes\nhost=later\nport=2\n[main]\nuser=x\n";
        let settings = apply(text, "main").expect("found");
        assert_eq!(settings.get("host"), Some("yes"));
        assert_eq!(settings.get("port"), Some("1"));
        assert_eq!(settings.get("user"), None);
    }

    #[test]
    fn unknown_services_and_broken_lines_are_errors() {
        assert!(apply("[a]\nhost=x\n", "b").expect_err("b").contains("service \"b\" not found"));
        for text in ["[a]\nhost\n", "[a]\nhots=x\n", "[a]\nservice=b\n", "[a]\nldap://x/y?z\n"] {
            assert!(apply(text, "a").expect_err(text).contains("line 2"), "{text}");
        }
    }

    #[test]
    fn a_file_that_the_user_named_must_exist() {
        let named = PathBuf::from("/nonexistent/services");
        let error = apply_service(&mut Settings::default(), "a", Some(&named), &[]);
        assert!(
            error.expect_err("missing").to_string().contains("\"/nonexistent/services\" not found")
        );
    }
}
