#![no_main]
#![allow(missing_docs, reason = "the function says what is demanded of an input")]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portolan_fuzz::gateway(bytes));
