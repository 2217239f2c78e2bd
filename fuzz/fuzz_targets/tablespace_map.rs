#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    barman_cloud::fuzzing::parser("tablespace_map").expect("a parser").feed(input);
});
