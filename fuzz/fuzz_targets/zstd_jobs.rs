#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    barman_cloud::fuzzing::parser("zstd_jobs").expect("a parser").feed(input);
});
