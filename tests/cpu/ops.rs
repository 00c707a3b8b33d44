//! What the op functions refuse, and that they say why.

use psmt_fast::backend::cpu::Cpu;
use psmt_fast::ops::{self, *};
use psmt_fast::{Error, Result};

fn cpu() -> Cpu<f32> {
    Cpu::new()
}

fn zeros(n: usize, h: usize, w: usize, c: usize) -> <Cpu<f32> as Device>::Tensor {
    let shape = Shape::new(n, h, w, c);
    cpu().upload(shape, &vec![0.0; shape.len()])
}

/// Expects a shape error of `op` whose text has all of `words`.
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

fn conv(kernel: usize, dilation: usize) -> Conv2d {
    Conv2d {
        weight: Span { offset: 0, len: 4 * 2 * kernel * kernel },
        bias: None,
        in_channels: 2,
        out_channels: 4,
        groups: 1,
        kernel,
        stride: 1,
        padding: 0,
        dilation,
    }
}

#[test]
fn convolutions_that_do_not_fit() {
    let (b, params) = (cpu(), vec![0.0; 72]);
    let (c1, c3) = (conv(1, 1), conv(3, 2));
    refused(
        ops::conv2d_fprop(&b, &ops::Fprop::new(&zeros(1, 3, 3, 5), &params, &c1)),
        "conv2d_fprop",
        &["2 channels", "c 5"],
    );
    refused(
        ops::conv2d_fprop(&b, &ops::Fprop::new(&zeros(1, 9, 4, 2), &params, &c3)),
        "conv2d_fprop",
        &["reaching over 5"],
    );
    refused(
        ops::conv2d_fprop(&b, &ops::Fprop::new(&zeros(1, 9, 9, 2), &vec![0.0; 71], &c3)),
        "conv2d_fprop",
        &["72", "71"],
    );
    let c0 = Conv2d { stride: 0, ..c1 };
    refused(
        ops::conv2d_fprop(&b, &ops::Fprop::new(&zeros(1, 9, 9, 2), &params, &c0)),
        "conv2d_fprop",
        &["stride"],
    );
    for groups in [0, 3] {
        let uneven = Conv2d { groups, ..c1 };
        let words = ["2 channels in and 4 out", &format!("{groups} groups")];
        refused(
            ops::conv2d_fprop(&b, &ops::Fprop::new(&zeros(1, 9, 9, 2), &params, &uneven)),
            "conv2d_fprop",
            &words,
        );
    }
    let grouped = Conv2d { groups: 2, ..c1 };
    refused(
        ops::conv2d_fprop(&b, &ops::Fprop::new(&zeros(1, 9, 9, 2), &params, &grouped)),
        "conv2d_fprop",
        &["weight of 4"],
    );
    let far = Conv2d { weight: Span { offset: usize::MAX, len: 8 }, ..c1 };
    refused(
        ops::conv2d_fprop(&b, &ops::Fprop::new(&zeros(1, 9, 9, 2), &params, &far)),
        "conv2d_fprop",
        &["weight"],
    );
    let biased = Conv2d { bias: Some(Span { offset: 70, len: 4 }), ..c1 };
    refused(
        ops::conv2d_fprop(&b, &ops::Fprop::new(&zeros(1, 9, 9, 2), &params, &biased)),
        "conv2d_fprop",
        &["bias"],
    );
    let (x, dy) = (zeros(1, 9, 9, 2), zeros(1, 9, 9, 4));
    refused(
        ops::conv2d_dgrad(&b, &ops::Dgrad::new(&dy, &params, &c3, Shape::new(1, 9, 9, 2))),
        "conv2d_dgrad",
        &["h 5", "h 9"],
    );
    refused(ops::conv2d_wgrad(&b, &x, &dy, &mut params.clone(), &c3), "conv2d_wgrad", &["h 5", "h 9"]);
}

#[test]
fn batch_norm_of_one_value_and_wrong_residuals() {
    let b = cpu();
    let span = |offset| Span { offset, len: 3 };
    let bn = BatchNorm {
        weight: span(0),
        bias: span(3),
        running_mean: span(0),
        running_var: span(3),
        channels: 3,
        momentum: 0.1,
        eps: 1e-5,
    };
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
    assert!(
        ops::batch_norm_eval(
            &b,
            &ops::BatchNormEval {
                x: &x,
                params: &params,
                norm: ops::FrozenNorm { stats: &stats, bn: &bn, act: RELU },
                residual: None
            }
        )
        .is_ok()
    );
    let residual = zeros(1, 2, 1, 3);
    refused(
        ops::batch_norm_eval(
            &b,
            &ops::BatchNormEval {
                x: &x,
                params: &params,
                norm: ops::FrozenNorm { stats: &stats, bn: &bn, act: RELU },
                residual: Some(&residual),
            },
        ),
        "batch_norm_eval",
        &["residual"],
    );
    let act = Activation::LeakyRelu(-0.1);
    refused(
        ops::batch_norm_eval(
            &b,
            &ops::BatchNormEval {
                x: &x,
                params: &params,
                norm: ops::FrozenNorm { stats: &stats, bn: &bn, act },
                residual: None,
            },
        ),
        "batch_norm_eval",
        &["slope", "-0.1"],
    );
    let short = vec![1.0; 5];
    refused(
        ops::batch_norm_eval(
            &b,
            &ops::BatchNormEval {
                x: &x,
                params: &params,
                norm: ops::FrozenNorm { stats: &short, bn: &bn, act: RELU },
                residual: None,
            },
        ),
        "batch_norm_eval",
        &["running_var"],
    );
}

#[test]
fn frozen_norms_that_do_not_fit_their_convolution() {
    let b = cpu();
    let span = |offset, len| Span { offset, len };
    let norm = |channels: usize| BatchNorm {
        weight: span(8, channels),
        bias: span(8 + channels, channels),
        running_mean: span(0, channels),
        running_var: span(channels, channels),
        channels,
        momentum: 0.1,
        eps: 1e-5,
    };
    // 2 channels to 4.
    let (conv, params, stats) = (conv(1, 1), vec![1.0; 16], vec![1.0; 8]);
    let (before, behind) = (norm(2), norm(4));
    let frozen = |bn| FrozenNorm { stats: &stats, bn, act: RELU };
    let (x, y, other) = (zeros(1, 3, 3, 2), zeros(1, 3, 3, 4), zeros(1, 3, 2, 4));
    assert!(
        ops::conv2d_fprop(
            &b,
            &ops::Fprop::new(&x, &params, &conv).with(ops::OutputEnd::Norm(frozen(&behind), Some(&y)))
        )
        .is_ok()
    );
    assert!(
        ops::conv2d_fprop(
            &b,
            &ops::Fprop::new(&x, &params, &conv).with(ops::OutputEnd::Tangent(frozen(&behind), &y))
        )
        .is_ok()
    );
    assert!(
        ops::conv2d_dgrad(
            &b,
            &ops::Dgrad {
                dy: &y,
                params: &params,
                conv: &conv,
                onto: ops::Onto::Frozen(frozen(&before), &x)
            }
        )
        .is_ok()
    );
    let fprop = "conv2d_fprop";
    refused(
        ops::conv2d_fprop(
            &b,
            &ops::Fprop::new(&x, &params, &conv).with(ops::OutputEnd::Norm(frozen(&before), None)),
        ),
        fprop,
        &["2 channels"],
    );
    refused(
        ops::conv2d_fprop(
            &b,
            &ops::Fprop::new(&x, &params, &conv).with(ops::OutputEnd::Norm(frozen(&behind), Some(&other))),
        ),
        fprop,
        &["residual", "w 3", "w 2"],
    );
    let short = vec![1.0; 7];
    let norm = FrozenNorm { stats: &short, bn: &behind, act: RELU };
    refused(
        ops::conv2d_fprop(&b, &ops::Fprop::new(&x, &params, &conv).with(ops::OutputEnd::Norm(norm, None))),
        fprop,
        &["running_var"],
    );
    refused(
        ops::conv2d_fprop(
            &b,
            &ops::Fprop::new(&x, &params, &conv).with(ops::OutputEnd::Tangent(frozen(&behind), &other)),
        ),
        "conv2d_fprop",
        &["y", "w 3", "w 2"],
    );
    let dgrad = "conv2d_dgrad";
    refused(
        ops::conv2d_dgrad(
            &b,
            &ops::Dgrad {
                dy: &other,
                params: &params,
                conv: &conv,
                onto: ops::Onto::Frozen(frozen(&before), &x),
            },
        ),
        dgrad,
        &["dy"],
    );
    refused(
        ops::conv2d_dgrad(
            &b,
            &ops::Dgrad {
                dy: &y,
                params: &params,
                conv: &conv,
                onto: ops::Onto::Frozen(frozen(&behind), &x),
            },
        ),
        dgrad,
        &["4 channels", "c 2"],
    );
}

#[test]
fn sizes_channels_and_parts() {
    let b = cpu();
    let x = zeros(2, 4, 5, 3);
    refused(ops::interpolate(&b, &x, (0, 4)), "interpolate", &["0 by 4"]);
    refused(ops::adaptive_avg_pool2d(&b, &x, (1, 0)), "adaptive_avg_pool2d", &["1 by 0"]);
    refused(
        ops::max_pool2d(&b, &x, &MaxPool2d { kernel: 9, stride: 1, padding: 0 }),
        "max_pool2d",
        &["window of 9"],
    );
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
    let ensemble = Ensemble { topk: 0, gamma: 0.5 };
    let result = ops::ensemble_pseudo_label(
        &b,
        &ops::TeacherLogits { core: &x, assist: &x, ensemble: &ensemble },
        (9, 9),
    );
    refused(result.map(|_| ()), "ensemble_pseudo_label", &["topk"]);
    let ensemble = Ensemble { topk: 7, gamma: 0.5 };
    let mix = Mix { boxes: vec![vec![[0, 0, 5, 10], [0; 4]]], perm: vec![vec![1, 0]] };
    let result = ops::mse_consistency(
        &b,
        &ops::MseConsistencyArgs {
            student: &x,
            teachers: ops::TeacherLogits { core: &x, assist: &x, ensemble: &ensemble },
            size: (9, 9),
            mix: &mix,
            grad_scale: 1.0,
        },
    );
    refused(result.map(|_| ()), "cut_mix", &["[0, 0, 5, 10]"]);
    refused(ops::cut_mix(&b, &zeros(3, 9, 9, 3), &mix), "cut_mix", &["2 boxes"]);
    let spec = ConfCe { threshold: 0.6, negative_threshold: 0.0, square_weight: 0.0, weighted: true };
    let pseudo = PseudoLabel::<Cpu<f32>> { label: labels(2, 9, 9), confidence: zeros(2, 9, 8, 1) };
    let result = ops::conf_ce(
        &b,
        &ops::ConfCeArgs {
            student: &x,
            pseudo: &pseudo,
            teachers: ops::TeacherLogits { core: &x, assist: &x, ensemble: &ensemble },
            mix: &Mix::default(),
            spec: &spec,
            grad_scale: 1.0,
        },
    );
    refused(result.map(|_| ()), "conf_ce", &["confidence"]);
    refused(
        ops::confusion_matrix(&b, &labels(1, 2, 3), &labels(1, 3, 2), 4, None),
        "confusion_matrix",
        &["pred"],
    );
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
    let spec = Sgd { lr: 0.1, momentum: 0.9, weight_decay: 0.0, num_decayed: 5 };
    refused(
        ops::sgd(
            &b,
            ops::SgdStep {
                params: &mut vec![0.0; 4],
                grads: &vec![0.0; 3],
                momentum: &mut vec![0.0; 4],
                spec: &spec,
                teacher: None,
            },
        ),
        "sgd",
        &["grads of 4"],
    );
    let fitting = Sgd { num_decayed: 4, ..spec };
    for (params, stats, keep, why) in
        [(3, 2, 0.9, "a teacher of 4"), (4, 3, 0.9, "statistics of 2"), (4, 2, 1.1, "keep within")]
    {
        let (mut params, mut stats) = (vec![0.0; params], vec![0.0; stats]);
        let student_stats = vec![0.0; 2];
        let teacher = Teacher { params: &mut params, stats: &mut stats, student_stats: &student_stats, keep };
        let (mut p, g, mut m) = (vec![0.0; 4], vec![0.0; 4], vec![0.0; 4]);
        refused(
            ops::sgd(
                &b,
                ops::SgdStep {
                    params: &mut p,
                    grads: &g,
                    momentum: &mut m,
                    spec: &fitting,
                    teacher: Some(teacher),
                },
            ),
            "sgd",
            &[why],
        );
    }
    refused(
        ops::sgd(
            &b,
            ops::SgdStep {
                params: &mut vec![0.0; 4],
                grads: &vec![0.0; 4],
                momentum: &mut vec![0.0; 4],
                spec: &spec,
                teacher: None,
            },
        ),
        "sgd",
        &["at most 4"],
    );
    let from = vec![1.0; 4];
    let copy = |moves: &[(Span, usize)]| ops::copy_spans(&b, &mut vec![0.0; 6], &from, moves);
    let span = |offset, len| Span { offset, len };
    refused(copy(&[(span(2, 3), 0)]), "copy_spans", &["span of 3", "vector of 4"]);
    refused(copy(&[(span(0, 3), 4)]), "copy_spans", &["place of 3", "vector of 6"]);
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
    let change = |x: &<Cpu<f32> as Device>::Tensor, strong: &[Strong], normalize: &Normalize| {
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
    for (kernel, sigma) in [(4, 1.0), (0, 1.0), (MAX_BLUR_KERNEL + 2, 1.0), (3, 0.0), (3, f32::NAN)] {
        let blur = Strong { blur: Some(Blur { kernel, sigma }), ..none.clone() };
        let words = ["511", &kernel.to_string(), &sigma.to_string()];
        refused(change(&x, &[blur, none.clone()], &same), "gaussian_blur", &words);
    }
    let flat = Normalize { std: [1.0, 0.0, 1.0], ..same };
    let error = change(&x, &[none.clone(), none], &flat).unwrap_err();
    assert!(matches!(error, Error::Config { .. }) && error.to_string().contains("deviations"), "{error}");
}
