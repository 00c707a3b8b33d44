//! Fixtures of what the host computes whatever the device: resizing of images, and the schedules.

use super::{FixtureOp, Run, SizeAttrs};
use crate::check::fixture::{Array, Values};
use psmt_fast::data::{RgbImage, resize};
use psmt_fast::method::schedule::{RampUp, poly_lr};
use psmt_fast::ops::Backend;
use psmt_fast::{Error, Result};
use serde::Deserialize;

pub(super) fn fixtures<B: Backend>() -> [FixtureOp<B>; 2] {
    [("schedule", schedule), ("resize_bicubic", resize_bicubic)]
}

fn resize_bicubic<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScheduleAttrs {
    base_lr: f64,
    total: u32,
    rampup_length: f64,
}

/// Longest schedule that is written out.
const MAX_STEPS: u32 = 1 << 22;

fn schedule<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let ScheduleAttrs { base_lr, total, rampup_length } = run.attrs()?;
    if total > MAX_STEPS {
        return Err(run.fixture.bad_attrs(format!("total: expected at most {MAX_STEPS}, found {total}")));
    }
    let table = |f: &dyn Fn(u32) -> f64| -> Vec<f32> { (0..total).map(|step| f(step) as f32).collect() };
    run.put_vector("poly", &table(&|s| poly_lr(base_lr, u64::from(s), u64::from(total))));
    for (name, ramp) in [
        ("cosine", RampUp::Cosine),
        ("sigmoid", RampUp::Sigmoid),
        ("linear", RampUp::Linear),
        ("log", RampUp::Log),
        ("exp", RampUp::Exp),
    ] {
        run.put_vector(name, &table(&|s| ramp.at(f64::from(s), rampup_length)));
    }
    Ok(())
}
