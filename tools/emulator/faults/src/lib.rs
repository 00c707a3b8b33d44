//! Kernels with one fault each, which the tests expect the emulator to name; they are linked into nothing
//! else.

include!(concat!(env!("OUT_DIR"), "/table.rs"));
