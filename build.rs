//! Compiles the kernels in `kernels/` for GPUs, and passes their folder to the build scripts of dependents.

#[path = "build/nvcc.rs"]
mod nvcc;

use std::path::Path;

fn main() {
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("set by cargo");
    let out = std::env::var("OUT_DIR").expect("set by cargo");
    for path in ["build", "build.rs"] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:folder={}", Path::new(&root).join("kernels").display());
    if let Err(message) = nvcc::build(Path::new(&root), Path::new(&out)) {
        eprintln!("{message}");
        std::process::exit(1);
    }
}
