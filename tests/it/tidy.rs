//! The rules of the house that a program can check: arrows between rooms, sizes, words.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const EVERY_LOWER_FLOOR: &[&str] = &[
    "catalog", "postgres", "disk", "store", "snapshot", "hook", "cloud", "tarball", "codec",
    "flow", "wal", "pgdata", "monitor",
];

/// Which rooms a room may use besides itself. The README shows the same as a picture.
const ARROWS: &[(&str, &[&str])] = &[
    ("wal", &[]),
    ("pgdata", &["wal"]),
    ("monitor", &[]),
    ("flow", &["monitor"]),
    ("codec", &["flow"]),
    ("tarball", &["flow"]),
    ("cloud", &["flow", "monitor"]),
    ("store", &["cloud", "flow", "monitor"]),
    ("snapshot", &["cloud", "flow", "monitor"]),
    ("postgres", &["wal", "pgdata", "flow"]),
    ("disk", &["flow"]),
    ("hook", &["monitor"]),
    // `codec` for the names of compressions, which are part of the keys, and for history files.
    ("catalog", &["wal", "pgdata", "codec", "store", "flow", "monitor"]),
    ("wal_archive", EVERY_LOWER_FLOOR),
    ("backup", EVERY_LOWER_FLOOR),
    ("restore", EVERY_LOWER_FLOOR),
    ("retention", EVERY_LOWER_FLOOR),
    ("verify", EVERY_LOWER_FLOOR),
];

/// Rooms that only `command` stands above: it may use all.
const TOP_ROOM: &str = "command";

/// Reaches every parser in every room, and is used by none.
const FUZZING: &str = "fuzzing";

/// For tests only: it plays what stands above the verbs.
const SIMULATION: &str = "simulation";

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

#[test]
fn rooms_use_only_the_rooms_below_them() {
    let mut wrong = Vec::new();
    for file in rust_files("src") {
        let Some(room) = room_of(&file) else { continue };
        if [TOP_ROOM, FUZZING, SIMULATION].contains(&room.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: room {room:?} has no row in ARROWS", shown(&file)));
            continue;
        };
        for used in rooms_used(&code_of(&read(&file))) {
            if used != room && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: {room} must not use {used}", shown(&file)));
            }
        }
    }
    none(&wrong);
}

#[test]
fn every_room_is_declared_once_in_lib_rs() {
    let lib = read(&root().join("src/lib.rs"));
    let declared: BTreeSet<String> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(String::from)
        .collect();
    let rooms: BTreeSet<String> = rust_files("src").iter().filter_map(|f| room_of(f)).collect();
    assert_eq!(declared, rooms);
}

#[test]
fn imports_are_absolute_and_named() {
    let mut wrong = Vec::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("bin")) {
        for (number, line) in read(&file).lines().enumerate() {
            let line = without_comment(line);
            let glob = line.trim_start().contains("use ") && line.trim_end().ends_with("::*;");
            let parent = concat!("super", "::");
            if line.contains(parent) || glob && !line.contains("proptest::prelude::*") {
                wrong.push(format!("{}:{}: {line}", shown(&file), number + 1));
            }
        }
    }
    none(&wrong);
}

#[test]
fn only_the_command_room_prints() {
    let mut wrong = Vec::new();
    for file in rust_files("src") {
        if room_of(&file).is_some_and(|room| [TOP_ROOM, SIMULATION].contains(&room.as_str())) {
            continue;
        }
        let code = code_of(&read(&file));
        for word in ["println!", "print!", "eprintln!", "eprint!", "io::stdout(", "process::exit("]
        {
            if code.contains(word) {
                wrong.push(format!("{}: {word}", shown(&file)));
            }
        }
    }
    none(&wrong);
}

#[test]
fn files_and_functions_stay_small() {
    let mut wrong = Vec::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("bin")) {
        let text = read(&file);
        let code = if file.starts_with(root().join("src")) { before_tests(&text) } else { &text };
        let lines = code.lines().count();
        let only_tests = shown(&file).ends_with("_tests.rs");
        if lines >= FILE_LINES_MAX && !only_tests {
            wrong.push(format!("{}: {lines} lines", shown(&file)));
        }
        for (name, lines) in function_lengths(code) {
            if lines > FUNCTION_LINES_MAX {
                wrong.push(format!("{}: {name} has {lines} lines", shown(&file)));
            }
        }
    }
    none(&wrong);
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent = |file: &PathBuf| !read(file).starts_with("//!");
    let files = rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("bin"));
    let wrong: Vec<String> = files.filter(silent).map(|file| shown(&file)).collect();
    none(&wrong);
}

#[test]
fn no_test_file_is_forgotten() {
    let main = read(&root().join("tests/it/main.rs"));
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root().join("tests/it")).expect("tests/it").flatten() {
        let path = entry.path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if name != "main" && !main.lines().any(|line| line == format!("mod {name};")) {
            wrong.push(format!("{} is not a module of tests/it/main.rs", shown(&path)));
        }
    }
    none(&wrong);
}

#[test]
fn every_program_in_bin_is_one_call() {
    let wrong: Vec<String> = rust_files("bin")
        .into_iter()
        .filter(|file| code_of(&read(file)).lines().filter(|l| !l.trim().is_empty()).count() > 6)
        .map(|file| shown(&file))
        .collect();
    none(&wrong);
}

#[test]
fn tests_are_named_by_facts() {
    let mut wrong = Vec::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")) {
        let text = read(&file);
        for name in tests_in(&text) {
            if name.starts_with("test_") || name.ends_with("_works") || !name.contains('_') {
                wrong.push(format!("{}: {name}", shown(&file)));
            }
        }
    }
    none(&wrong);
}

#[test]
fn the_tests_that_the_readme_names_exist() {
    let files = rust_files("src").into_iter().chain(rust_files("tests"));
    let known: BTreeSet<String> = files.flat_map(|file| tests_in(&read(&file))).collect();
    let readme = read(&root().join("README.md"));
    let cited: Vec<&str> = readme
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|quoted| quoted.strip_prefix("test "))
        .collect();
    assert!(!cited.is_empty(), "README.md names no test");
    let wrong: Vec<&&str> = cited.iter().filter(|name| !known.contains(**name)).collect();
    assert!(wrong.is_empty(), "README.md names tests that do not exist: {wrong:#?}");
}

#[test]
fn nothing_speaks_of_one_machine_or_leaves_open_ends() {
    let machine = [concat!("/wo", "rk/"), concat!("/tmp/w", "t/"), concat!("/tmp/t", "ools")];
    let open = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    let mut wrong = Vec::new();
    for file in text_files(&root()) {
        for (number, line) in read(&file).lines().enumerate() {
            let at = || format!("{}:{}: {}", shown(&file), number + 1, line.trim());
            if machine.iter().any(|word| line.contains(word)) {
                wrong.push(at());
            }
            if open.iter().any(|word| has_word(line, word)) && !line.contains('#') {
                wrong.push(at());
            }
        }
    }
    none(&wrong);
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[track_caller]
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} violations:\n{}", wrong.len(), wrong.join("\n"));
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut files = text_files(&root().join(folder));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// Every file of the source tree that is text, in order.
fn text_files(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()).collect();
    entries.sort();
    let mut files = Vec::new();
    for path in entries {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            if ![".git", "target", "fixtures", "node_modules"].contains(&name.as_str()) {
                files.extend(text_files(&path));
            }
        } else if name != ".git" && fs::read_to_string(&path).is_ok() {
            files.push(path);
        }
    }
    files
}

/// `src/<room>/…` or `src/<room>.rs`; `None` for `lib.rs`.
fn room_of(file: &Path) -> Option<String> {
    let below = file.strip_prefix(root().join("src")).ok()?;
    let first = below.components().next()?.as_os_str().to_string_lossy().into_owned();
    let room = first.strip_suffix(".rs").unwrap_or(&first).to_string();
    (room != "lib").then_some(room)
}

/// Everything before the file's test module.
fn before_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |end| &text[..end])
}

/// The code without tests and comments.
fn code_of(text: &str) -> String {
    before_tests(text).lines().map(without_comment).collect::<Vec<_>>().join("\n")
}

fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with("//") { "" } else { line.split(" // ").next().unwrap_or(line) }
}

/// The first path segments after `crate::`, single or in braces.
fn rooms_used(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut start = true;
            for word in split_keeping(list) {
                match word {
                    "{" => depth += 1,
                    "}" if depth == 0 => break,
                    "}" => depth -= 1,
                    "," if depth == 0 => start = true,
                    word if start && depth == 0 && !word.trim().is_empty() => {
                        rooms.insert(identifier(word.trim()));
                        start = false;
                    }
                    _ => {}
                }
            }
        } else {
            rooms.insert(identifier(rest));
        }
    }
    rooms
}

fn split_keeping(text: &str) -> Vec<&str> {
    text.split_inclusive(['{', '}', ','])
        .flat_map(|piece| {
            let cut = piece.len() - usize::from(piece.ends_with(['{', '}', ',']));
            [&piece[..cut], &piece[cut..]]
        })
        .collect()
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Names and lengths of functions, found by rustfmt's indentation.
fn function_lengths(code: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indentation = &line[..line.len() - line.trim_start().len()];
        let end = lines[start..].iter().position(|line| {
            *line == format!("{indentation}}}")
                || line.trim_end().ends_with(';') && line == &lines[start]
        });
        found.push((name, end.map_or(0, |end| end + 1)));
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let mut rest = line.trim_start();
    for word in ["pub(crate) ", "pub ", "const ", "async "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    Some(identifier(rest.strip_prefix("fn ")?))
}

fn tests_in(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let is_test = |line: &str| {
        let line = line.trim();
        line == "#[test]" || line.starts_with("#[tokio::test")
    };
    let mut names = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if is_test(line) {
            names.extend(lines[index..].iter().take(6).find_map(|line| function_name(line)));
        }
    }
    names
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let alone = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        alone(line[..at].chars().next_back()) && alone(line[at + word.len()..].chars().next())
    })
}
