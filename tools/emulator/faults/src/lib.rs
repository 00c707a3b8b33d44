//! Kernels with one fault each, which the tests expect the emulator to report; nothing else links them.

include!(concat!(env!("OUT_DIR"), "/table.rs"));
