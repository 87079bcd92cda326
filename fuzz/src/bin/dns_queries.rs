#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| network::fuzzing::dns_queries(bytes));
