//! Who runs this process, as the operating system knows it.

use std::path::PathBuf;

/// The operating system's view of who runs the program.
pub(crate) struct Account {
    pub uid: u32,
    pub name: Option<String>,
    pub home: Option<PathBuf>,
}

impl Account {
    /// A container's user often has a number only: name and home are then absent, which
    /// matters only where they are needed.
    pub(crate) fn look_up(environment: &dyn Fn(&str) -> Option<String>) -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let home = environment("HOME").filter(|home| !home.is_empty());
        Self {
            uid,
            name: name_of_uid(&passwd, uid).map(Into::into),
            home: home.or_else(|| home_of_uid(&passwd, uid).map(Into::into)).map(Into::into),
        }
    }
}

/// The name of the user with `uid` in `/etc/passwd`-like text.
pub(crate) fn name_of_uid(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        (number == uid).then_some(name)
    })
}

/// The home directory of the user with `uid` in `/etc/passwd`-like text.
pub(crate) fn home_of_uid(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let number: u32 = fields.get(2)?.parse().ok()?;
        fields.get(5).copied().filter(|home| number == uid && !home.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use crate::postgres::user::{home_of_uid, name_of_uid};

    #[test]
    fn users_are_found_by_number() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbroken\npostgres:x:26:26::/var/lib/pg:/bin/sh\n";
        assert_eq!(name_of_uid(passwd, 26), Some("postgres"));
        assert_eq!(home_of_uid(passwd, 26), Some("/var/lib/pg"));
        assert_eq!(name_of_uid(passwd, 1000), None);
        assert_eq!(home_of_uid(passwd, 1000), None);
    }
}
