//! The parts of T-VAT that are not network passes.

use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims, dims_to, result};
use psmt_fast::Result;
use psmt_fast::ops::{self, Backend, Shape, Size, TvatOps};
use psmt_fast::rng::Key;

impl TvatOps for Trace {
    fn uniform_noise(&self, shape: Shape, _: Key) -> Shape {
        self.note(UniformNoise { x: shape });
        shape
    }
    fn normalize(&self, d: &Shape, _: f64) -> Shape {
        self.note(Normalize { d: *d });
        *d
    }
    fn add_normalized(&self, x: &Shape, _: &Shape, _: f64) -> Shape {
        self.note(AddNormalized { x: *x });
        *x
    }
    fn tvat_cotangent(&self, logits: &Shape, _: &Shape, decoders: usize, size: Size) -> Shape {
        self.note(TvatCotangent { logits: *logits, decoders, size });
        *logits
    }
    fn kl_gradient(&self, clean: &Shape, _: &Shape, decoders: usize, size: Size) -> Shape {
        self.note(KlGradient { logits: *clean, decoders, size });
        *clean
    }
}

/// Length of the noise.
const LENGTH: f64 = 2.0;

/// Uniform noise.
#[derive(Clone, Debug, PartialEq)]
pub struct UniformNoise {
    pub x: Shape,
}

impl Case for UniformNoise {
    fn facts(&self) -> Facts {
        Facts::new("uniform_noise", dims(&self.x)).values(self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (x, key) = (self.x, draw.key());
        result("noise", move |b| ops::uniform_noise(b, x, key))
    }
}

/// Each image's noise brought to a length.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalize {
    pub d: Shape,
}

impl Case for Normalize {
    /// d for the norm and again for the result.
    fn facts(&self) -> Facts {
        Facts::new("normalize", dims(&self.d)).values(3 * self.d.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let d = draw.tensor(self.d);
        result("r", move |b| ops::normalize(b, &d, LENGTH))
    }
}

/// Such noise added to features.
#[derive(Clone, Debug, PartialEq)]
pub struct AddNormalized {
    pub x: Shape,
}

impl Case for AddNormalized {
    /// d for the norm and again for the sum; x; the sum.
    fn facts(&self) -> Facts {
        Facts::new("add_normalized", dims(&self.x)).values(4 * self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (x, d) = (draw.tensor(self.x), draw.tensor(self.x));
        result("sum", move |b| ops::add_normalized(b, &x, &d, LENGTH))
    }
}

/// Cotangent of all decoders' logits.
#[derive(Clone, Debug, PartialEq)]
pub struct TvatCotangent {
    pub logits: Shape,
    pub decoders: usize,
    pub size: Size,
}

impl Case for TvatCotangent {
    /// Logits and tangents; the cotangent.
    fn facts(&self) -> Facts {
        Facts::new("tvat_cotangent", format!("{} of {}", dims_to(&self.logits, self.size), self.decoders))
            .values(3 * self.logits.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let TvatCotangent { decoders, size, .. } = *self;
        let (logits, tangents) = (draw.logits(self.logits)?, draw.logits(self.logits)?);
        result("cotangent", move |b| ops::tvat_cotangent(b, &logits, &tangents, decoders, size))
    }
}

/// Gradient of the divergence between clean and perturbed predictions.
#[derive(Clone, Debug, PartialEq)]
pub struct KlGradient {
    pub logits: Shape,
    pub decoders: usize,
    pub size: Size,
}

impl Case for KlGradient {
    /// Clean and perturbed logits; the gradient.
    fn facts(&self) -> Facts {
        Facts::new("kl_gradient", format!("{} of {}", dims_to(&self.logits, self.size), self.decoders))
            .values(3 * self.logits.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let KlGradient { decoders, size, .. } = *self;
        let (clean, perturbed) = (draw.logits(self.logits)?, draw.logits(self.logits)?);
        result("gradient", move |b| ops::kl_gradient(b, &clean, &perturbed, decoders, size))
    }
}
