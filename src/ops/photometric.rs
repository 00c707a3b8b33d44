//! Colours of images on the device: 8-bit pixels to network input, and the colour changes and blur of strong
//! augmentation with torchvision's definitions: specifications and validated entry points. Must not know
//! files; draws no random numbers.

use super::{Backend, Device, Shape};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The ops of this family that a device implements. It may assume what the functions of this module validate.
pub trait PhotometricOps: Device {
    /// As [`normalize_bytes`].
    fn normalize_bytes(&self, images: &Images<Self>, normalize: &Normalize) -> Self::Tensor;
    /// As [`photometric`].
    fn photometric(&self, pixels: Pixels<'_, Self>, strong: &[Strong], normalize: &Normalize)
    -> Self::Tensor;
}

/// Largest side of a blur's window in pixels: CUDA keeps a tile's rows and their halo in shared memory.
pub const MAX_BLUR_KERNEL: usize = 511;

/// Most rows and columns of an image, so that positions in a tile's halo fit in 32 bits.
const MAX_SIDE: usize = 1 << 30;

/// Affine normalisation of colours in [0, 1]: (value - mean) / std per channel. The default is ImageNet's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Normalize {
    /// Mean of red, green, blue.
    pub mean: [f32; 3],
    /// Standard deviation of red, green, blue.
    pub std: [f32; 3],
}

impl Default for Normalize {
    fn default() -> Normalize {
        Normalize { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
    }
}

impl Normalize {
    /// Mean 0 and deviation 1, which do not change colours.
    pub const IDENTITY: Normalize = Normalize { mean: [0.0; 3], std: [1.0; 3] };

    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] when a value is not finite or a deviation is not positive.
    pub fn validate(&self) -> Result<()> {
        let bad =
            self.mean.iter().any(|m| !m.is_finite()) || self.std.iter().any(|s| !(s.is_finite() && *s > 0.0));
        if bad {
            return Err(Error::config(
                "normalize",
                format!("expected finite means and positive deviations, got {self:?}"),
            ));
        }
        Ok(())
    }
}

/// One colour adjustment of torchvision with its factor. All but hue are clamped to [0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Adjust {
    /// `factor * image`.
    Brightness(f32),
    /// Blend with the mean grey of the image, padding included: `factor * image + (1 - factor) * mean`.
    Contrast(f32),
    /// Blend of each pixel with its own grey.
    Saturation(f32),
    /// Shifts the hue by a fraction of the circle in [-0.5, 0.5].
    Hue(f32),
}

impl Adjust {
    /// Name of torchvision's function, and factor.
    fn parts(self) -> (&'static str, f32) {
        match self {
            Adjust::Brightness(f) => ("adjust_brightness", f),
            Adjust::Contrast(f) => ("adjust_contrast", f),
            Adjust::Saturation(f) => ("adjust_saturation", f),
            Adjust::Hue(f) => ("adjust_hue", f),
        }
    }
}

/// A Gaussian blur with a square window, borders reflected without repeating the edge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blur {
    /// Side of the window in pixels, odd, at most [`MAX_BLUR_KERNEL`]; it may be larger than the image.
    pub kernel: usize,
    /// Standard deviation in pixels.
    pub sigma: f32,
}

impl Blur {
    /// Normalised samples of the Gaussian at the pixel centres of one axis; the same numbers on every device.
    pub fn taps(&self) -> Vec<f32> {
        let half = (self.kernel / 2) as f32;
        let pdf: Vec<f32> =
            (0..self.kernel).map(|i| (-0.5 * ((i as f32 - half) / self.sigma).powi(2)).exp()).collect();
        let total: f32 = pdf.iter().sum();
        pdf.into_iter().map(|v| v / total).collect()
    }
}

/// The views of an image that a network learns from; both have the same geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum View {
    /// Scaled, cropped and flipped.
    Weak,
    /// The same crop with its colours changed by a [`Strong`].
    Strong,
}

/// Changes to the colours of one image: adjustments, then grey, then blur. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strong {
    /// Colour adjustments in order of application, each kind at most once.
    pub jitter: Vec<Adjust>,
    /// Grey in all three channels (0.2989 red + 0.587 green + 0.114 blue).
    pub gray: bool,
    /// Blur after the other changes.
    pub blur: Option<Blur>,
}

impl Strong {
    /// Checks the ranges of all factors.
    ///
    /// # Errors
    /// [`Error::Shape`] naming torchvision's function for a factor, kernel or sigma out of range or an
    /// adjustment made twice.
    pub fn validate(&self) -> Result<()> {
        for (i, adjust) in self.jitter.iter().enumerate() {
            let (op, factor) = adjust.parts();
            let (ok, expected) = match adjust {
                Adjust::Hue(_) => ((-0.5..=0.5).contains(&factor), "a factor in [-0.5, 0.5]"),
                _ => (factor >= 0.0 && factor.is_finite(), "a finite factor of at least 0"),
            };
            if !ok {
                return Err(Error::shape(op, expected, factor.to_string()));
            }
            if self.jitter[..i].iter().any(|other| other.parts().0 == op) {
                return Err(Error::shape(op, "each adjustment once", format!("{:?}", self.jitter)));
            }
        }
        match self.blur {
            Some(Blur { kernel, sigma })
                if kernel.is_multiple_of(2)
                    || kernel > MAX_BLUR_KERNEL
                    || !(sigma > 0.0 && sigma.is_finite()) =>
            {
                let expected =
                    format!("an odd kernel of at most {MAX_BLUR_KERNEL} and a finite positive sigma");
                Err(Error::shape("gaussian_blur", expected, format!("kernel {kernel}, sigma {sigma}")))
            }
            _ => Ok(()),
        }
    }
}

/// A rectangle of pixels: first row and column, and those after the last.
pub type Box2d = [usize; 4];

/// 8-bit RGB images on the device, of which a part may be padding. Made by [`upload_images`].
pub struct Images<B: Device> {
    /// `[n, h, w, 3]`.
    pub bytes: B::Labels,
    /// The part of each image that is not padding. Pixels outside have the mean colour of the normalisation,
    /// whatever their bytes.
    pub shown: Vec<Box2d>,
}

/// Source of the colours that [`photometric`] changes.
pub enum Pixels<'a, B: Device> {
    /// 8-bit images, where 255 is 1, with padding.
    Bytes(&'a Images<B>),
    /// Colours in [0, 1] as an activation `[n, h, w, 3]`.
    Colors(&'a B::Tensor),
}

impl<B: Device> Pixels<'_, B> {
    /// Shape `[n, h, w, 3]` of the images.
    pub fn shape(&self) -> Shape {
        match self {
            Pixels::Bytes(images) => B::labels_shape(&images.bytes),
            Pixels::Colors(x) => B::shape(x),
        }
    }
}

fn check_shape(op: &'static str, shape: Shape) -> Result<()> {
    if shape.c != 3 || shape.is_empty() || shape.h.max(shape.w) > MAX_SIDE {
        let expected = format!("RGB images of 1 to {MAX_SIDE} rows and columns");
        return Err(Error::shape(op, expected, shape.to_string()));
    }
    Ok(())
}

/// Copies 8-bit RGB images `[n, h, w, 3]` to the device; image i is padding outside `shown[i]`.
///
/// # Errors
/// [`Error::Shape`] where there is no pixel, or bytes or boxes do not fit the shape.
pub fn upload_images<B: Backend>(b: &B, shape: Shape, bytes: &[u8], shown: Vec<Box2d>) -> Result<Images<B>> {
    const OP: &str = "upload_images";
    check_shape(OP, shape)?;
    if bytes.len() != shape.len() || shown.len() != shape.n {
        let got = format!("{} bytes, {} boxes", bytes.len(), shown.len());
        return Err(Error::shape(OP, format!("{} bytes and {} boxes", shape.len(), shape.n), got));
    }
    let outside = |&&[y0, x0, y1, x1]: &&Box2d| y0 > y1 || x0 > x1 || y1 > shape.h || x1 > shape.w;
    if let Some(bad) = shown.iter().find(outside) {
        return Err(Error::shape(OP, format!("boxes within {} by {}", shape.h, shape.w), format!("{bad:?}")));
    }
    Ok(Images { bytes: b.upload_labels(shape, bytes), shown })
}

/// (byte / 255 - mean) / std of 8-bit images, `[n, h, w, 3]`; padding is 0.
///
/// # Errors
/// As [`Normalize::validate`].
pub fn normalize_bytes<B: Backend>(b: &B, images: &Images<B>, normalize: &Normalize) -> Result<B::Tensor> {
    normalize.validate()?;
    Ok(b.normalize_bytes(images, normalize))
}

/// Image i with the changes `strong[i]`, then normalised: `[n, h, w, 3]`. Padding has the mean colour before
/// the changes.
///
/// # Errors
/// [`Error::Shape`] where there is no pixel, not three channels or not one `strong` per image, and those of
/// [`Strong::validate`] and [`Normalize::validate`].
pub fn photometric<B: Backend>(
    b: &B,
    pixels: Pixels<'_, B>,
    strong: &[Strong],
    normalize: &Normalize,
) -> Result<B::Tensor> {
    const OP: &str = "photometric";
    let shape = pixels.shape();
    check_shape(OP, shape)?;
    if strong.len() != shape.n {
        let expected = format!("changes for {} images", shape.n);
        return Err(Error::shape(OP, expected, format!("for {}", strong.len())));
    }
    strong.iter().try_for_each(Strong::validate)?;
    normalize.validate()?;
    Ok(b.photometric(pixels, strong, normalize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_are_symmetric_and_sum_to_one() {
        for (kernel, sigma) in [(1, 1.0), (3, 0.1), (7, 1.5), (MAX_BLUR_KERNEL, 60.0)] {
            let taps = Blur { kernel, sigma }.taps();
            assert_eq!(taps.len(), kernel);
            assert!((taps.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{kernel}");
            assert!(taps.iter().eq(taps.iter().rev()), "{kernel}");
        }
        assert!(Blur { kernel: 3, sigma: 1e-30 }.taps().iter().eq(&[0.0, 1.0, 0.0]));
    }
}
