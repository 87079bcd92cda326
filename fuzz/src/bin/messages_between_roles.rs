#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| network::fuzzing::messages_between_roles(bytes));
