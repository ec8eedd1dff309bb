#![no_main]

use larder::fuzzing::{codec, memory_allowed};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let taken = allocation_counter::measure(|| codec(bytes));
    assert!(taken.bytes_max <= memory_allowed(bytes), "{taken:?}");
});
