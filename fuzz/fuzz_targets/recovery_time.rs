#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    barman_cloud::fuzzing::parser("recovery_time").expect("a parser").feed(input);
});
