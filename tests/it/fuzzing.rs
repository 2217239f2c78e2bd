//! Damaged input for every parser: the seeds of `fuzz/seeds` and of Barman's own files, changed
//! in every way that a hostile store or a bad disk may change them.
//!
//! The same functions are the targets of `cargo fuzz`, which looks longer and deeper but needs a
//! nightly compiler. What is done here is the same each time: a failure names the input.

use barman_cloud::fuzzing::{PARSERS, Parser, parser};
use std::fmt::Write;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Longer seeds are cut: the beginning of a file is where its structure is.
const SEED_BYTES_MAX: usize = 24 << 10;

/// How many inputs a parser gets: those that unpack take longer for each.
const QUICK: usize = 20_000;
const SLOW: usize = 1_500;

/// Marsaglia's xorshift, so that every run is the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).expect("a length");
        usize::try_from(self.next() % end).expect("below a length")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }
}

/// Bytes on which parsers turn.
const TURNS: &[u8] = b"\0\n\r\t \"'\\/%:;,=&?#@[](){}<>-+.0123456789aAeEnNxX\x7f\x80\xff";

fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        let length_max = 1 << random.below(8);
        let length = random.below(length_max).min(input.len() - at);
        match random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.byte(),
            2 if at < input.len() => input[at] = TURNS[random.below(TURNS.len())],
            3 => input.insert(at, TURNS[random.below(TURNS.len())]),
            4 => drop(input.drain(at..at + length)),
            5 => {
                let piece = input[at..at + length].to_vec();
                for _ in 0..=random.below(40) {
                    drop(input.splice(at..at, piece.iter().copied()));
                }
            }
            6 => input.truncate(at),
            7 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                drop(input.splice(at.., other[from..].iter().copied()));
            }
            _ => {
                let number = [u64::MAX, 0, 1 << 63, 1 << 31, 0x7fff_ffff][random.below(5)];
                let text = number.to_string();
                drop(input.splice(at..at + length, text.bytes()));
            }
        }
        input.truncate(4 * SEED_BYTES_MAX);
    }
    input
}

/// Gives a parser its seeds as they are and changed, and says which input it does not survive.
#[track_caller]
fn survives(name: &str, rounds: usize) {
    let parser = parser(name).expect("a parser");
    let seeds = seeds_of(name);
    assert!(!seeds.is_empty(), "no seed for {name}");
    for seed in &seeds {
        feed(parser, seed);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..rounds {
        feed(parser, &mutated(&seeds, &mut random));
    }
}

#[track_caller]
fn feed(parser: &Parser, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| parser.feed(input))).is_err() {
        let mut shown = String::new();
        for byte in input.iter().take(4096) {
            let _ = write!(shown, "{}", byte.escape_ascii());
        }
        panic!("{} does not survive b\"{shown}\"", parser.name);
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
        .into_iter()
        .flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] })
        .collect()
}

fn read_cut(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).expect("a seed");
    bytes.truncate(SEED_BYTES_MAX);
    bytes
}

/// The seeds of `fuzz/seeds`, and what Barman wrote that is of this kind.
fn seeds_of(name: &str) -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> =
        files_below(&root().join("fuzz/seeds").join(name)).iter().map(|p| read_cut(p)).collect();
    let fixtures = files_below(&root().join("tests/fixtures/barman-3.19.1"));
    let named = |end: &str| -> Vec<Vec<u8>> {
        let ours = fixtures.iter().filter(|path| path.to_string_lossy().ends_with(end));
        ours.map(|path| read_cut(path)).collect()
    };
    match name {
        "backup_info" => seeds.extend(named("/backup.info")),
        "backup_label" => seeds.extend(named("/backup_label")),
        "timeline_history" => seeds.extend(named(".history")),
        "tarball" => seeds.extend(named(".tar")),
        "wal_page_header" => {
            seeds.extend(named("plain/wals/0000000100000000/00000001000000000000001A"))
        }
        // Not found in fixtures: a header of zeros with the version of PostgreSQL 15.
        "control_file" => {
            let mut file = vec![0; 8192];
            file[8..12].copy_from_slice(&1300_u32.to_le_bytes());
            seeds.push(file);
        }
        "tarball_index" => {
            let lines = files_below(&root().join("fuzz/seeds/index_lines"));
            seeds.extend(lines.iter().map(|p| zstd::encode_all(&*read_cut(p), 3).expect("zstd")));
        }
        "decoder" => seeds.extend(compressed(&named, &[])),
        "block_decoder" => seeds.extend(compressed(&named, &[64])),
        "zstd_jobs" => seeds.extend(named(".zst")),
        _ => {}
    }
    seeds
}

/// Compressed files after the byte that names their compression, and `more` bytes.
fn compressed(named: &dyn Fn(&str) -> Vec<Vec<u8>>, more: &[u8]) -> Vec<Vec<u8>> {
    let suffixes = [".gz", ".bz2", ".xz", ".snappy", ".zst", ".lz4"];
    let numbered = (0u8..).zip(suffixes);
    numbered
        .flat_map(|(number, suffix)| {
            let files = named(suffix).into_iter();
            files.map(move |file| [&[number][..], more, &file].concat()).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn every_parser_has_a_test_here_and_a_target_for_cargo_fuzz() {
    let here = include_str!("fuzzing.rs");
    for parser in PARSERS {
        assert!(here.contains(&format!("survives(\"{}\"", parser.name)), "{}", parser.name);
        let target = root().join(format!("fuzz/fuzz_targets/{}.rs", parser.name));
        let text = fs::read_to_string(&target).unwrap_or_default();
        assert!(text.contains(&format!("\"{}\"", parser.name)), "{}", target.display());
    }
}

#[test]
fn damaged_backup_info_input_is_survived() {
    survives("backup_info", QUICK);
}

#[test]
fn damaged_backup_json_input_is_survived() {
    survives("backup_json", QUICK);
}

#[test]
fn damaged_side_json_input_is_survived() {
    survives("side_json", QUICK);
}

#[test]
fn damaged_python_literal_input_is_survived() {
    survives("python_literal", QUICK);
}

#[test]
fn damaged_tarball_input_is_survived() {
    survives("tarball", SLOW);
}

#[test]
fn damaged_tarball_index_input_is_survived() {
    survives("tarball_index", SLOW);
}

#[test]
fn damaged_index_lines_input_is_survived() {
    survives("index_lines", SLOW);
}

#[test]
fn damaged_backup_label_input_is_survived() {
    survives("backup_label", QUICK);
}

#[test]
fn damaged_tablespace_map_input_is_survived() {
    survives("tablespace_map", QUICK);
}

#[test]
fn damaged_control_file_input_is_survived() {
    survives("control_file", SLOW);
}

#[test]
fn damaged_timeline_history_input_is_survived() {
    survives("timeline_history", QUICK);
}

#[test]
fn damaged_wal_page_header_input_is_survived() {
    survives("wal_page_header", QUICK);
}

#[test]
fn damaged_names_input_is_survived() {
    survives("names", QUICK);
}

#[test]
fn damaged_conninfo_input_is_survived() {
    survives("conninfo", QUICK);
}

#[test]
fn damaged_passfile_input_is_survived() {
    survives("passfile", QUICK);
}

#[test]
fn damaged_service_file_input_is_survived() {
    survives("service_file", QUICK);
}

#[test]
fn damaged_command_line_values_input_is_survived() {
    survives("command_line_values", QUICK);
}

#[test]
fn damaged_recovery_time_input_is_survived() {
    survives("recovery_time", QUICK);
}

#[test]
fn damaged_store_url_input_is_survived() {
    survives("store_url", QUICK);
}

#[test]
fn damaged_cloud_settings_input_is_survived() {
    survives("cloud_settings", QUICK);
}

#[test]
fn damaged_cloud_answer_input_is_survived() {
    survives("cloud_answer", QUICK);
}

#[test]
fn damaged_ec2_answer_input_is_survived() {
    survives("ec2_answer", QUICK);
}

#[test]
fn damaged_snapshot_records_input_is_survived() {
    survives("snapshot_records", QUICK);
}

#[test]
fn damaged_decoder_input_is_survived() {
    survives("decoder", SLOW);
}

#[test]
fn damaged_block_decoder_input_is_survived() {
    survives("block_decoder", SLOW);
}

#[test]
fn damaged_zstd_jobs_input_is_survived() {
    survives("zstd_jobs", SLOW);
}
