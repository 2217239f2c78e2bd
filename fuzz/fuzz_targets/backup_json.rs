#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    barman_cloud::fuzzing::parser("backup_json").expect("a parser").feed(input);
});
