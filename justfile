# Development tasks; `.ci/run` runs the same commands.

# List the tasks.
default:
    @just --list

# Format Rust, CUDA and C++; clang-format is on PyPI (pip install clang-format).
fmt:
    cargo fmt --all
    clang-format -i kernels/*.cu kernels/common/*.cuh tools/emulator/cpp/* tools/emulator/faults/kernels/*.cu

# Formatting and lints.
check:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets --locked -- -D warnings

# All tests.
test:
    cargo test --release --workspace --locked

# Documentation, warnings are errors.
doc:
    RUSTDOCFLAGS=-Dwarnings cargo doc --release --workspace --no-deps --locked

# One training iteration on random data, for example `just bench r50 128`, or a part: `just bench tiny 96 2 10 kernels`.
bench model="tiny" crop="96" batch="2" steps="10" what="step":
    cargo run --release -p psmt-lab -- bench {{what}} --device cpu --model {{model}} --crop {{crop}} --batch {{batch}} --steps {{steps}} --json bench.json

# The built program beside PyTorch; `torch` is the path of bench_torch.py.
compare-torch torch out="torch-results" device="cuda":
    tools/compare_torch.sh {{torch}} target/release/psmt-lab {{out}} {{device}}

# Files with mutations given to every reader, `mutations` of each seed file.
fuzz mutations="20000":
    PSMT_MUTATIONS={{mutations}} cargo test --release --locked --test files mutated_inputs

# A training killed at random moments and resumed, again and again for some seconds.
kill-loop seconds="600":
    cargo build --release --locked
    tools/kill_loop.sh target/release/psmt-fast {{seconds}}

# Compare every op with the fixtures and every backward with finite differences, as tables.
verify:
    cargo run --release -p psmt-lab -- op --check tests/fixtures/*.safetensors
    cargo run --release -p psmt-lab -- gradcheck

# Install nvcc into .nvcc, so that the program gets kernels for GPUs.
nvcc:
    tools/install_nvcc.sh

# Install nvcc of CUDA 12 into .nvcc12, for a program that runs on older drivers (docs/gpu.md).
nvcc12:
    tools/install_nvcc.sh --cuda12

# Registers, shared memory and spills of every kernel; rewrites kernels/RESOURCES.tsv.
resources:
    cargo build --release --locked
    tools/resources.sh

# On a machine with a GPU: everything that the built program can prove there.
gpu-suite out="gpu-results" device="cuda":
    tools/gpu_suite.sh target/release/psmt-lab {{out}} {{device}}

# Everything that must pass before a change is merged.
ci:
    .ci/run
