//! Names and numbers of users and groups, from `/etc/passwd` and `/etc/group`.
//!
//! Accounts of a directory service have no name here; their numbers are used instead, which
//! is what a tarball falls back to at extraction anyway.

use std::collections::HashMap;
use std::fs;

/// The accounts of this machine. Empty where the files cannot be read (a minimal container).
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Accounts {
    pub fn of_this_machine() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self { users: parse(&read("/etc/passwd")), groups: parse(&read("/etc/group")) }
    }

    pub fn user_name(&self, uid: u32) -> Option<&str> {
        self.users.get(&uid).map(String::as_str)
    }

    pub fn group_name(&self, gid: u32) -> Option<&str> {
        self.groups.get(&gid).map(String::as_str)
    }

    pub fn uid_of(&self, name: &str) -> Option<u32> {
        find(&self.users, name)
    }

    pub fn gid_of(&self, name: &str) -> Option<u32> {
        find(&self.groups, name)
    }
}

fn find(accounts: &HashMap<u32, String>, name: &str) -> Option<u32> {
    accounts.iter().filter(|(_, known)| *known == name).map(|(id, _)| *id).min()
}

/// `name:password:id:…`, the form of both files (passwd(5), group(5)). The first line of an id
/// wins, as it does for getpwuid(3).
fn parse(text: &str) -> HashMap<u32, String> {
    let mut accounts = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(_), Some(Ok(id))) =
            (fields.next(), fields.next(), fields.next().map(str::parse))
        {
            accounts.entry(id).or_insert_with(|| name.to_string());
        }
    }
    accounts
}

#[cfg(test)]
mod tests {
    use crate::disk::accounts::{find, parse};

    #[test]
    fn the_first_name_of_a_number_wins_and_comments_are_skipped() {
        let accounts =
            parse("# comment\nroot:x:0:0::/root:/bin/sh\ntoor:x:0:0\npostgres:x:101:104\n");
        assert_eq!(accounts.get(&0).map(String::as_str), Some("root"));
        assert_eq!(find(&accounts, "postgres"), Some(101));
        assert_eq!(find(&accounts, "nobody"), None);
    }
}
