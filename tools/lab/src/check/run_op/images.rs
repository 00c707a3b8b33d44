//! Fixtures of image transforms: colours and blur on the device, resizing on the host whatever the device.

use super::Run;
use crate::check::fixture::{Array, Values, swap_inner};
use psmt_fast::data::RgbImage;
use psmt_fast::data::resize;
use psmt_fast::ops::{self, Adjust, Backend, Blur, Normalize, Pixels, Shape, Strong};
use psmt_fast::{Error, Result};
use serde::Deserialize;

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoAttrs {}

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SizeAttrs {
    size: [usize; 2],
}

pub(super) fn resize_bicubic<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let SizeAttrs { size } = run.attrs()?;
    let (h, w) = run.size(1, size)?;
    let ([rows, columns, channels], values) = run.fixture.u8("image")?;
    if channels != 3 || values.is_empty() {
        return Err(Error::shape(
            "resize_bicubic",
            "an image [h, w, 3]",
            format!("[{rows}, {columns}, {channels}]"),
        ));
    }
    let image = RgbImage { size: (rows, columns), data: values.to_vec() };
    let resized = resize::resize_bicubic(&image, (h, w))?;
    run.put("image", Array { shape: vec![h, w, 3], values: Values::U8(resized.data) });
    Ok(())
}
