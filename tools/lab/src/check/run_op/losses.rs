//! Fixtures of losses, pseudo labels, CutMix and the confusion matrix.

use super::{Run, mix};
use crate::check::fixture::{Array, Values};
use psmt_fast::ops::{self, Backend, ConfCe, Ensemble, Ohem, Shape, Size};
use psmt_fast::{Error, Result};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CrossEntropyAttrs {
    size: [usize; 2],
    ignore_index: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OhemAttrs {
    size: [usize; 2],
    ignore_index: i64,
    threshold: f64,
    min_kept: usize,
}

/// Logits and labels of the size that the settings give.
fn supervised<B: Backend>(
    run: &Run<'_, B>,
    size: [usize; 2],
    ignore_index: i64,
) -> Result<(B::Tensor, B::Labels)> {
    let logits = run.tensor("logits")?;
    let shape = B::shape(&logits);
    let target = run.labels("target", shape.c, Some(ignore_index))?;
    let (h, w) = run.size(shape.n, size)?;
    let (expected, got) = (Shape::new(shape.n, h, w, 1), B::labels_shape(&target));
    if got != expected {
        return Err(run.fixture.bad_input("target", format!("expected shape {expected}, found {got}")));
    }
    Ok((logits, target))
}

pub(super) fn cross_entropy<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let CrossEntropyAttrs { size, ignore_index } = run.attrs()?;
    let (logits, target) = supervised(run, size, ignore_index)?;
    let out = ops::cross_entropy(run.b, &logits, &target, 1.0)?;
    run.put_scalar("loss", run.b.read_scalar(&out.loss));
    run.put_tensor("dlogits", &out.dlogits);
    Ok(())
}

pub(super) fn ohem_cross_entropy<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let OhemAttrs { size, ignore_index, threshold, min_kept } = run.attrs()?;
    let (logits, target) = supervised(run, size, ignore_index)?;
    let out = ops::ohem_cross_entropy(run.b, &logits, &target, &Ohem { threshold, min_kept }, 1.0)?;
    run.put_scalar("loss", run.b.read_scalar(&out.loss));
    run.put_tensor("dlogits", &out.dlogits);
    Ok(())
}

/// Settings of `ensemble_pseudo_label`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::check) struct EnsembleAttrs {
    pub size: [usize; 2],
    pub topk: usize,
    pub gamma: f64,
}

pub(super) fn ensemble_pseudo_label<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let EnsembleAttrs { size, topk, gamma } = run.attrs()?;
    let (core, assist) = (run.tensor("core")?, run.tensor("assist")?);
    let size = run.size(B::shape(&core).n, size)?;
    let pseudo = ops::ensemble_pseudo_label(
        run.b,
        &ops::TeacherLogits { core: &core, assist: &assist, ensemble: &Ensemble { topk, gamma } },
        size,
    )?;
    let shape = B::labels_shape(&pseudo.label);
    let label = run.b.download_labels(&pseudo.label).into_iter().map(i32::from).collect();
    let shape = vec![shape.n, shape.h, shape.w];
    run.put("label", Array { shape: shape.clone(), values: Values::I32(label) });
    run.put("confidence", Array::f32(shape, run.b.download(&pseudo.confidence)));
    Ok(())
}

/// Settings of `conf_ce`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::check) struct ConfCeAttrs {
    pub size: [usize; 2],
    pub topk: usize,
    pub gamma: f64,
    pub threshold: f64,
    pub negative_threshold: f64,
}

pub(super) fn conf_ce<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let ConfCeAttrs { size, topk, gamma, threshold, negative_threshold } = run.attrs()?;
    let (student, core, assist) = (run.tensor("student")?, run.tensor("core")?, run.tensor("assist")?);
    let n = B::shape(&core).n;
    let size: Size = run.size(n, size)?;
    let mix = mix(run.fixture, n, size)?;
    let ensemble = Ensemble { topk, gamma };
    let spec = ConfCe { threshold, negative_threshold, square_weight: 0.0, weighted: true };
    let pseudo = ops::ensemble_pseudo_label(
        run.b,
        &ops::TeacherLogits { core: &core, assist: &assist, ensemble: &ensemble },
        size,
    )?;
    let out = ops::conf_ce(
        run.b,
        &ops::ConfCeArgs {
            student: &student,
            pseudo: &pseudo,
            teachers: ops::TeacherLogits { core: &core, assist: &assist, ensemble: &ensemble },
            mix: &mix,
            spec: &spec,
            grad_scale: 1.0,
        },
    )?;
    run.put_scalar("positive", run.b.read_scalar(&out.positive));
    run.put_scalar("negative", run.b.read_scalar(&out.negative));
    let histogram = run.b.read_counts(&out.histogram);
    run.put_counts("histogram", vec![histogram.len()], &histogram);
    run.put_tensor("dstudent", &out.dstudent);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoAttrs {}

pub(super) fn cut_mix<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let NoAttrs {} = run.attrs()?;
    let x = run.tensor("x")?;
    let shape = B::shape(&x);
    let mix = mix(run.fixture, shape.n, (shape.h, shape.w))?;
    let y = ops::cut_mix(run.b, &x, &mix)?;
    run.put_tensor("y", &y);
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfusionAttrs {
    num_classes: usize,
    ignore_index: i64,
}

pub(super) fn confusion_matrix<B: Backend>(run: &mut Run<'_, B>) -> Result<()> {
    let ConfusionAttrs { num_classes: k, ignore_index } = run.attrs()?;
    if k == 0 {
        return Err(Error::shape("confusion_matrix", "1 to 255 classes", "0"));
    }
    let (pred, target) = (run.labels("pred", k, None)?, run.labels("target", k, Some(ignore_index))?);
    let counts = ops::confusion_matrix(run.b, &pred, &target, k, None)?;
    let counts = run.b.read_counts(&counts);
    let iou: Vec<f64> = (0..k)
        .map(|class| {
            let row: u64 = counts[class * k..(class + 1) * k].iter().sum();
            let column: u64 = (0..k).map(|i| counts[i * k + class]).sum();
            let hit = counts[class * k + class];
            hit as f64 / (row + column - hit).max(1) as f64
        })
        .collect();
    run.put_counts("matrix", vec![k, k], &counts);
    run.put_vector("iou", &iou.iter().map(|&v| v as f32).collect::<Vec<_>>());
    // As the reference: a class that occurs nowhere counts with 0.
    run.put_scalar("miou", iou.iter().sum::<f64>() / k as f64);
    Ok(())
}
