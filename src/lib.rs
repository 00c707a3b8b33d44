//! psmt-fast trains semantic-segmentation networks from few labelled and many unlabelled images by PS-MT (Liu et al.,
//! "Perturbed and Strict Mean Teachers for Semi-supervised Semantic Segmentation", CVPR 2022).
//!
//! Dependencies point downwards: [`cli`] → [`config`], [`train`], [`export`], [`eval`], [`weights`] → [`method`] →
//! [`model`] → [`ops`] → [`backend`]; [`data`] stands beside the method and knows nothing above it. `ARCHITECTURE.md` has the map.

pub mod backend;
pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod eval;
pub mod export;
pub mod host;
pub mod method;
pub mod model;
pub mod ops;
pub mod report;
pub mod rng;
pub mod train;
pub mod weights;

pub use error::{Error, Result};
