//! Devices: each implements [`crate::ops::Backend`]. They must not know networks.

pub mod cpu;
pub mod cuda;
