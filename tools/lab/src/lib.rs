//! The laboratory of psmt-fast: its commands on the emulated devices too, and what measures and proves it.
//! `op` runs single operations on files, `gradcheck` compares backward passes with finite differences,
//! `selftest` proves the instructions that kernels are built on, and `bench` measures.

pub mod bench;
mod cases;
pub mod check;
pub mod cli;
