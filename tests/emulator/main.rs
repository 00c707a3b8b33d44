//! The emulator: what kernels may rely on, what it catches, and what the kernels' text may hold.

#[macro_use]
mod common;
mod mutants;
mod mutants_sm90;
mod promises;
mod text;
