//! 8-bit images to network input, and the colour changes and blur of strong augmentation.

use crate::bench::Trace;
use crate::bench::case::{Case, Draw, Facts, Work, dims, result};
use crate::check::fixture::{Array, swap_inner};
use crate::check::run_op::{NoAttrs, Run};
use psmt_fast::Result;
use psmt_fast::ops::{self, Adjust, Backend, Blur, Images, Normalize, PhotometricOps, Pixels, Shape, Strong};
use serde::Deserialize;

impl PhotometricOps for Trace {
    fn normalize_bytes(&self, images: &Images<Trace>, _: &Normalize) -> Shape {
        self.note(NormalizeBytes { x: images.bytes });
        images.bytes
    }
    fn photometric(&self, pixels: Pixels<'_, Trace>, strong: &[Strong], _: &Normalize) -> Shape {
        self.note(Photometric { x: pixels.shape(), strong: strong.to_vec() });
        pixels.shape()
    }
}

/// Drawn images, an eighth of each side padding.
fn images<B: Backend>(draw: &mut Draw<'_, B>, x: Shape) -> Images<B> {
    Images { bytes: draw.bytes(x), shown: vec![[0, 0, x.h - x.h / 8, x.w - x.w / 8]; x.n] }
}

/// Bytes to network input.
#[derive(Clone, Debug, PartialEq)]
pub struct NormalizeBytes {
    pub x: Shape,
}

impl Case for NormalizeBytes {
    /// One byte per colour; the activation.
    fn facts(&self) -> Facts {
        Facts::new("normalize_bytes", dims(&self.x)).values(self.x.len()).bytes(self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let images = images(draw, self.x);
        result("y", move |b| ops::normalize_bytes(b, &images, &Normalize::default()))
    }
}

/// Colour changes, one [`Strong`] per image.
#[derive(Clone, Debug, PartialEq)]
pub struct Photometric {
    pub x: Shape,
    pub strong: Vec<Strong>,
}

impl Case for Photometric {
    /// The bytes for the mean grey, which contrast needs first, and again for the result.
    fn facts(&self) -> Facts {
        let blurs = self.strong.iter().filter_map(|strong| strong.blur);
        let widest = blurs.map(|blur| blur.kernel).max().unwrap_or(0);
        let sizes = format!("{} blur {widest}", dims(&self.x));
        Facts::new("photometric", sizes).values(self.x.len()).bytes(2 * self.x.len())
    }

    fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
        let (images, strong) = (images(draw, self.x), self.strong.clone());
        result("y", move |b| ops::photometric(b, Pixels::Bytes(&images), &strong, &Normalize::default()))
    }
}

/// Changes the float image `[3, h, w]`.
fn transform<B: Backend>(run: &mut Run<'_, B>, strong: Strong) -> Result<()> {
    let ([channels, h, w], values) = run.fixture.f32("image")?;
    if channels != 3 || h * w == 0 {
        let found = format!("[{channels}, {h}, {w}]");
        return Err(run.fixture.bad_input("image", format!("expected shape [3, h, w], found {found}")));
    }
    let x = run.b.upload(Shape::new(1, h, w, 3), &swap_inner(values, 1, 3, h * w));
    let y = ops::photometric(run.b, Pixels::Colors(&x), &[strong], &Normalize::IDENTITY)?;
    run.put("image", Array::f32([3, h, w], swap_inner(&run.b.download(&y), 1, h * w, 3)));
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FactorAttrs {
    factor: f32,
}

pub(super) fn adjust<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let FactorAttrs { factor } = run.attrs()?;
    let adjust = match run.fixture.op.as_str() {
        "adjust_brightness" => Adjust::Brightness(factor),
        "adjust_contrast" => Adjust::Contrast(factor),
        "adjust_saturation" => Adjust::Saturation(factor),
        _ => Adjust::Hue(factor),
    };
    transform(run, Strong { jitter: vec![adjust], ..Strong::default() })
}

pub(super) fn grayscale<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let NoAttrs {} = run.attrs()?;
    transform(run, Strong { gray: true, ..Strong::default() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BlurAttrs {
    kernel: usize,
    sigma: f32,
}

pub(super) fn gaussian_blur<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let BlurAttrs { kernel, sigma } = run.attrs()?;
    transform(run, Strong { blur: Some(Blur { kernel, sigma }), ..Strong::default() })
}
