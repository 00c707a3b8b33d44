//! Values that are not finite, found on the device and read when losses are: each step's logits and gradients
//! are looked through, and one number keeps the first place of all steps since the last reading.

use super::state::param_name;
use crate::model::Architecture;
use crate::ops::{Backend, MAX_PLACES, watched};

/// Tensors that a step looks through, at most.
const PLACES_PER_STEP: u32 = 16;

/// A tensor that a step looks through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Watched {
    what: What,
    net: &'static str,
    warm_up: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Logits(&'static str),
    Gradient,
}

/// Where a value is not finite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Step since the last reading, from 0.
    pub step: usize,
    /// Number of the tensor in what the step watched.
    pub tensor: usize,
    /// Flat index in it.
    pub index: usize,
}

/// The number on the device, and the step since the last reading that is at work.
pub(super) struct Watch<B: Backend> {
    cell: B::Counts,
    step: u32,
}

impl<B: Backend> Watch<B> {
    pub fn new(b: &B) -> Watch<B> {
        Watch { cell: b.zero_counts(1), step: 0 }
    }

    /// The next step is at work.
    pub fn next(&mut self) {
        self.step += 1;
    }

    /// Whether there is no place for another step before the next reading.
    pub fn full(&self) -> bool {
        self.step >= MAX_PLACES / PLACES_PER_STEP - 1
    }

    /// Looks through a batch's logits, which come with their names, and the gradient so far. They are the
    /// step's tensors from `before` on; a step's batches share them.
    pub fn batch(
        &mut self,
        b: &B,
        logits: &[(&'static str, B::Tensor)],
        grads: &B::Vector,
        (net, warm_up): (&'static str, bool),
        before: usize,
        done: &mut Vec<Watched>,
    ) {
        let first = self.step * PLACES_PER_STEP + before as u32;
        for (i, (_, tensor)) in logits.iter().enumerate() {
            b.watch_tensor(&mut self.cell, tensor, first + i as u32);
        }
        b.watch_vector(&mut self.cell, grads, first + logits.len() as u32);
        if done.len() == before {
            let logits = logits.iter().map(|(name, _)| What::Logits(name));
            done.extend(logits.chain([What::Gradient]).map(|what| Watched { what, net, warm_up }));
        }
    }

    /// The first value that is not finite since the last reading; starts over. Waits for the device.
    pub fn read(&mut self, b: &B) -> Option<Found> {
        let found = watched(b.read_counts(&self.cell)[0]);
        if found.is_some() {
            self.cell = b.zero_counts(1);
        }
        self.step = 0;
        found.map(|(place, index)| Found {
            step: (place / PLACES_PER_STEP) as usize,
            tensor: (place % PLACES_PER_STEP) as usize,
            index: index as usize,
        })
    }
}

impl Watched {
    /// Whether it was computed before the losses.
    pub fn before_losses(&self) -> bool {
        matches!(self.what, What::Logits(_))
    }

    /// The tensor in words, for the element at `index`.
    pub fn describe(&self, arch: &Architecture, index: usize) -> String {
        let net = self.net;
        let tensor = match self.what {
            What::Logits(name) => format!("{name} logits"),
            What::Gradient => format!("gradient of {net}.{}", param_name(arch, index)),
        };
        if self.warm_up { format!("{tensor} ({net}, warm-up)") } else { tensor }
    }
}
