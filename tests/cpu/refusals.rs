//! What the op functions refuse, and that they say why.

use crate::layer_common::{Conv, NormOffsets, batch_norm, batch_norm_at};
use crate::loss_common::{CONF_CE, Teachers};
use psmt_fast::backend::cpu::{Cpu, Tensor};
use psmt_fast::ops::{self, *};
use psmt_fast::{Error, Result};

fn cpu() -> Cpu<f32> {
    Cpu::new()
}

fn zeros(n: usize, h: usize, w: usize, c: usize) -> Tensor<f32> {
    Tensor::from_fn(Shape::new(n, h, w, c), |_| 0.0)
}

/// Expects a shape error of `op` whose text has all of `words`.
#[track_caller]
fn refused<T>(result: Result<T>, op: &str, words: &[&str]) {
    match result {
        Err(e @ Error::Shape { .. }) => {
            let text = e.to_string();
            assert!(text.starts_with(&format!("{op}: expected ")), "{text}");
            words.iter().for_each(|word| assert!(text.contains(word), "no {word:?} in: {text}"));
        }
        Err(e) => panic!("another error: {e}"),
        Ok(_) => panic!("{op} was not refused: {words:?}"),
    }
}

/// A convolution of 2 to 4 channels without padding.
fn conv(kernel: usize, dilation: usize) -> Conv2d {
    Conv::new(2, 4).kernel(kernel).dilation(dilation).padding(0).spec()
}

#[test]
fn convolutions_that_do_not_fit() {
    let b = cpu();
    let fprop_refused = |x: &Tensor<f32>, num_params: usize, conv: &Conv2d, words: &[&str]| {
        let params = vec![0.0; num_params];
        refused(ops::conv2d_fprop(&b, &ops::Fprop::new(x, &params, conv)), "conv2d_fprop", words);
    };
    let (c1, c3, x) = (conv(1, 1), conv(3, 2), zeros(1, 9, 9, 2));
    fprop_refused(&zeros(1, 3, 3, 5), 72, &c1, &["2 channels", "c 5"]);
    fprop_refused(&zeros(1, 9, 4, 2), 72, &c3, &["reaching over 5"]);
    fprop_refused(&x, 71, &c3, &["72", "71"]);
    fprop_refused(&x, 72, &Conv2d { stride: 0, ..c1 }, &["stride"]);
    for groups in [0, 3] {
        let words = ["2 channels in and 4 out", &format!("{groups} groups")];
        fprop_refused(&x, 72, &Conv2d { groups, ..c1 }, &words);
    }
    fprop_refused(&x, 72, &Conv2d { groups: 2, ..c1 }, &["weight of 4"]);
    fprop_refused(&x, 72, &Conv2d { weight: Span { offset: usize::MAX, len: 8 }, ..c1 }, &["weight"]);
    fprop_refused(&x, 72, &Conv2d { bias: Some(Span { offset: 70, len: 4 }), ..c1 }, &["bias"]);
    let (dy, params) = (zeros(1, 9, 9, 4), vec![0.0; 72]);
    let dgrad = ops::conv2d_dgrad(&b, &ops::Dgrad::new(&dy, &params, &c3, x.shape()));
    refused(dgrad, "conv2d_dgrad", &["h 5", "h 9"]);
    let wgrad = ops::conv2d_wgrad(&b, &x, &dy, &mut params.clone(), &c3);
    refused(wgrad, "conv2d_wgrad", &["h 5", "h 9"]);
}

#[test]
fn batch_norm_of_one_value_and_wrong_residuals() {
    let (b, bn) = (cpu(), batch_norm(3));
    let (params, mut stats) = (vec![1.0; 6], vec![1.0; 6]);
    let x = zeros(1, 1, 1, 3);
    let train = ops::batch_norm_train(
        &b,
        ops::BatchNormTrain {
            x: &x,
            params: &params,
            stats: &mut stats,
            bn: &bn,
            act: RELU,
            residual: None,
            moments: None,
        },
    );
    refused(train.map(|_| ()), "batch_norm_train", &["more than one value per channel"]);
    let eval = |stats: &Vec<f32>, act: Activation, residual: Option<&Tensor<f32>>| {
        let norm = FrozenNorm { stats, bn: &bn, act };
        ops::batch_norm_eval(&b, &BatchNormEval { x: &x, params: &params, norm, residual })
    };
    eval(&stats, RELU, None).unwrap();
    refused(eval(&stats, RELU, Some(&zeros(1, 2, 1, 3))), "batch_norm_eval", &["residual"]);
    refused(eval(&stats, Activation::LeakyRelu(-0.1), None), "batch_norm_eval", &["slope", "-0.1"]);
    refused(eval(&vec![1.0; 5], RELU, None), "batch_norm_eval", &["running_var"]);
}

#[test]
fn frozen_norms_that_do_not_fit_their_convolution() {
    let b = cpu();
    // Their parameters follow the convolution's eight.
    let norm = |channels: usize| {
        let at = NormOffsets { weight: 8, bias: 8 + channels, running_mean: 0, running_var: channels };
        batch_norm_at(channels, at)
    };
    let (conv, params, stats) = (conv(1, 1), vec![1.0; 16], vec![1.0; 8]);
    let (of_input, of_output) = (norm(2), norm(4));
    let frozen = |bn| FrozenNorm { stats: &stats, bn, act: RELU };
    let (x, y, other) = (zeros(1, 3, 3, 2), zeros(1, 3, 3, 4), zeros(1, 3, 2, 4));
    let fprop = |end| ops::conv2d_fprop(&b, &ops::Fprop::new(&x, &params, &conv).with(end));
    let dgrad = |dy, bn| {
        let onto = Onto::Frozen(frozen(bn), &x);
        ops::conv2d_dgrad(&b, &ops::Dgrad { dy, params: &params, conv: &conv, onto })
    };
    let fprop_refused = |end, words: &[&str]| refused(fprop(end), "conv2d_fprop", words);
    assert!(fprop(OutputEnd::Norm(frozen(&of_output), Some(&y))).is_ok());
    assert!(fprop(OutputEnd::Tangent(frozen(&of_output), &y)).is_ok());
    assert!(dgrad(&y, &of_input).is_ok());
    fprop_refused(OutputEnd::Norm(frozen(&of_input), None), &["2 channels"]);
    fprop_refused(OutputEnd::Norm(frozen(&of_output), Some(&other)), &["residual", "w 3", "w 2"]);
    let short = vec![1.0; 7];
    let norm = FrozenNorm { stats: &short, bn: &of_output, act: RELU };
    fprop_refused(OutputEnd::Norm(norm, None), &["running_var"]);
    fprop_refused(OutputEnd::Tangent(frozen(&of_output), &other), &["y", "w 3", "w 2"]);
    refused(dgrad(&other, &of_input), "conv2d_dgrad", &["dy"]);
    refused(dgrad(&y, &of_output), "conv2d_dgrad", &["4 channels", "c 2"]);
}

#[test]
fn sizes_channels_and_parts() {
    let b = cpu();
    let x = zeros(2, 4, 5, 3);
    refused(ops::interpolate(&b, &x, (0, 4)), "interpolate", &["0 by 4"]);
    refused(ops::adaptive_avg_pool2d(&b, &x, (1, 0)), "adaptive_avg_pool2d", &["1 by 0"]);
    let wide = MaxPool2d { kernel: 9, stride: 1, padding: 0 };
    refused(ops::max_pool2d(&b, &x, &wide), "max_pool2d", &["window of 9"]);
    refused(ops::concat(&b, &[&x, &zeros(2, 4, 4, 1)]), "concat", &["w 5", "w 4"]);
    refused(ops::concat(&b, &[]), "concat", &["none"]);
    refused(ops::slice_channels(&b, &x, 2, 2), "slice_channels", &["c 3"]);
    refused(ops::add(&b, &x, &zeros(2, 1, 5, 3), 1.0), "add", &["h 1, w 1"]);
    refused(ops::sum_positions(&b, &zeros(2, 0, 5, 3)), "sum_positions", &["h 0"]);
    refused(ops::leaky_relu(&b, &x, f64::NAN), "leaky_relu", &["slope"]);
}

#[test]
fn losses_of_tensors_that_do_not_belong_together() {
    let b = cpu();
    let labels = |n, h, w| b.upload_labels(Shape::new(n, h, w, 1), &vec![0; n * h * w]);
    let (x, wide) = (zeros(2, 3, 3, 4), zeros(1, 1, 1, 256));
    refused(ops::cross_entropy(&b, &x, &labels(3, 9, 9), 1.0).map(|_| ()), "cross_entropy", &["n 2", "n 3"]);
    refused(
        ops::cross_entropy(&b, &wide, &labels(1, 9, 9), 1.0).map(|_| ()),
        "cross_entropy",
        &["255", "256"],
    );
    let ohem = Ohem { threshold: 0.7, min_kept: 0 };
    let result = ops::ohem_cross_entropy(&b, &x, &labels(2, 9, 9), &ohem, 1.0);
    refused(result.map(|_| ()), "ohem_cross_entropy", &["min_kept"]);
    let teachers =
        |topk| Teachers { core: x.clone(), assist: x.clone(), ensemble: Ensemble { topk, gamma: 0.5 } };
    let result = ops::ensemble_pseudo_label(&b, &teachers(0).logits(), (9, 9));
    refused(result.map(|_| ()), "ensemble_pseudo_label", &["topk"]);
    let teachers = teachers(7);
    let mix = Mix { boxes: vec![vec![[0, 0, 5, 10], [0; 4]]], perm: vec![vec![1, 0]] };
    let result = ops::mse_consistency(
        &b,
        &ops::MseConsistencyArgs {
            student: &x,
            teachers: teachers.logits(),
            size: (9, 9),
            mix: &mix,
            grad_scale: 1.0,
        },
    );
    refused(result.map(|_| ()), "cut_mix", &["[0, 0, 5, 10]"]);
    refused(ops::cut_mix(&b, &zeros(3, 9, 9, 3), &mix), "cut_mix", &["2 boxes"]);
    let pseudo = PseudoLabel::<Cpu<f32>> { label: labels(2, 9, 9), confidence: zeros(2, 9, 8, 1) };
    let result = ops::conf_ce(
        &b,
        &ops::ConfCeArgs {
            student: &x,
            pseudo: &pseudo,
            teachers: teachers.logits(),
            mix: &Mix::default(),
            spec: &CONF_CE,
            grad_scale: 1.0,
        },
    );
    refused(result.map(|_| ()), "conf_ce", &["confidence"]);
    let result = ops::confusion_matrix(&b, &labels(1, 2, 3), &labels(1, 3, 2), 4, None);
    refused(result, "confusion_matrix", &["pred"]);
    let (label, few) = (labels(1, 2, 3), zeros(1, 2, 2, 1));
    let result = ops::confusion_matrix(&b, &label, &label, 4, Some((&few, 0.6)));
    refused(result, "confusion_matrix", &["confidence"]);
    for decoders in [0, 3] {
        let result = ops::tvat_cotangent(&b, &x, &x, decoders, (9, 9));
        refused(result, "tvat_cotangent", &["4 channels", &decoders.to_string()]);
    }
    refused(ops::kl_gradient(&b, &x, &zeros(2, 3, 3, 5), 2, (9, 9)), "kl_gradient", &["c 5"]);
    refused(ops::kl_gradient(&b, &x, &x, 2, (9, 0)), "kl_gradient", &["9 by 0"]);
    refused(ops::normalize(&b, &x, f64::INFINITY), "normalize", &["finite"]);
    refused(ops::add_normalized(&b, &x, &x, f64::NAN), "add_normalized", &["finite"]);
    refused(ops::add_normalized(&b, &x, &zeros(1, 1, 1, 1), 1.0), "add_normalized", &["n 1, h 1"]);
}

#[test]
fn updates_of_vectors_of_other_lengths() {
    let b = cpu();
    // Of four parameters.
    let sgd = |num_grads: usize, num_decayed: usize, teacher: Option<Teacher<'_, Cpu<f32>>>| {
        let spec = Sgd { lr: 0.1, momentum: 0.9, weight_decay: 0.0, num_decayed };
        let step = SgdStep {
            params: &mut vec![0.0; 4],
            grads: &vec![0.0; num_grads],
            momentum: &mut vec![0.0; 4],
            spec: &spec,
            teacher,
        };
        ops::sgd(&b, step)
    };
    refused(sgd(3, 4, None), "sgd", &["grads of 4"]);
    refused(sgd(4, 5, None), "sgd", &["at most 4"]);
    let teacher_refused = |num_params: usize, num_stats: usize, keep: f64, word: &str| {
        let (params, stats) = (&mut vec![0.0; num_params], &mut vec![0.0; num_stats]);
        let teacher = Teacher { params, stats, student_stats: &vec![0.0; 2], keep };
        refused(sgd(4, 4, Some(teacher)), "sgd", &[word]);
    };
    teacher_refused(3, 2, 0.9, "a teacher of 4");
    teacher_refused(4, 3, 0.9, "statistics of 2");
    teacher_refused(4, 2, 1.1, "keep within");
    let from = vec![1.0; 4];
    let copy = |moves: &[(Span, usize)]| ops::copy_spans(&b, &mut vec![0.0; 6], &from, moves);
    let span = |offset, len| Span { offset, len };
    refused(copy(&[(span(2, 3), 0)]), "copy_spans", &["span of 3", "vector of 4"]);
    refused(copy(&[(span(0, 3), 4)]), "copy_spans", &["destination of 3", "vector of 6"]);
    refused(copy(&[(span(0, 2), 3), (span(0, 4), 0)]), "copy_spans", &["0..4 and 3..5"]);
    copy(&[(span(0, 2), 4), (span(0, 4), 0)]).unwrap();
}

#[test]
fn images_and_changes_that_make_no_sense() {
    let b = cpu();
    let upload = |shape: Shape, len: usize, shown: Vec<Box2d>| {
        ops::upload_images(&b, shape, &vec![0; len], shown).map(|_| ())
    };
    let shape = Shape::new(1, 4, 5, 3);
    upload(shape, 60, vec![[1, 2, 4, 5]]).unwrap();
    refused(upload(Shape::new(1, 4, 5, 1), 20, vec![[0; 4]]), "upload_images", &["RGB", "c 1"]);
    refused(upload(Shape::new(0, 4, 5, 3), 0, vec![]), "upload_images", &["n 0"]);
    refused(upload(Shape::new(1, 1, 1 << 31, 3), 0, vec![[0; 4]]), "upload_images", &["1073741824"]);
    refused(upload(shape, 59, vec![[0; 4]]), "upload_images", &["60 bytes", "59 bytes"]);
    refused(upload(shape, 60, vec![]), "upload_images", &["1 boxes", "0 boxes"]);
    for bad in [[0, 0, 5, 5], [0, 0, 4, 6], [3, 0, 2, 5], [0, 4, 4, 3]] {
        refused(upload(shape, 60, vec![bad]), "upload_images", &["4 by 5", &format!("{bad:?}")]);
    }

    let x = zeros(2, 4, 5, 3);
    let change = |x: &Tensor<f32>, strong: &[Strong], normalize: &Normalize| {
        ops::photometric(&b, Pixels::Colors(x), strong, normalize).map(|_| ())
    };
    let none = Strong::default();
    let same = Normalize::IDENTITY;
    change(&x, &[none.clone(), none.clone()], &same).unwrap();
    refused(change(&x, std::slice::from_ref(&none), &same), "photometric", &["2 images", "for 1"]);
    refused(change(&zeros(1, 4, 5, 4), std::slice::from_ref(&none), &same), "photometric", &["c 4"]);
    let jitter = |jitter: Vec<Adjust>| change(&x, &[none.clone(), Strong { jitter, ..none.clone() }], &same);
    refused(jitter(vec![Adjust::Brightness(-0.1)]), "adjust_brightness", &["-0.1"]);
    refused(jitter(vec![Adjust::Contrast(f32::INFINITY)]), "adjust_contrast", &["inf"]);
    refused(jitter(vec![Adjust::Saturation(f32::NAN)]), "adjust_saturation", &["NaN"]);
    refused(jitter(vec![Adjust::Hue(0.51)]), "adjust_hue", &["[-0.5, 0.5]", "0.51"]);
    refused(jitter(vec![Adjust::Hue(0.1), Adjust::Contrast(1.0), Adjust::Hue(0.1)]), "adjust_hue", &["once"]);
    let beyond = MAX_BLUR_KERNEL + 2;
    for (kernel, sigma) in [(4, 1.0), (0, 1.0), (beyond, 1.0), (3, 0.0), (3, f32::NAN)] {
        let blur = Strong { blur: Some(Blur { kernel, sigma }), ..none.clone() };
        let words = ["511", &kernel.to_string(), &sigma.to_string()];
        refused(change(&x, &[blur, none.clone()], &same), "gaussian_blur", &words);
    }
    let flat = Normalize { std: [1.0, 0.0, 1.0], ..same };
    let error = change(&x, &[none.clone(), none], &flat).unwrap_err();
    assert!(matches!(error, Error::Config { .. }) && error.to_string().contains("deviations"), "{error}");
}
