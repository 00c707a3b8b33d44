//! One op with its sizes and settings as plain data: what a trace notes and what is timed. Knows what an op has to move and
//! compute, not how a device does it.

use psmt_fast::ops::*;

/// A call of the op of the same name. Parameters are where they begin in a vector of the op's own, so that calls of equal
/// sizes are equal.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // variants and fields are the ops' arguments
pub enum Call {
    Fprop { conv: Conv2d, x: Shape },
    Dgrad { conv: Conv2d, x: Shape },
    DgradAdd { conv: Conv2d, x: Shape },
    DgradSums { conv: Conv2d, bn: BatchNorm, x: Shape, act: Activation, residual: bool, add: bool },
    FpropNorm { conv: Conv2d, bn: BatchNorm, x: Shape, act: Activation, residual: bool },
    FpropTangent { conv: Conv2d, bn: BatchNorm, x: Shape, act: Activation },
    DgradTangent { conv: Conv2d, bn: BatchNorm, x: Shape, act: Activation },
    Wgrad { conv: Conv2d, x: Shape },
    BatchNormTrain { bn: BatchNorm, x: Shape, act: Activation, residual: bool },
    BatchNormTrainMoments { bn: BatchNorm, x: Shape, act: Activation, residual: bool },
    BatchNormEval { bn: BatchNorm, x: Shape, act: Activation, residual: bool },
    BatchNormTrainBwd { bn: BatchNorm, x: Shape, act: Activation, residual: bool },
    BatchNormTrainBwdSums { bn: BatchNorm, x: Shape, act: Activation, residual: bool },
    BatchNormEvalBwd { bn: BatchNorm, x: Shape, act: Activation },
    BatchNormTangent { bn: BatchNorm, x: Shape, act: Activation },
    LeakyRelu { x: Shape },
    LeakyReluBwd { x: Shape },
    MaxPool2d { x: Shape, pool: MaxPool2d },
    MaxPool2dBwd { x: Shape, pool: MaxPool2d },
    AdaptiveAvgPool2d { x: Shape, size: Size },
    AdaptiveAvgPool2dBwd { dy: Shape, size: Size },
    Interpolate { x: Shape, size: Size },
    InterpolateBwd { dy: Shape, size: Size },
    Concat { parts: Vec<Shape> },
    SliceChannels { x: Shape, offset: usize, len: usize },
    Add { x: Shape, y: Shape },
    SumPositions { x: Shape },
    CrossEntropy { logits: Shape, size: Size },
    OhemCrossEntropy { logits: Shape, size: Size, ohem: Ohem },
    EnsemblePseudoLabel { logits: Shape, size: Size, ensemble: Ensemble },
    ConfCe { logits: Shape, size: Size, ensemble: Ensemble, mix: Mix, conf_ce: ConfCe },
    MseConsistency { logits: Shape, size: Size, ensemble: Ensemble, mix: Mix },
    CutMix { x: Shape, mix: Mix },
    ConfusionMatrix { x: Shape, classes: usize, above: Option<f64> },
    UniformNoise { x: Shape },
    Normalize { x: Shape },
    AddNormalized { x: Shape },
    NormalizeBytes { x: Shape },
    Photometric { x: Shape, strong: Vec<Strong> },
    TvatCotangent { logits: Shape, decoders: usize, size: Size },
    KlGradient { logits: Shape, decoders: usize, size: Size },
    Sgd { len: usize, sgd: Sgd },
    SgdEma { len: usize, stats: usize, sgd: Sgd },
    CopySpans { to: usize, from: usize, moves: Vec<(Span, usize)> },
    Clear { len: usize },
    WatchTensor { x: Shape },
    WatchVector { len: usize },
}

/// Bytes of a parameter, gradient, momentum or confidence.
const WIDE: u64 = 4;

impl Call {
    /// The op's name.
    pub fn name(&self) -> &'static str {
        match self {
            Call::Fprop { .. } => "conv2d_fprop",
            Call::Dgrad { .. } => "conv2d_dgrad",
            Call::DgradAdd { .. } => "conv2d_dgrad_add",
            Call::DgradSums { .. } => "conv2d_dgrad_sums",
            Call::FpropNorm { .. } => "conv2d_fprop_norm",
            Call::FpropTangent { .. } => "conv2d_fprop_tangent",
            Call::DgradTangent { .. } => "conv2d_dgrad_tangent",
            Call::Wgrad { .. } => "conv2d_wgrad",
            Call::BatchNormTrain { .. } => "batch_norm_train",
            Call::BatchNormTrainMoments { .. } => "batch_norm_train_moments",
            Call::BatchNormEval { .. } => "batch_norm_eval",
            Call::BatchNormTrainBwd { .. } => "batch_norm_train_bwd",
            Call::BatchNormTrainBwdSums { .. } => "batch_norm_train_bwd_sums",
            Call::BatchNormEvalBwd { .. } => "batch_norm_eval_bwd",
            Call::BatchNormTangent { .. } => "batch_norm_tangent",
            Call::LeakyRelu { .. } => "leaky_relu",
            Call::LeakyReluBwd { .. } => "leaky_relu_bwd",
            Call::MaxPool2d { .. } => "max_pool2d",
            Call::MaxPool2dBwd { .. } => "max_pool2d_bwd",
            Call::AdaptiveAvgPool2d { .. } => "adaptive_avg_pool2d",
            Call::AdaptiveAvgPool2dBwd { .. } => "adaptive_avg_pool2d_bwd",
            Call::Interpolate { .. } => "interpolate",
            Call::InterpolateBwd { .. } => "interpolate_bwd",
            Call::Concat { .. } => "concat",
            Call::SliceChannels { .. } => "slice_channels",
            Call::Add { .. } => "add",
            Call::SumPositions { .. } => "sum_positions",
            Call::CrossEntropy { .. } => "cross_entropy",
            Call::OhemCrossEntropy { .. } => "ohem_cross_entropy",
            Call::EnsemblePseudoLabel { .. } => "ensemble_pseudo_label",
            Call::ConfCe { .. } => "conf_ce",
            Call::MseConsistency { .. } => "mse_consistency",
            Call::CutMix { .. } => "cut_mix",
            Call::ConfusionMatrix { .. } => "confusion_matrix",
            Call::UniformNoise { .. } => "uniform_noise",
            Call::Normalize { .. } => "normalize",
            Call::AddNormalized { .. } => "add_normalized",
            Call::NormalizeBytes { .. } => "normalize_bytes",
            Call::Photometric { .. } => "photometric",
            Call::TvatCotangent { .. } => "tvat_cotangent",
            Call::KlGradient { .. } => "kl_gradient",
            Call::Sgd { .. } => "sgd",
            Call::SgdEma { .. } => "sgd_ema",
            Call::CopySpans { .. } => "copy_spans",
            Call::Clear { .. } => "clear",
            Call::WatchTensor { .. } => "watch_tensor",
            Call::WatchVector { .. } => "watch_vector",
        }
    }

    /// Sizes and settings in a few words.
    pub fn sizes(&self) -> String {
        let norm = |x: &Shape, act: &Activation, residual: bool| {
            let act = match act {
                Activation::Identity => "",
                Activation::LeakyRelu(0.0) => " relu",
                Activation::LeakyRelu(_) => " leaky",
            };
            format!("{}{act}{}", dims(x), if residual { " residual" } else { "" })
        };
        let to = |x: &Shape, size: &Size| format!("{} to {}x{}", dims(x), size.0, size.1);
        match self {
            Call::Fprop { conv, x }
            | Call::Dgrad { conv, x }
            | Call::DgradAdd { conv, x }
            | Call::FpropTangent { conv, x, .. }
            | Call::DgradTangent { conv, x, .. }
            | Call::Wgrad { conv, x } => conv_text(conv, *x),
            Call::FpropNorm { conv, x, residual, .. } => {
                format!("{}{}", conv_text(conv, *x), if *residual { " residual" } else { "" })
            }
            Call::DgradSums { conv, x, residual, add, .. } => {
                let (add, residual) =
                    (if *add { " add" } else { "" }, if *residual { " residual" } else { "" });
                format!("{}{add}{residual}", conv_text(conv, *x))
            }
            Call::BatchNormTrain { x, act, residual, .. }
            | Call::BatchNormTrainMoments { x, act, residual, .. }
            | Call::BatchNormEval { x, act, residual, .. }
            | Call::BatchNormTrainBwd { x, act, residual, .. }
            | Call::BatchNormTrainBwdSums { x, act, residual, .. } => norm(x, act, *residual),
            Call::BatchNormEvalBwd { x, act, .. } | Call::BatchNormTangent { x, act, .. } => {
                norm(x, act, false)
            }
            Call::LeakyRelu { x }
            | Call::LeakyReluBwd { x }
            | Call::SumPositions { x }
            | Call::UniformNoise { x }
            | Call::Normalize { x }
            | Call::AddNormalized { x }
            | Call::NormalizeBytes { x }
            | Call::WatchTensor { x } => dims(x),
            Call::Photometric { x, strong } => {
                let blur = strong.iter().filter_map(|s| s.blur).map(|b| b.kernel).max().unwrap_or(0);
                format!("{} blur {blur}", dims(x))
            }
            Call::MaxPool2d { x, pool } | Call::MaxPool2dBwd { x, pool } => {
                format!("{} window {} stride {}", dims(x), pool.kernel, pool.stride)
            }
            Call::AdaptiveAvgPool2d { x, size } | Call::Interpolate { x, size } => to(x, size),
            Call::AdaptiveAvgPool2dBwd { dy, size } | Call::InterpolateBwd { dy, size } => to(dy, size),
            Call::Concat { parts } => parts.iter().map(dims).collect::<Vec<_>>().join(" + "),
            Call::SliceChannels { x, offset, len } => format!("{} from {offset}, {len}", dims(x)),
            Call::Add { x, y } if x == y => dims(x),
            Call::Add { x, y } => format!("{} + {}", dims(x), dims(y)),
            Call::CrossEntropy { logits, size }
            | Call::OhemCrossEntropy { logits, size, .. }
            | Call::EnsemblePseudoLabel { logits, size, .. }
            | Call::MseConsistency { logits, size, .. } => to(logits, size),
            Call::ConfCe { logits, size, conf_ce, .. } => {
                let negative = if conf_ce.negative_threshold > 0.0 { " negative learning" } else { "" };
                format!("{}{negative}", to(logits, size))
            }
            Call::CutMix { x, mix } => format!("{} boxes {}", dims(x), mix.boxes.len()),
            Call::ConfusionMatrix { x, classes, above } => {
                let above = above.map_or_else(String::new, |t| format!(" above {t}"));
                format!("{} classes {classes}{above}", dims(x))
            }
            Call::TvatCotangent { logits, decoders, size } | Call::KlGradient { logits, decoders, size } => {
                format!("{} of {decoders}", to(logits, size))
            }
            Call::Sgd { len, .. }
            | Call::SgdEma { len, .. }
            | Call::Clear { len }
            | Call::WatchVector { len } => len.to_string(),
            Call::CopySpans { moves, .. } => {
                format!("{} in {} spans", moves.iter().map(|m| m.0.len).sum::<usize>(), moves.len())
            }
        }
    }

    /// Multiply-adds times two of a convolution.
    pub fn flops(&self) -> Option<u64> {
        match self {
            Call::Fprop { conv, x }
            | Call::Dgrad { conv, x }
            | Call::DgradAdd { conv, x }
            | Call::DgradSums { conv, x, .. }
            | Call::FpropNorm { conv, x, .. }
            | Call::FpropTangent { conv, x, .. }
            | Call::DgradTangent { conv, x, .. }
            | Call::Wgrad { conv, x } => Some(conv.flops(*x)),
            _ => None,
        }
    }

    /// Bytes that the op must move at least, of `value` bytes an activation: every input is read once and every result
    /// written once, and what is updated is both. Where nothing can be written before all was seen, and activations are
    /// larger than caches, the input counts twice. What a device moves beside that (partial sums, indices of maxima) is its
    /// own affair, so a share of the copy's rate below one may be either traffic or waiting.
    pub fn least_bytes(&self, value: usize) -> u64 {
        let v = value as u64;
        let many = |x: &Shape, copies: u64| copies * x.len() as u64 * v;
        let pixels = |n: usize, size: &Size, bytes: u64| (n * size.0 * size.1) as u64 * bytes;
        let flat = |len: usize, copies: u64| copies * len as u64 * WIDE;
        // The activation's mask is read from the output.
        let mask = |act: &Activation| u64::from(*act != Activation::Identity);
        // A 16-bit device keeps a copy of the parameters for its convolutions and writes it with them.
        let half = |len: usize| if v == 2 { 2 * len as u64 } else { 0 };
        match self {
            // x, y, and the weights in the activations' type.
            Call::Fprop { conv, x } | Call::Dgrad { conv, x } => {
                many(x, 1) + many(&conv.out_shape(*x), 1) + conv.weight_len() as u64 * v
            }
            // What is added.
            Call::DgradAdd { conv, x } => {
                many(x, 2) + many(&conv.out_shape(*x), 1) + conv.weight_len() as u64 * v
            }
            // What is added; the batch norm's input, and its output where that says where the activation bent.
            Call::DgradSums { conv, x, act, residual, add, .. } => {
                let mask = if *residual { mask(act) } else { 0 };
                let copies = 2 + mask + u64::from(*add);
                many(x, copies) + many(&conv.out_shape(*x), 1) + conv.weight_len() as u64 * v
            }
            // The residual; or the batch norm's output, which says where the activation bent.
            Call::FpropNorm { conv, x, residual, .. } => {
                let y = conv.out_shape(*x);
                many(x, 1) + many(&y, 1 + u64::from(*residual)) + conv.weight_len() as u64 * v
            }
            Call::FpropTangent { conv, x, act, .. } => {
                many(x, 1) + many(&conv.out_shape(*x), 1 + mask(act)) + conv.weight_len() as u64 * v
            }
            Call::DgradTangent { conv, x, act, .. } => {
                many(x, 1 + mask(act)) + many(&conv.out_shape(*x), 1) + conv.weight_len() as u64 * v
            }
            // x and dy; gradients are read and written.
            Call::Wgrad { conv, x } => many(x, 1) + many(&conv.out_shape(*x), 1) + flat(conv.weight_len(), 2),
            // x for the moments and again for y; the residual; y.
            Call::BatchNormTrain { x, residual, .. } => many(x, 3 + u64::from(*residual)),
            // The moments are there: x for y; the residual; y.
            Call::BatchNormTrainMoments { x, residual, .. } | Call::BatchNormEval { x, residual, .. } => {
                many(x, 2 + u64::from(*residual))
            }
            // dy and x for the sums and again for dx, which say where the activation bent unless a residual did too, when y
            // must; dx and the residual's gradient.
            Call::BatchNormTrainBwd { x, act, residual, .. } => {
                let mask = if *residual { mask(act) } else { 0 };
                many(x, 2 * (2 + mask) + 1 + u64::from(*residual))
            }
            // The sums are there.
            Call::BatchNormTrainBwdSums { x, act, residual, .. } => {
                let mask = if *residual { mask(act) } else { 0 };
                many(x, 2 + mask + 1 + u64::from(*residual))
            }
            // dy, x; dx.
            Call::BatchNormEvalBwd { x, .. } => many(x, 3),
            Call::BatchNormTangent { x, act, .. } => many(x, 2 + mask(act)),
            Call::LeakyRelu { x } => many(x, 2),
            Call::LeakyReluBwd { x } => many(x, 3),
            Call::MaxPool2d { x, pool } => many(x, 1) + many(&pool.out_shape(*x), 1),
            // x for the place of the maximum, dy; dx.
            Call::MaxPool2dBwd { x, pool } => many(x, 2) + many(&pool.out_shape(*x), 1),
            Call::AdaptiveAvgPool2d { x, size }
            | Call::Interpolate { x, size }
            | Call::AdaptiveAvgPool2dBwd { dy: x, size }
            | Call::InterpolateBwd { dy: x, size } => many(x, 1) + pixels(x.n, size, x.c as u64 * v),
            Call::Concat { parts } => parts.iter().map(|p| many(p, 2)).sum(),
            Call::SliceChannels { x, len, .. } => many(&x.with_channels(*len), 2),
            Call::Add { x, y } => many(x, 2) + many(y, 1),
            Call::SumPositions { x } => many(x, 1) + many(&Shape::new(x.n, 1, 1, x.c), 1),
            // Logits, a label a pixel; the logits' gradient.
            Call::CrossEntropy { logits, size } | Call::OhemCrossEntropy { logits, size, .. } => {
                many(logits, 2) + pixels(logits.n, size, 1)
            }
            // Both teachers' logits; a label and a confidence a pixel.
            Call::EnsemblePseudoLabel { logits, size, .. } => {
                many(logits, 2) + pixels(logits.n, size, 1 + WIDE)
            }
            // The student's logits, label and confidence a pixel, with negative learning the teachers' logits; the gradient.
            Call::ConfCe { logits, size, conf_ce, .. } => {
                let teachers = if conf_ce.negative_threshold > 0.0 { 2 } else { 0 };
                many(logits, 2 + teachers) + pixels(logits.n, size, 1 + WIDE)
            }
            Call::MseConsistency { logits, .. } => many(logits, 4),
            Call::CutMix { x, .. } => many(x, 2),
            // Two labels, and a confidence where it decides.
            Call::ConfusionMatrix { x, above, .. } => {
                (2 + if above.is_some() { WIDE } else { 0 }) * x.positions() as u64
            }
            Call::UniformNoise { x } => many(x, 1),
            // d for the norm and again for the result.
            Call::Normalize { x } => many(x, 3),
            Call::AddNormalized { x } => many(x, 4),
            // A byte a colour.
            Call::NormalizeBytes { x } => many(x, 1) + x.len() as u64,
            // The bytes for the mean grey, which contrast needs first, and again for the result.
            Call::Photometric { x, .. } => many(x, 1) + 2 * x.len() as u64,
            // Logits and tangents (clean and perturbed logits); the cotangent.
            Call::TvatCotangent { logits, .. } | Call::KlGradient { logits, .. } => many(logits, 3),
            // Parameters and momentum both ways, the gradient; the parameters' copy.
            Call::Sgd { len, .. } => flat(*len, 5) + half(*len),
            // And the teacher both ways, and its copy; the statistics.
            Call::SgdEma { len, stats, .. } => flat(*len, 7) + 2 * half(*len) + flat(*stats, 3),
            Call::CopySpans { moves, .. } => moves.iter().map(|m| flat(m.0.len, 2)).sum(),
            Call::Clear { len } | Call::WatchVector { len } => flat(*len, 1),
            Call::WatchTensor { x } => many(x, 1),
        }
    }
}

/// `n x h x w x c`.
fn dims(x: &Shape) -> String {
    format!("{}x{}x{}x{}", x.n, x.h, x.w, x.c)
}

/// Input, output channels, kernel and what is not usual of it.
pub fn conv_text(conv: &Conv2d, x: Shape) -> String {
    let Conv2d { out_channels, kernel, stride, dilation, groups, .. } = *conv;
    let mut text = format!("{} to {out_channels} {kernel}x{kernel}", dims(&x));
    for (what, value) in [("stride", stride), ("dilation", dilation), ("groups", groups)] {
        if value > 1 {
            text += &format!(" {what} {value}");
        }
    }
    if conv.bias.is_some() {
        text += " bias";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_definition() {
        let x = Shape::new(2, 3, 5, 8);
        assert_eq!(Call::LeakyRelu { x }.least_bytes(4), 2 * 240 * 4);
        assert_eq!(Call::LeakyRelu { x }.least_bytes(2), 2 * 240 * 2);
        let pool = MaxPool2d { kernel: 3, stride: 2, padding: 1 };
        assert_eq!(Call::MaxPool2dBwd { x, pool }.least_bytes(2), 2 * (240 + 240 + 2 * 2 * 3 * 8));
        let sgd = Sgd { lr: 0.1, momentum: 0.9, weight_decay: 0.0, num_decayed: 0 };
        assert_eq!(Call::SgdEma { len: 10, stats: 0, sgd }.least_bytes(2), 10 * (7 * 4 + 2 * 2));
        assert_eq!(Call::SgdEma { len: 10, stats: 3, sgd }.least_bytes(4), 10 * 7 * 4 + 3 * 3 * 4);
    }
}
