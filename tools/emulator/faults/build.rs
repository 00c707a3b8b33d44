//! Compiles the faulty kernels.

#[path = "../host.rs"]
mod host;

use std::env;
use std::path::PathBuf;

fn main() {
    let headers =
        PathBuf::from(env::var_os("DEP_PSMT_FAST_KERNELS_FOLDER").expect("set by psmt-fast's build script"));
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    println!("cargo:rerun-if-changed=../host.rs");
    host::build(&host::Kernels {
        folder: &root.join("kernels"),
        headers: &headers,
        cpp: &root.join("../cpp"),
        with_arithmetic: false,
        archive: "psmt_faulty_kernels",
    });
}
