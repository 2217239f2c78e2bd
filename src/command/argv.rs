//! From the words that were typed to words that clap reads without doubt.
//!
//! Barman's commands are read by Python's `argparse`, and scripts rely on its habits: any
//! unambiguous prefix of a long option, options anywhere among the positionals, `--tags` that
//! takes all words up to the next option, `-5` as a value, `--host` behind `-h`. clap does some
//! of that in its own way. So the words are sorted here, by argparse's rules and the option
//! table of the clap command itself, into `--option=value`…, `--`, positionals…; clap then
//! checks values and combinations.
//!
//! Options of ours (below [`BEYOND_BARMAN`]) are looked up only when no option of Barman's
//! matches, so no abbreviation that worked with Barman becomes ambiguous.

use crate::command::usage::{BEYOND_BARMAN, UsageError};
use clap::{ArgAction, Command};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What the words ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Run(Words),
    Help,
    Version,
}

/// Sorted words, without the program's name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// `--option=value`…, `--`, positionals….
    pub sorted: Vec<OsString>,
    /// Deprecated spellings that were used, each with what to write instead.
    pub deprecated: Vec<(&'static str, &'static str)>,
}

/// Sorts `words` by the options of `command`, which must have been built.
pub fn sort(command: &Command, words: Vec<OsString>) -> Result<Request, UsageError> {
    let mut sorter = Sorter::new(command, words);
    while let Some(word) = sorter.words.next() {
        match sorter.read(word)? {
            None => {}
            Some(Action::Help) => return Ok(Request::Help),
            Some(Action::Version) => return Ok(Request::Version),
        }
    }
    Ok(Request::Run(sorter.finish()))
}

/// Spellings that Barman warns about.
const DEPRECATED: [(&str, &str); 4] = [
    ("--profile", "--aws-profile"),
    ("--snapshot-gcp-project", "--gcp-project"),
    ("--snapshot-zone", "--gcp-zone"),
    ("--snapshot-recovery-zone", "--gcp-zone"),
];

/// An option that ends the reading of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Help,
    Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    One,
    /// All words up to the next option.
    Many,
}

#[derive(Clone, Debug)]
struct Spelling {
    /// The long name, with dashes, that clap shall see.
    canonical: String,
    takes: Takes,
    action: Option<Action>,
    of_barman: bool,
}

/// One word seen as an option.
struct Found<'a> {
    spelling: &'a Spelling,
    /// As typed, or completed from a prefix: for messages.
    name: String,
    /// What was glued to it.
    value: Option<OsString>,
}

struct Sorter {
    spellings: BTreeMap<String, Spelling>,
    words: std::iter::Peekable<std::vec::IntoIter<OsString>>,
    options: Vec<OsString>,
    positionals: Vec<OsString>,
    deprecated: Vec<(&'static str, &'static str)>,
}

impl Sorter {
    fn new(command: &Command, words: Vec<OsString>) -> Self {
        Self {
            spellings: spellings_of(command),
            words: words.into_iter().peekable(),
            options: Vec::new(),
            positionals: Vec::new(),
            deprecated: Vec::new(),
        }
    }

    fn read(&mut self, word: OsString) -> Result<Option<Action>, UsageError> {
        if word == "--" {
            self.positionals.extend(self.words.by_ref());
            return Ok(None);
        }
        let Some(found) = find(&self.spellings, &word)? else {
            self.positionals.push(word);
            return Ok(None);
        };
        let (spelling, name, value) = (found.spelling.clone(), found.name, found.value);
        self.note_deprecated(&name);
        if spelling.takes != Takes::Nothing {
            self.take_values(&spelling, &name, value)?;
            return Ok(None);
        }
        match value {
            None => Ok(self.flag(&spelling)),
            Some(rest) if !name.starts_with("--") => self.read_group(&spelling, &name, &rest),
            Some(_) => Err(UsageError::new(format!("argument {name}: it takes no value"))),
        }
    }

    /// The rest of `-zv` behind its first letter, which was a flag.
    fn read_group(
        &mut self,
        first: &Spelling,
        name: &str,
        rest: &OsStr,
    ) -> Result<Option<Action>, UsageError> {
        if let Some(action) = self.flag(first) {
            return Ok(Some(action));
        }
        let next = rest
            .to_str()
            .and_then(|rest| rest.chars().next())
            .map(|letter| format!("-{letter}"))
            .filter(|next| self.spellings.contains_key(next));
        if next.is_none() {
            let rest = rest.to_string_lossy();
            return Err(UsageError::new(format!(
                "argument {name}: it takes no value (\"{rest}\")"
            )));
        }
        let mut word = OsString::from("-");
        word.push(rest);
        self.read(word)
    }

    fn flag(&mut self, spelling: &Spelling) -> Option<Action> {
        if spelling.action.is_none() {
            self.options.push(spelling.canonical.clone().into());
        }
        spelling.action
    }

    fn take_values(
        &mut self,
        spelling: &Spelling,
        name: &str,
        glued: Option<OsString>,
    ) -> Result<(), UsageError> {
        let start = format!("{}=", spelling.canonical);
        if spelling.takes == Takes::Many {
            // As argparse stores a list: the last use of the option counts.
            self.options.retain(|word| !word.as_bytes().starts_with(start.as_bytes()));
        }
        let mut values = Vec::new();
        match (glued, spelling.takes) {
            (Some(value), _) => values.push(value),
            (None, Takes::Many) => {
                while let Some(word) = self.next_value()? {
                    values.push(word);
                }
            }
            (None, _) => match self.next_value()? {
                Some(word) => values.push(word),
                None => {
                    return Err(UsageError::new(format!("argument {name}: it needs a value")));
                }
            },
        }
        for value in values {
            let mut word = OsString::from(&start);
            word.push(value);
            self.options.push(word);
        }
        Ok(())
    }

    /// The next word, if it is no option.
    fn next_value(&mut self) -> Result<Option<OsString>, UsageError> {
        match self.words.peek() {
            Some(word) if word != "--" && find(&self.spellings, word)?.is_none() => {
                Ok(self.words.next())
            }
            _ => Ok(None),
        }
    }

    fn note_deprecated(&mut self, name: &str) {
        self.deprecated.extend(DEPRECATED.iter().filter(|(old, _)| *old == name));
    }

    fn finish(self) -> Words {
        let mut sorted = self.options;
        sorted.push("--".into());
        sorted.extend(self.positionals);
        Words { sorted, deprecated: self.deprecated }
    }
}

/// The spellings of all options that are not marked as ours.
#[cfg(test)]
pub fn spellings(command: &Command) -> Vec<String> {
    let mut spellings = spellings_of(command);
    spellings.retain(|_, spelling| spelling.of_barman);
    spellings.into_keys().collect()
}

/// All names of all options, as typed, each with what clap shall see instead.
fn spellings_of(command: &Command) -> BTreeMap<String, Spelling> {
    let mut spellings = BTreeMap::new();
    for argument in command.get_arguments().filter(|argument| !argument.is_positional()) {
        let Some(long) = argument.get_long() else { continue };
        let many = argument.get_num_args().is_some_and(|range| range.max_values() > 1);
        let spelling = Spelling {
            canonical: format!("--{long}"),
            takes: match (argument.get_action().takes_values(), many) {
                (false, _) => Takes::Nothing,
                (true, false) => Takes::One,
                (true, true) => Takes::Many,
            },
            action: match argument.get_action() {
                ArgAction::Help => Some(Action::Help),
                ArgAction::Version => Some(Action::Version),
                _ => None,
            },
            of_barman: argument.get_help_heading() != Some(BEYOND_BARMAN),
        };
        let aliases = argument.get_all_aliases().unwrap_or_default();
        for name in std::iter::once(long).chain(aliases) {
            spellings.insert(format!("--{name}"), spelling.clone());
        }
        if let Some(letter) = argument.get_short() {
            spellings.insert(format!("-{letter}"), spelling);
        }
    }
    spellings
}

/// Decides, as argparse does, whether `word` is an option: `None` means that it is a value.
fn find<'a>(
    spellings: &'a BTreeMap<String, Spelling>,
    word: &OsStr,
) -> Result<Option<Found<'a>>, UsageError> {
    let bytes = word.as_bytes();
    if !bytes.starts_with(b"-") || bytes == b"-" {
        return Ok(None);
    }
    let (name, value) = split_at_equals(bytes);
    if let Some((name, spelling)) = name.and_then(|name| spellings.get_key_value(name)) {
        return Ok(Some(Found { spelling, name: name.clone(), value }));
    }
    let found = if bytes.starts_with(b"--") {
        match name {
            Some(name) => by_prefix(spellings, name)?.map(|(name, spelling)| Found {
                spelling,
                name: name.clone(),
                value,
            }),
            None => None,
        }
    } else {
        by_letter(spellings, bytes)
    };
    if found.is_some() || looks_like_a_number(bytes) || bytes.contains(&b' ') {
        return Ok(found);
    }
    Err(UsageError::new(format!("unrecognized option \"{}\"", word.to_string_lossy())))
}

/// The name before the first `=` (`None` when it is not text) and the value behind it.
fn split_at_equals(bytes: &[u8]) -> (Option<&str>, Option<OsString>) {
    let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (&bytes[..at], Some(OsString::from_vec(bytes[at + 1..].to_vec()))),
        None => (bytes, None),
    };
    (std::str::from_utf8(name).ok(), value)
}

/// The one long option that starts with `prefix`; among several it is an error to choose.
fn by_prefix<'a>(
    spellings: &'a BTreeMap<String, Spelling>,
    prefix: &str,
) -> Result<Option<(&'a String, &'a Spelling)>, UsageError> {
    let matches = |of_barman: bool| {
        spellings
            .range(prefix.to_string()..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .filter(|(_, spelling)| spelling.of_barman == of_barman)
            .collect::<Vec<_>>()
    };
    let mut candidates = matches(true);
    if candidates.is_empty() {
        candidates = matches(false);
    }
    match candidates.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(*only)),
        several => {
            let names: Vec<_> = several.iter().map(|(name, _)| name.as_str()).collect();
            let names = names.join(", ");
            Err(UsageError::new(format!("ambiguous option: {prefix} could match {names}")))
        }
    }
}

/// `-J4`, `-zv`: the first letter is an option, the rest its value or more letters.
fn by_letter<'a>(spellings: &'a BTreeMap<String, Spelling>, bytes: &[u8]) -> Option<Found<'a>> {
    let name = std::str::from_utf8(bytes.get(..2)?).ok()?;
    let spelling = spellings.get(name)?;
    let value = OsString::from_vec(bytes[2..].to_vec());
    Some(Found { spelling, name: name.into(), value: Some(value) })
}

/// `-5`, `-1.5`: no option of any command looks like this, so it is a value.
fn looks_like_a_number(bytes: &[u8]) -> bool {
    let digits = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_digit);
    match bytes[1..].iter().position(|byte| *byte == b'.') {
        None => bytes.len() > 1 && digits(&bytes[1..]),
        Some(at) => digits(&bytes[1..=at]) && digits(&bytes[at + 2..]) && at + 2 < bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use crate::cloud::AzureCredentialKind;
    use crate::command::argv::{Request, Words, sort};
    use crate::command::backup::BackupArgs;
    use crate::command::backup_delete::BackupDeleteArgs;
    use crate::command::launch::{command_of, parse};
    use crate::command::program::Program;
    use crate::command::restore::RestoreArgs;
    use crate::command::usage::UsageError;
    use crate::command::wal_archive::WalArchiveArgs;
    use crate::command::wal_restore::WalRestoreArgs;
    use clap::Parser;
    use std::ffi::OsString;

    fn words(line: &[&str]) -> Vec<OsString> {
        line.iter().map(OsString::from).collect()
    }

    fn sorted<A: Parser>(line: &[&str]) -> Result<Words, UsageError> {
        match sort(&command_of::<A>(Program::Backup), words(line))? {
            Request::Run(words) => Ok(words),
            other => panic!("{line:?} asks for {other:?}"),
        }
    }

    fn read<A: Parser>(line: &[&str]) -> Result<A, UsageError> {
        let words = sorted::<A>(line)?.sorted;
        parse(&command_of::<A>(Program::Backup), words)
    }

    fn message<T: std::fmt::Debug>(answer: Result<T, UsageError>) -> String {
        answer.expect_err("refused").to_string()
    }

    #[test]
    fn values_are_glued_or_follow_and_short_options_group() {
        for line in [
            &["--jobs", "4", "--gzip", "--verbose", "u", "s"][..],
            &["--jobs=4", "-z", "-v", "u", "s"],
            &["-J4", "-zv", "u", "s"],
            &["-J=4", "-vz", "u", "s"],
            &["-zvJ4", "u", "s"],
            &["u", "-zvJ", "4", "s"],
            &["u", "s", "--jo", "4", "--gz", "--verb"],
        ] {
            let args: BackupArgs = read(line).expect("args");
            assert!(args.gzip && args.jobs == 4 && args.talk.verbose == 1, "{line:?}");
            assert_eq!((args.destination_url.as_str(), args.server_name.as_str()), ("u", "s"));
        }
    }

    #[test]
    fn h_is_the_host_in_backup_and_nothing_elsewhere() {
        let args: BackupArgs = read(&["-h", "/run", "-p5433", "-Upg", "u", "s"]).expect("args");
        assert_eq!(args.postgres.host.as_deref(), Some("/run"));
        assert_eq!(args.postgres.port.as_deref(), Some("5433"));
        assert_eq!(args.postgres.user.as_deref(), Some("pg"));
        let refused = read::<WalRestoreArgs>(&["-h", "u", "s", "n", "d"]);
        assert_eq!(message(refused), "unrecognized option \"-h\"");
    }

    #[test]
    fn help_and_version_answer_before_anything_is_required() {
        let command = command_of::<BackupArgs>(Program::Backup);
        for (line, request) in [
            (&["--help"][..], Request::Help),
            (&["--he"], Request::Help),
            (&["u", "--version"], Request::Version),
            (&["-V"], Request::Version),
            (&["-zV"], Request::Version),
            (&["--vers"], Request::Version),
        ] {
            assert_eq!(sort(&command, words(line)), Ok(request), "{line:?}");
        }
    }

    #[test]
    fn an_ambiguous_prefix_is_refused_and_an_exact_name_is_not_ambiguous() {
        let refused = sorted::<BackupArgs>(&["--ver"]);
        assert_eq!(message(refused), "ambiguous option: --ver could match --verbose, --version");
        assert!(message(sorted::<BackupArgs>(&["--ho=x", "--h"])).contains("--help, --host"));
        assert!(sorted::<BackupArgs>(&["--tag", "a,b"]).is_ok());
        assert!(message(sorted::<BackupArgs>(&["--ta", "a,b"])).contains("--tag, --tags"));
        assert!(message(sorted::<BackupArgs>(&["--d", "x"])).contains("--dbname, --default"));
    }

    /// A prefix that Barman 3.19.1 takes must mean the same here, whatever we added.
    #[test]
    fn no_option_of_ours_makes_a_prefix_of_barmans_ambiguous() {
        let args: BackupArgs = read(&["--z", "--comp", "3", "u", "s"]).expect("args");
        assert!(args.beyond.zstd && args.beyond.compression_level.is_some());
        // `--max-m` is ours alone, `--max-b` stays Barman's, `--max-` stays ambiguous.
        assert!(read::<BackupArgs>(&["--max-m", "1GB", "--max-b", "1MB", "u", "s"]).is_ok());
        assert!(message(sorted::<BackupArgs>(&["--max-", "1"])).ends_with("--max-bandwidth"));
        // `--n` is `--name` alone in Barman, although we have `--no-progress`.
        let args: BackupArgs = read(&["--n", "x", "u", "s"]).expect("args");
        assert_eq!(args.name.map(|name| name.to_string()).as_deref(), Some("x"));
        let args: WalArchiveArgs = read(&["--com", "3", "u", "s", "w"]).expect("args");
        assert!(!args.allow_overwrite);
        assert!(
            read::<WalArchiveArgs>(&["--allow-o", "u", "s", "w"]).expect("args").allow_overwrite
        );
    }

    #[test]
    fn greedy_tags_stop_at_the_next_option_and_the_last_use_counts() {
        let args: WalArchiveArgs =
            read(&["--tags", "a,b", "c,d", "--gzip", "u", "s", "w"]).expect("args");
        assert_eq!(args.tags.tags.len(), 2);
        let args: WalArchiveArgs =
            read(&["--tags", "a,b", "--tags", "c,d", "e,f", "--", "u", "s", "w"]).expect("args");
        let keys: Vec<_> = args.tags.tags.iter().map(|tag| tag.key.as_str()).collect();
        assert_eq!(keys, ["c", "e"]);
        let args: WalArchiveArgs =
            read(&["--tags=a,b", "u", "s", "w", "--history-tags"]).expect("args");
        assert_eq!((args.tags.tags.len(), args.history_tags.len()), (1, 0));
        let swallowed = read::<WalArchiveArgs>(&["--tags", "a,b", "u", "s", "w"]);
        assert!(message(swallowed).contains("KEY,VALUE"));
        let both = read::<WalArchiveArgs>(&["--tags", "a,b", "--tag", "c,d", "u", "s", "w"]);
        assert!(message(both).contains("--tag"));
    }

    #[test]
    fn negative_numbers_and_words_with_blanks_are_values() {
        let args: WalRestoreArgs = read(&["-p", "-1", "u", "s", "n", "d"]).expect("args");
        assert_eq!(args.parallel, -1);
        let args: WalArchiveArgs =
            read(&["--zstd", "--compression-level", "-5", "u", "s", "w"]).expect("args");
        assert_eq!(args.compression_level, Some(crate::codec::CompressionLevel::Number(-5)));
        let args: WalRestoreArgs = read(&["u", "s", "n", "-d x"]).expect("args");
        assert_eq!(args.wal_dest.to_str(), Some("-d x"));
        let args: WalRestoreArgs = read(&["u", "s", "--", "n", "-d"]).expect("args");
        assert_eq!(args.wal_dest.to_str(), Some("-d"));
    }

    #[test]
    fn repeated_options_count_last() {
        let args: BackupArgs =
            read(&["-J3", "--gzip", "--gzip", "-J", "5", "--host=a", "--host=b", "u", "s"])
                .expect("args");
        assert_eq!((args.jobs, args.postgres.host.as_deref()), (5, Some("b")));
        let args: RestoreArgs =
            read(&["--tablespace", "a:/x", "--tablespace", "b:/y", "u", "s", "i", "d"])
                .expect("args");
        assert_eq!(args.tablespace.len(), 2);
    }

    #[test]
    fn aliases_are_read_and_deprecated_ones_are_told() {
        for name in ["--azure-credential", "--credential", "--default", "--cred", "--def"] {
            let args: WalRestoreArgs =
                read(&[name, "managed-identity", "u", "s", "n", "d"]).expect(name);
            assert_eq!(args.cloud.azure_credential, Some(AzureCredentialKind::ManagedIdentity));
        }
        let words = sorted::<WalRestoreArgs>(&["--prof", "x", "u", "s", "n", "d"]).expect("words");
        assert_eq!(words.deprecated, [("--profile", "--aws-profile")]);
        let words = sorted::<WalRestoreArgs>(&["-P", "x", "u", "s", "n", "d"]).expect("words");
        assert_eq!(words.deprecated, []);
    }

    #[test]
    fn exclusive_and_required_options_are_enforced() {
        for line in [
            &["-z", "-j", "u", "s"][..],
            &["--lz4", "--zstd", "u", "s"],
            &["-v", "-q", "u", "s"],
            &["u"],
            &["u", "s", "x"],
            &["--gzip=3", "u", "s"],
            &["-z5", "u", "s"],
            &["--jobs", "u", "s"],
            &["u", "s", "--jobs"],
            &["--jobs", "0", "u", "s"],
            &["--cloud-provider", "aws", "u", "s"],
            &["--name", "latest", "u", "s"],
            &["--name", "", "u", "s"],
            &["-S", "", "u", "s"],
            &["--nonsense", "u", "s"],
        ] {
            assert!(read::<BackupArgs>(line).is_err(), "{line:?}");
        }
        assert!(read::<BackupDeleteArgs>(&["u", "s"]).is_err());
        assert!(read::<BackupDeleteArgs>(&["-b", "i", "-r", "REDUNDANCY 1", "u", "s"]).is_err());
        assert!(read::<BackupDeleteArgs>(&["--backup-id=", "u", "s"]).is_ok());
        assert!(read::<BackupDeleteArgs>(&["--retention-policy", "", "u", "s"]).is_ok());
    }

    /// The argv forms of CloudNativePG, word for word (contract/cloudnative-pg.md §1 to §3).
    #[test]
    fn cloudnative_pg_is_understood() {
        let provider = ["--cloud-provider", "aws-s3"];
        let endpoint = ["--endpoint-url", "https://minio:9000"];
        let place = ["s3://b/p", "srv"];
        let line = |parts: &[&[&str]]| words(&parts.concat());
        let backup = line(&[
            &["--user", "postgres", "--name", "backup-20260101000000", "--gzip"],
            &["--encryption", "aws:kms", "--immediate-checkpoint", "--jobs", "2"],
            &["--min-chunk-size=5MB", "--read-timeout=60", "--tags", "a,b", "c,d"],
            &endpoint,
            &provider,
            &place,
        ]);
        let archive = line(&[
            &["--snappy", "-e", "AES256", "--tags", "a,b", "--history-tags", "a,b", "c,d"],
            &provider,
            &place,
            &["pg_wal/000000010000000000000001"],
        ]);
        let fetch = line(&[
            &endpoint,
            &provider,
            &place,
            &["--read-timeout=60", "000000010000000000000001", "/spool/x.tmp"],
        ]);
        let restore_plugin =
            line(&[&provider, &endpoint, &["-P=x"], &place, &["20260101T000000", "/pgdata"]]);
        let restore_in_tree =
            line(&[&endpoint, &place, &["20260101T000000"], &provider, &["-P=x", "/pgdata"]]);
        let delete = line(&[
            &endpoint,
            &provider,
            &["--retention-policy", "RECOVERY WINDOW OF 7 DAYS"],
            &place,
        ]);
        fn check<A: Parser>(line: Vec<OsString>) {
            let command = command_of::<A>(Program::Backup);
            match sort(&command, line).expect("sorted") {
                Request::Run(words) => drop(parse::<A>(&command, words.sorted).expect("args")),
                other => panic!("{other:?}"),
            }
        }
        check::<BackupArgs>(backup);
        check::<WalArchiveArgs>(archive);
        check::<WalRestoreArgs>(fetch);
        check::<RestoreArgs>(restore_plugin);
        check::<RestoreArgs>(restore_in_tree);
        check::<BackupDeleteArgs>(delete);
    }
}
