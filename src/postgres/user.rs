//! Who runs this process, as the operating system knows it.

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
