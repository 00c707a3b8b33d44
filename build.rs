//! Compiles the kernels in `kernels/`: for GPUs and for the emulator.

#[path = "build/emulator.rs"]
mod emulator;
#[path = "build/nvcc.rs"]
mod nvcc;

use std::path::Path;

fn main() {
    emulator::build();
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("set by cargo");
    let out = std::env::var("OUT_DIR").expect("set by cargo");
    if let Err(message) = nvcc::build(Path::new(&root), Path::new(&out)) {
        eprintln!("{message}");
        std::process::exit(1);
    }
}
