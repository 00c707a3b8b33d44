//! What kernels are made of: everything that differs between a GPU and the emulator is in
//! kernels/common/cuda.cuh and cuda_sm90.cuh.

use std::fs;
use std::path::{Path, PathBuf};

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

#[test]
fn kernels_use_nothing_but_the_common_header() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut found = Vec::new();
    files(&root, &mut found);
    let mut wrong = Vec::new();
    for path in found {
        let name = path.strip_prefix(&root).expect("below the root").display().to_string();
        let text = fs::read_to_string(&path).expect("text");
        if name.starts_with("common/cuda") || name.starts_with("common/emulated") {
            continue;
        }
        for (i, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let words = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let banned = |w: &str| {
                let raw = w.starts_with("__") && w != "__restrict__" && w != "__CUDACC__";
                w == "asm"
                    || raw
                    || ["cuda_runtime", "cuda_bf16", "cuda_fp16", "cooperative_groups"].contains(&w)
            };
            let include = code.trim_start().starts_with("#include");
            let foreign = include && code.contains('<');
            if foreign || words.clone().any(banned) {
                wrong.push(format!("kernels/{name}:{}: {line}", i + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "only common/cuda*.cuh may have these:\n{}", wrong.join("\n"));
}
