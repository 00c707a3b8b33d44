//! Runs the op that a fixture names on a device: reads its tensors and settings, calls the validated op functions and
//! gives the results back in the layout of files. One file a family of ops; this one has what they share.

mod images;
mod layers;
mod losses;
mod networks;

use super::fixture::{Array, Fixture, Outputs, Values, swap_inner};
pub(super) use losses::{ConfCeAttrs, EnsembleAttrs};
pub(super) use networks::TrainStepInputs;
use psmt_fast::ops::{Backend, IGNORE, Mix, Shape, Size};
use psmt_fast::{Error, Result};
use serde::de::DeserializeOwned;

/// No image, logits or label map of a fixture has more positions than this; a larger size in a file is an error and not
/// an allocation that cannot succeed.
const MAX_POSITIONS: usize = 1 << 26;

/// Every op that a fixture can name.
pub const OPS: [&str; 23] = [
    "conv2d",
    "batch_norm",
    "max_pool2d",
    "interpolate",
    "adaptive_avg_pool2d",
    "leaky_relu",
    "cross_entropy",
    "ohem_cross_entropy",
    "ensemble_pseudo_label",
    "conf_ce",
    "cut_mix",
    "confusion_matrix",
    "network",
    "tvat",
    "train_step",
    "schedule",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_saturation",
    "adjust_hue",
    "grayscale",
    "gaussian_blur",
    "resize_bicubic",
];

/// Runs the fixture's op on `b` and returns what it gives, by the names of the fixture's `out.*`.
///
/// # Errors
/// [`Error::Checkpoint`] for an unknown op or a missing, mistyped or misshapen input, [`Error::Config`] for settings that
/// the op does not know or lacks, [`Error::Shape`] where sizes do not fit each other, the device's fault.
pub fn run_op<B: Backend>(b: &B, fixture: &Fixture) -> Result<Outputs> {
    let mut run = Run { b, fixture, out: Outputs::new() };
    match fixture.op.as_str() {
        "conv2d" => layers::conv2d(&mut run),
        "batch_norm" => layers::batch_norm(&mut run),
        "max_pool2d" => layers::max_pool2d(&mut run),
        "interpolate" => layers::interpolate(&mut run),
        "adaptive_avg_pool2d" => layers::adaptive_avg_pool2d(&mut run),
        "leaky_relu" => layers::leaky_relu(&mut run),
        "cross_entropy" => losses::cross_entropy(&mut run),
        "ohem_cross_entropy" => losses::ohem_cross_entropy(&mut run),
        "ensemble_pseudo_label" => losses::ensemble_pseudo_label(&mut run),
        "conf_ce" => losses::conf_ce(&mut run),
        "cut_mix" => losses::cut_mix(&mut run),
        "confusion_matrix" => losses::confusion_matrix(&mut run),
        "network" => networks::network(&mut run),
        "tvat" => networks::tvat(&mut run),
        "train_step" => networks::train_step(&mut run),
        "schedule" => networks::schedule(&mut run),
        "adjust_brightness" | "adjust_contrast" | "adjust_saturation" | "adjust_hue" => {
            images::adjust(&mut run)
        }
        "grayscale" => images::grayscale(&mut run),
        "gaussian_blur" => images::gaussian_blur(&mut run),
        "resize_bicubic" => images::resize_bicubic(&mut run),
        other => {
            let message = format!("unknown op '{other}', expected one of {}", OPS.join(", "));
            Err(Error::checkpoint(&fixture.path, message))
        }
    }?;
    b.check()?;
    Ok(run.out)
}

/// One op on its way: where it runs, what it reads, what it has given so far.
pub(super) struct Run<'a, B: Backend> {
    pub b: &'a B,
    pub fixture: &'a Fixture,
    pub out: Outputs,
}

impl<B: Backend> Run<'_, B> {
    pub fn attrs<T: DeserializeOwned>(&self) -> Result<T> {
        self.fixture.attrs()
    }

    /// `size` of the settings if `n` images of it are no more than a fixture may have.
    pub fn size(&self, n: usize, [h, w]: [usize; 2]) -> Result<Size> {
        let positions = n.max(1).checked_mul(h).and_then(|v| v.checked_mul(w));
        match positions {
            Some(1..=MAX_POSITIONS) => Ok((h, w)),
            _ => Err(self.fixture.bad_attrs(format!(
                "size: expected at least 1 by 1 and at most {MAX_POSITIONS} positions over {n} images, found {h} by {w}"
            ))),
        }
    }

    /// An activation, NCHW in the file.
    pub fn tensor(&self, name: &str) -> Result<B::Tensor> {
        let ([n, c, h, w], values) = self.fixture.f32(name)?;
        Ok(self.b.upload(Shape::new(n, h, w, c), &swap_inner(values, n, c, h * w)))
    }

    /// An activation of a known shape.
    pub fn tensor_of(&self, name: &str, shape: Shape) -> Result<B::Tensor> {
        let tensor = self.tensor(name)?;
        let got = B::shape(&tensor);
        if got != shape {
            return Err(self.fixture.bad_input(name, format!("expected shape {shape}, found {got}")));
        }
        Ok(tensor)
    }

    /// A float32 array of one axis with `len` values.
    pub fn values(&self, name: &str, len: usize) -> Result<&[f32]> {
        let ([got], values) = self.fixture.f32(name)?;
        if got != len {
            return Err(self.fixture.bad_input(name, format!("expected {len} values, found {got}")));
        }
        Ok(values)
    }

    /// Labels `[n, h, w]` of `num_classes` classes; `ignore_index` becomes [`IGNORE`].
    pub fn labels(&self, name: &str, num_classes: usize, ignore_index: Option<i64>) -> Result<B::Labels> {
        let ([n, h, w], values) = self.fixture.i32(name)?;
        if num_classes > usize::from(IGNORE) {
            return Err(self
                .fixture
                .bad_input(name, format!("expected at most {IGNORE} classes, found {num_classes}")));
        }
        let mut bytes = Vec::with_capacity(values.len());
        for (i, &v) in values.iter().enumerate() {
            let class = usize::try_from(v).ok().filter(|&v| v < num_classes);
            bytes.push(match class {
                _ if ignore_index == Some(i64::from(v)) => IGNORE,
                Some(class) => class as u8,
                None => {
                    let expected = format!("expected classes 0 to {}", num_classes.saturating_sub(1));
                    return Err(self.fixture.bad_input(name, format!("{expected}, found {v} at index {i}")));
                }
            });
        }
        Ok(self.b.upload_labels(Shape::new(n, h, w, 1), &bytes))
    }

    pub fn put(&mut self, name: &str, array: Array) {
        self.out.insert(name.to_string(), array);
    }

    pub fn put_tensor(&mut self, name: &str, x: &B::Tensor) {
        self.put(name, Array::activation(B::shape(x), &self.b.download(x)));
    }

    pub fn put_scalar(&mut self, name: &str, value: f64) {
        self.put(name, Array::f32([], vec![value as f32]));
    }

    pub fn put_vector(&mut self, name: &str, values: &[f32]) {
        self.put(name, Array::f32([values.len()], values.to_vec()));
    }

    /// Counts, which a file holds in 32 bits.
    pub fn put_counts(&mut self, name: &str, shape: Vec<usize>, counts: &[u64]) {
        let values = counts.iter().map(|&v| i32::try_from(v).unwrap_or(i32::MAX)).collect();
        self.put(name, Array { shape, values: Values::I32(values) });
    }
}

/// The fixture's `boxes` `[b, n, 4]` and `perm` `[b, n]` for `n` images of `size`.
pub(super) fn mix(fixture: &Fixture, n: usize, size: Size) -> Result<Mix> {
    let ([rounds, images, corners], boxes) = fixture.i32("boxes")?;
    if corners != 4 || images != n {
        let message = format!("expected shape [rounds, {n}, 4], found {:?}", [rounds, images, corners]);
        return Err(fixture.bad_input("boxes", message));
    }
    let (shape, perm) = fixture.i32::<2>("perm")?;
    if shape != [rounds, n] {
        return Err(fixture.bad_input("perm", format!("expected shape [{rounds}, {n}], found {shape:?}")));
    }
    let index = |name: &str, v: i32| {
        usize::try_from(v)
            .map_err(|_| fixture.bad_input(name, format!("expected no negative value, found {v}")))
    };
    let mut mix = Mix::default();
    for round in 0..rounds {
        let (mut round_boxes, mut round_perm) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for i in round * n..(round + 1) * n {
            let mut corners = [0; 4];
            for (to, &from) in corners.iter_mut().zip(&boxes[4 * i..]) {
                *to = index("boxes", from)?;
            }
            round_boxes.push(corners);
            round_perm.push(index("perm", perm[i])?);
        }
        mix.boxes.push(round_boxes);
        mix.perm.push(round_perm);
    }
    mix.validate(n, size)?;
    Ok(mix)
}
