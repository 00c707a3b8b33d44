//! The op vocabulary: specifications, the [`Backend`] trait, and one public function an op that validates shapes and
//! then calls the backend. Backends assume valid input. Nothing here knows of networks or of the method.
//!
//! Activations are NHWC. Parameters, gradients and running statistics are flat vectors; ops address parts of them by
//! [`Span`]. A gradient with respect to an activation is returned (overwrites); a gradient with respect to a parameter
//! is added to the gradient vector (accumulates).

mod backend;
mod spec;

pub use backend::*;
pub use spec::*;
