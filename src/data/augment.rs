//! Weak and strong views of one image: drawing their geometry and colours, and applying the geometry. Must
//! not know files, lists or batches.
//!
//! Weak (PS-MT, appendix): random scale, padding with the mean colour and the ignored label, random crop,
//! flip. Strong: the same geometry, then colour jitter, grey and Gaussian blur. Both views are one crop of
//! bytes; colours are changed and normalised on the device ([`crate::ops::photometric`]). Only the window of
//! the resized image that the crop shows is resampled.

use super::pixels::{Mask, RgbImage};
use super::resize::{LabelResize, Window, resize_bicubic_window, resize_labels_window};
use crate::ops::{Adjust, Blur, Box2d, IGNORE, MAX_BLUR_KERNEL, Size, Strong};
use crate::rng::Stream;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Parameters of both views. The defaults are the method's for Pascal VOC, except that images keep their own
/// size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Rows and columns of the crop that networks take as input.
    pub crop: [usize; 2],
    /// Long side of the image at scale 1 (600 for VOC); the image's own size if absent (Cityscapes: 1024 x
    /// 2048).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_size: Option<usize>,
    /// Least and largest random scale.
    pub scale: [f32; 2],
    /// Probability of a horizontal flip.
    pub flip: f32,
    /// Strong: probability that the four colour adjustments are made, in random order.
    pub jitter: f32,
    /// Strong: brightness factor is uniform in 1 ± this.
    pub brightness: f32,
    /// Strong: contrast factor is uniform in 1 ± this.
    pub contrast: f32,
    /// Strong: saturation factor is uniform in 1 ± this.
    pub saturation: f32,
    /// Strong: hue shift, a fraction of the circle, is uniform in ± this, at most 0.5.
    pub hue: f32,
    /// Strong: probability of grey.
    pub gray: f32,
    /// Strong: probability of Gaussian blur.
    pub blur: f32,
    /// Strong: least and largest standard deviation of the blur in pixels, drawn uniformly.
    pub blur_sigma: [f32; 2],
    /// Strong: sides of the blur's window in pixels, odd, at most 511, drawn independently of its standard
    /// deviation; 1 changes nothing.
    pub blur_kernels: Vec<usize>,
    /// Strong: how often each of `blur_kernels` is drawn, relative to the others.
    pub blur_kernel_shares: Vec<f32>,
    /// Resampling of labels.
    pub label_resize: LabelResize,
}

impl Default for Augment {
    fn default() -> Augment {
        Augment {
            crop: [512, 512],
            base_size: None,
            scale: [0.5, 2.0],
            flip: 0.5,
            jitter: 0.8,
            brightness: 0.5,
            contrast: 0.5,
            saturation: 0.5,
            hue: 0.25,
            gray: 0.2,
            blur: 0.5,
            blur_sigma: [0.1, 2.0],
            // Released code: u ~ U(0, 4.95) truncated to an integer, even ones plus 1.
            blur_kernels: vec![1, 3, 5],
            blur_kernel_shares: vec![2.0, 2.0, 0.95],
            label_resize: LabelResize::Nearest,
        }
    }
}

/// Geometry of a crop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Rows and columns that the image is resized to.
    pub full: Size,
    /// The part of it that the crop shows, in its upper left corner; the rest of the crop is padding.
    pub window: Window,
    /// Whether the crop is then mirrored left to right, padding included.
    pub flip: bool,
}

/// Buffers that are reused from image to image.
#[derive(Default)]
pub(super) struct Workspace {
    rgb: Vec<u8>,
    labels: Vec<u8>,
}

impl Augment {
    /// Checks the ranges of all parameters.
    ///
    /// # Errors
    /// [`Error::Config`] names the key, its value and the allowed range.
    pub fn validate(&self) -> Result<()> {
        let fail = |key: &str, expected: &str, got: String| {
            Err(Error::config("augment", format!("{key}: expected {expected}, got {got}")))
        };
        if self.crop.contains(&0) {
            return fail("crop", "at least one row and column", format!("{:?}", self.crop));
        }
        if self.base_size == Some(0) {
            return fail("base_size", "a positive number of pixels", "0".to_owned());
        }
        for (key, [lo, hi]) in [("scale", self.scale), ("blur_sigma", self.blur_sigma)] {
            if !(lo > 0.0 && lo <= hi && hi.is_finite()) {
                return fail(key, "[least, largest] with 0 < least <= largest", format!("[{lo}, {hi}]"));
            }
        }
        let probabilities =
            [("flip", self.flip), ("jitter", self.jitter), ("gray", self.gray), ("blur", self.blur)];
        if let Some((key, p)) = probabilities.into_iter().find(|(_, p)| !(0.0..=1.0).contains(p)) {
            return fail(key, "a probability in [0, 1]", p.to_string());
        }
        let strengths =
            [("brightness", self.brightness), ("contrast", self.contrast), ("saturation", self.saturation)];
        if let Some((key, s)) = strengths.into_iter().find(|(_, s)| !(*s >= 0.0 && s.is_finite())) {
            return fail(key, "a number of at least 0", s.to_string());
        }
        if !(0.0..=0.5).contains(&self.hue) {
            return fail("hue", "a number in [0, 0.5]", self.hue.to_string());
        }
        let (kernels, shares) = (&self.blur_kernels, &self.blur_kernel_shares);
        if !kernels.iter().all(|k| (1..=MAX_BLUR_KERNEL).contains(k) && !k.is_multiple_of(2)) {
            let expected = format!("odd numbers from 1 to {MAX_BLUR_KERNEL}");
            return fail("blur_kernels", &expected, format!("{kernels:?}"));
        }
        let valid = shares.iter().all(|s| *s >= 0.0 && s.is_finite()) && shares.iter().sum::<f32>() > 0.0;
        if !valid || shares.len() != kernels.len() {
            let expected = format!("{} numbers of at least 0, not all 0, one for each kernel", kernels.len());
            return fail("blur_kernel_shares", &expected, format!("{shares:?}"));
        }
        Ok(())
    }

    /// Draws the geometry for an image of `size`. With a base size the long side is a uniform integer in
    /// [least, largest] times it and the aspect ratio is kept; without one both sides are scaled by a uniform
    /// factor.
    pub fn geometry(&self, (h, w): Size, rng: &mut Stream) -> Geometry {
        let [lo, hi] = self.scale;
        let cut = |v: f64| (v as usize).max(1);
        // As released: scaled sides are truncated to whole pixels, the short side computed from a long one is
        // rounded.
        let full = match self.base_size {
            Some(base) => {
                let [least, most] = [lo, hi].map(|scale| cut(base as f64 * f64::from(scale)));
                let long = least + rng.below(most - least + 1);
                let short = |short: usize, side: usize| cut(short as f64 * long as f64 / side as f64 + 0.5);
                if h > w { (long, short(w, h)) } else { (short(h, w), long) }
            }
            None => {
                let scale = f64::from(rng.range(lo, hi));
                (cut(h as f64 * scale), cut(w as f64 * scale))
            }
        };
        // Both draws are always made, so that later ones do not depend on the size of the image.
        let mut place = |full: usize, crop: usize| {
            let shown = full.min(crop);
            (rng.below(full - shown + 1), shown)
        };
        let (y, rows) = place(full.0, self.crop[0]);
        let (x, columns) = place(full.1, self.crop[1]);
        Geometry { full, window: Window { y, x, size: (rows, columns) }, flip: rng.chance(self.flip) }
    }

    /// Draws the colours of a strong view.
    pub fn strong(&self, rng: &mut Stream) -> Strong {
        let mut factor = |strength: f32| rng.range((1.0 - strength).max(0.0), 1.0 + strength);
        let mut jitter = vec![
            Adjust::Brightness(factor(self.brightness)),
            Adjust::Contrast(factor(self.contrast)),
            Adjust::Saturation(factor(self.saturation)),
            Adjust::Hue(rng.range(-self.hue, self.hue).clamp(-self.hue, self.hue)),
        ];
        rng.shuffle(&mut jitter);
        if !rng.chance(self.jitter) {
            jitter.clear();
        }
        let gray = rng.chance(self.gray);
        let sigma = rng.range(self.blur_sigma[0], self.blur_sigma[1]);
        let kernel = self.blur_kernel(rng.uniform());
        let blurred = rng.chance(self.blur) && kernel > 1;
        Strong { jitter, gray, blur: blurred.then_some(Blur { kernel, sigma }) }
    }

    /// The kernel for the uniform number `u` in [0, 1), in proportion to the shares.
    fn blur_kernel(&self, u: f32) -> usize {
        let mut left = u * self.blur_kernel_shares.iter().sum::<f32>();
        for (&kernel, share) in self.blur_kernels.iter().zip(&self.blur_kernel_shares) {
            if left < *share {
                return kernel;
            }
            left -= share;
        }
        // Reached by rounding only.
        self.blur_kernels.last().copied().unwrap_or(1)
    }

    /// The part of the crop that shows the image; the rest is padding.
    pub(super) fn shown(&self, geometry: &Geometry) -> Box2d {
        let (rows, columns) = geometry.window.size;
        let from = if geometry.flip { self.crop[1] - columns } else { 0 };
        [0, from, rows, from + columns]
    }

    /// Writes the crop's pixels to `out`, HWC; padding is 0.
    ///
    /// # Errors
    /// [`Error::Shape`] for an image without pixels.
    pub(super) fn write_image(
        &self,
        image: &RgbImage,
        geometry: &Geometry,
        work: &mut Workspace,
        out: &mut [u8],
    ) -> Result<()> {
        resize_bicubic_window(image, geometry.full, geometry.window, &mut work.rgb)?;
        out.fill(0);
        let [_, x0, _, x1] = self.shown(geometry);
        let rows =
            out.chunks_exact_mut(self.crop[1] * 3).zip(work.rgb.chunks_exact(geometry.window.size.1 * 3));
        for (out, rgb) in rows {
            let out = &mut out[x0 * 3..x1 * 3];
            if geometry.flip {
                out.chunks_exact_mut(3)
                    .rev()
                    .zip(rgb.chunks_exact(3))
                    .for_each(|(o, v)| o.copy_from_slice(v));
            } else {
                out.copy_from_slice(rgb);
            }
        }
        Ok(())
    }

    /// Writes the crop's labels to `out`, HW, resized by `label_resize`; padding is 255.
    ///
    /// # Errors
    /// [`Error::Shape`] for a mask without pixels.
    pub(super) fn write_labels(
        &self,
        mask: &Mask,
        geometry: &Geometry,
        work: &mut Workspace,
        out: &mut [u8],
    ) -> Result<()> {
        resize_labels_window(mask, geometry.full, geometry.window, self.label_resize, &mut work.labels)?;
        out.fill(IGNORE);
        let rows = out.chunks_exact_mut(self.crop[1]).zip(work.labels.chunks_exact(geometry.window.size.1));
        for (out, labels) in rows {
            if geometry.flip {
                out.iter_mut().rev().zip(labels).for_each(|(o, l)| *o = *l);
            } else {
                out.iter_mut().zip(labels).for_each(|(o, l)| *o = *l);
            }
        }
        Ok(())
    }
}
