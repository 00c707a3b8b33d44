//! Checks of the numerics: fixture files are read, run through the ops of a device and compared with the
//! results they hold, every backward is compared with finite differences in double precision, and what
//! kernels are built on with its definition. Must not know command-line flags, and prints nothing.

mod bars;
mod compare;
pub(crate) mod fixture;
pub mod gradcheck;
mod margin;
pub(crate) mod run_op;
pub mod selftest;

pub use bars::{BF16_TOLERANCE, Bars, DEFAULT_TOLERANCE, UNJUDGED};
pub use compare::{Row, compare};
pub use fixture::{Array, Fixture, Outputs, Values};
pub use run_op::{ops, run_op};

use psmt_fast::Result;
use psmt_fast::backend::cpu::Cpu;

/// What a device with 16-bit activations is judged by: `fixture` with its float32 inputs rounded to bf16, and
/// as results what the CPU computes from those in double precision. What remains is the device's own error.
///
/// # Errors
/// As [`run_op`].
pub fn with_bf16_inputs(fixture: &Fixture) -> Result<Fixture> {
    let mut rounded = fixture.clone();
    for array in rounded.inputs.values_mut() {
        if let Values::F32(values) = &mut array.values {
            values.iter_mut().for_each(|v| *v = half::bf16::from_f32(*v).to_f32());
        }
    }
    rounded.outputs = run_op(&Cpu::<f64>::new(), &rounded)?;
    Ok(rounded)
}
