//! Compiles the kernels in `kernels/`.

#[path = "build/emulator.rs"]
mod emulator;

fn main() {
    emulator::build();
}
