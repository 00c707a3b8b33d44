//! Devices. Each implements [`crate::ops::Backend`]; none knows of networks.

pub mod cpu;
pub mod cuda;
