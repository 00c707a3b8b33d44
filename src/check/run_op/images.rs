//! Fixtures of image transforms, which run on the host whatever the device.

use super::Run;
use crate::check::fixture::{Array, Values, swap_inner};
use crate::data::decode::RgbImage;
use crate::data::{photometric, resize};
use crate::ops::{Backend, Size};
use crate::{Error, Result};
use serde::Deserialize;

/// Applies `f` to the float image `[3, h, w]`, interleaved for it.
fn transform<B: Backend>(run: &mut Run<'_, B>, f: impl FnOnce(&mut [f32], Size) -> Result<()>) -> Result<()> {
    let ([channels, h, w], values) = run.fixture.f32("image")?;
    if channels != 3 || h * w == 0 {
        let found = format!("[{channels}, {h}, {w}]");
        return Err(run.fixture.bad_input("image", format!("expected shape [3, h, w], found {found}")));
    }
    let mut image = swap_inner(values, 1, 3, h * w);
    f(&mut image, (h, w))?;
    run.put("image", Array::f32([3, h, w], swap_inner(&image, 1, h * w, 3)));
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
        "adjust_brightness" => photometric::adjust_brightness,
        "adjust_contrast" => photometric::adjust_contrast,
        "adjust_saturation" => photometric::adjust_saturation,
        _ => photometric::adjust_hue,
    };
    transform(run, |image, size| adjust(image, size, factor))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoAttrs {}

pub(super) fn grayscale<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let NoAttrs {} = run.attrs()?;
    transform(run, photometric::grayscale)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BlurAttrs {
    kernel: usize,
    sigma: f32,
}

/// Largest blur window, in pixels a side.
const MAX_KERNEL: usize = 1 << 12;

pub(super) fn gaussian_blur<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let BlurAttrs { kernel, sigma } = run.attrs()?;
    if kernel > MAX_KERNEL {
        return Err(run.fixture.bad_attrs(format!("kernel: expected at most {MAX_KERNEL}, found {kernel}")));
    }
    transform(run, |image, size| photometric::gaussian_blur(image, size, kernel, sigma))
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
