//! Checks of the numerics: fixture files are read, run through the ops of a device and compared with the results they
//! hold, and every backward is compared with finite differences in double precision. Knows ops, networks, the method and
//! the image transforms; must not know command-line flags, and prints nothing.

mod compare;
mod fixture;
pub mod gradcheck;
mod margin;
mod run_op;

pub use compare::{DEFAULT_TOLERANCE, Row, compare};
pub use fixture::{Array, Fixture, Outputs, Values};
pub use run_op::{OPS, run_op};
