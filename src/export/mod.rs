//! Trained networks for other programs: ONNX models and tensor files. Must not know devices, kernels or
//! flags.
//!
//! A graph is written by the network's own layers ([`crate::model::Graph`]), so that it cannot differ from
//! what is trained.

mod fold;
mod graph;
mod onnx;
pub mod proto;
mod tensors;

pub use onnx::{Input, OnnxOptions, Output, Written, write_onnx};
pub use tensors::{Naming, write_networks};

use crate::eval::Palette;
use crate::ops::Normalize;
use serde_json::json;

/// Values of one network, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    /// `student`, `teacher1` or `teacher2`.
    pub name: String,
    /// Flat parameters.
    pub params: Vec<f32>,
    /// Flat running statistics.
    pub stats: Vec<f32>,
}

/// What a file says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// Whose networks they are, for example `ensemble`.
    pub network: String,
    /// Names and colours of the classes.
    pub palette: Palette,
    /// Mean and deviation that the networks were trained with.
    pub normalize: Normalize,
    /// Long side at which the run's validation images were predicted; 0 is their own.
    pub long_side: usize,
    /// Side of the window through which they were predicted; 0 is none.
    pub window: usize,
    /// They were stretched to the next multiples of this many rows and columns; 0 and 1 are none.
    pub multiple: usize,
}

impl Info {
    /// Keys and values of the file's metadata; values that are no words are JSON.
    fn entries(&self) -> Vec<(&'static str, String)> {
        let Normalize { mean, std } = self.normalize;
        let colors: Vec<_> = (0..self.palette.names.len()).map(|c| self.palette.color(c as u8)).collect();
        vec![
            ("program", format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))),
            ("network", self.network.clone()),
            ("class_names", json!(self.palette.names).to_string()),
            ("class_colors", json!(colors).to_string()),
            // Not by way of f64, which would write 0.485 as 0.48500001430511475.
            ("normalize", format!("{{\"mean\":{mean:?},\"std\":{std:?}}}")),
            ("long_side", self.long_side.to_string()),
            ("window", self.window.to_string()),
            ("multiple", self.multiple.to_string()),
        ]
    }
}
