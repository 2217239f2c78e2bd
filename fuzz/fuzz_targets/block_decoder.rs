#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    barman_cloud::fuzzing::parser("block_decoder").expect("a parser").feed(input);
});
