//! Compiles the kernels of psmt-fast, and the emulator's own C++, with the host's compiler.

mod host;

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    let kernels =
        PathBuf::from(env::var_os("DEP_PSMT_FAST_KERNELS_FOLDER").expect("set by psmt-fast's build script"));
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    println!("cargo:rerun-if-changed=host.rs");
    host::build(&host::Kernels {
        folder: &kernels,
        headers: &kernels,
        cpp: &root.join(Path::new("cpp")),
        with_arithmetic: true,
        archive: "psmt_emulated_kernels",
    });
}
