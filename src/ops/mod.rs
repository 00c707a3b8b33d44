//! The op vocabulary. A family of ops has its arguments, a trait with what a device must be able to do, and for each op a public function
//! that validates and then calls the device, which assumes valid input. A [`Device`] is memory; a [`Backend`] has all families. Nothing
//! here knows of networks or of the method.
//!
//! Activations are NHWC. Parameters, gradients and running statistics are flat vectors; ops address parts of them by
//! [`Span`]. A gradient with respect to an activation is returned (overwrites); a gradient with respect to a parameter
//! is added to the gradient vector (accumulates).

mod backend;
mod batch_norm;
mod check;
mod conf_ce;
mod confusion_matrix;
mod conv2d;
mod cross_entropy;
mod cut_mix;
mod elementwise;
mod ensemble_pseudo_label;
mod finite;
mod interpolate;
mod memory;
mod mse_consistency;
mod optimizer;
mod photometric;
mod pool;
mod spec;
mod tvat;

pub use backend::*;
pub use batch_norm::*;
pub use conf_ce::*;
pub use confusion_matrix::*;
pub use conv2d::*;
pub use cross_entropy::*;
pub use cut_mix::*;
pub use elementwise::*;
pub use ensemble_pseudo_label::*;
pub use finite::*;
pub use interpolate::*;
pub use memory::*;
pub use mse_consistency::*;
pub use optimizer::*;
pub use photometric::*;
pub use pool::*;
pub use spec::*;
pub use tvat::*;
