//! Measuring: which ops a training step calls with which sizes, running one of them on drawn inputs, checking
//! its results, and timing it. Must not know flags, tables or files.
//!
//! What is measured is found, not listed: a step runs once on [`Trace`], a device that computes nothing and
//! notes the calls.

mod calls;
pub(crate) mod case;
mod ceiling;
mod check;
mod layer;
mod measure;
mod spot;
mod stage;
mod timed;
mod trace;

pub use crate::cases::Call;
pub use crate::cases::conv2d::conv_text;
pub use calls::{known_calls, step_calls};
pub use ceiling::{copy_rate, product_rate};
pub use check::{Oracle, close};
pub use layer::{DIRECTIONS, Layer, layers};
pub use measure::{Sampling, Timing, sample};
pub use stage::{Sizes, images, networks, random_batch, step_args};
pub use timed::{time_call, working_sets};
pub use trace::{Counted, Trace};

use psmt_fast::rng::{Domain, Key};

/// Values in [-0.5, 0.5) that are multiples of 1/256, which every type of activation holds exactly.
pub fn coarse(len: usize, number: u64) -> Vec<f32> {
    let mut rng = Key::new(0, Domain::Bench, number).stream();
    (0..len).map(|_| (rng.next_u32() >> 24) as f32 / 256.0 - 0.5).collect()
}
