//! Convolutions of the CUDA device, emulated, against the CPU in f64: values, repeatability, unaligned operands.
//!
//! Inputs are rounded to the activations' type first. A result may differ by 1e-5 of the sum of its terms' absolute values
//! (sums in f32) and, where it is stored in 16 bits, by 2^-8 of itself.
use psmt_emulator::{self as emulator, CopyTime, EmulatorOptions, Schedule};
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::backend::cuda::{Cuda, Dtype, Tensor, Tile};
use psmt_fast::ops::*;
use psmt_fast::rng::{Domain, Key};

/// n, h, w, in, out, kernel, stride, padding, dilation, bias
type Geometry = (usize, usize, usize, usize, usize, usize, usize, usize, usize, bool);

/// Every kernel that convolutions may run in; none for the model's choice. One that does not fit leaves it the choice.
fn tiles(dtype: Dtype) -> &'static [Option<Tile>] {
    use Tile::*;
    const FLOATS: [Option<Tile>; 2] = [None, Some(Large)];
    const HALVES: [Option<Tile>; 7] = [
        Some(Small),
        Some(Large),
        Some(Any),
        Some(Wgmma64),
        Some(Wgmma128),
        Some(Wgmma256),
        Some(Wgmma256x2),
    ];
    if dtype == Dtype::Bf16 { &HALVES } else { &FLOATS }
}

/// Whether this build has no emulator, with a word.
fn skipped() -> bool {
    let missing = emulator::open(EmulatorOptions::default()).err();
    missing.inspect(|e| eprintln!("skipped: {e}")).is_some()
}

fn device(dtype: Dtype, options: EmulatorOptions) -> Cuda {
    Cuda::new(emulator::open(options).unwrap(), dtype)
}

/// A convolution whose parts lie at `offset` and behind, with its input shape.
fn layer(geometry: Geometry, groups: usize, offset: usize) -> (Conv2d, Shape) {
    let (n, h, w, in_channels, out_channels, kernel, stride, padding, dilation, bias) = geometry;
    let weight = Span { offset, len: out_channels * kernel * kernel * in_channels / groups };
    let bias = bias.then_some(Span { offset: offset + weight.len + 3, len: out_channels });
    let conv = Conv2d { weight, bias, in_channels, out_channels, groups, kernel, stride, padding, dilation };
    (conv, Shape::new(n, h, w, in_channels))
}

/// Values in [-1, 1) that `dtype` represents.
fn values(len: usize, seed: u64, dtype: Dtype) -> Vec<f32> {
    let key = Key::new(seed, Domain::Bench, 0);
    let round = |v: f32| if dtype == Dtype::Bf16 { half::bf16::from_f32(v).to_f32() } else { v };
    (0..len).map(|i| round(key.uniform(i as u64) * 2.0 - 1.0)).collect()
}

/// Inputs of the three ops.
struct Inputs {
    x: Vec<f32>,
    dy: Vec<f32>,
    params: Vec<f32>,
    /// What the gradients hold before.
    grads: Vec<f32>,
}

impl Inputs {
    fn new(conv: &Conv2d, x: Shape, dtype: Dtype) -> Inputs {
        let len = conv.weight.offset + conv.weight.len + conv.bias.map_or(0, |b| 3 + b.len) + 5;
        Inputs {
            x: values(x.len(), 1, dtype),
            dy: values(conv.out_shape(x).len(), 2, dtype),
            params: values(len, 3, dtype),
            grads: values(len, 4, Dtype::F32),
        }
    }

    fn abs(&self) -> Inputs {
        let abs = |v: &[f32]| v.iter().map(|v| v.abs()).collect();
        Inputs { x: abs(&self.x), dy: abs(&self.dy), params: abs(&self.params), grads: abs(&self.grads) }
    }

    /// y, dx and all gradients.
    fn run<B: Backend>(&self, b: &B, conv: &Conv2d, shape: Shape) -> [Vec<f32>; 3] {
        let (x, dy) = (b.upload(shape, &self.x), b.upload(conv.out_shape(shape), &self.dy));
        let params = b.upload_vector(&self.params);
        let mut grads = b.upload_vector(&self.grads);
        let y = conv2d_fprop(b, &Fprop::new(&x, &params, conv)).unwrap().y;
        let dx = conv2d_dgrad(b, &Dgrad::new(&dy, &params, conv, shape)).unwrap().dx;
        conv2d_wgrad(b, &x, &dy, &mut grads, conv).unwrap();
        let out = [b.download(&y), b.download(&dx), b.download_vector(&grads)];
        if let Err(fault) = b.check() {
            panic!("{conv:?} of {shape}: {fault}");
        }
        out
    }
}

/// Compares with the CPU; `terms` are the sums of the terms' absolute values.
fn close(what: &str, got: &[f32], want: &[f32], terms: &[f32], rounding: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let excess = |i: usize| {
        let (g, w, t) = (f64::from(got[i]), f64::from(want[i]), f64::from(terms[i]));
        let over = (g - w).abs() - 1e-5 * t - rounding * w.abs();
        if over.is_nan() { f64::INFINITY } else { over }
    };
    let worst = (0..got.len()).max_by(|&a, &b| excess(a).total_cmp(&excess(b))).expect("there are values");
    assert!(
        excess(worst) <= 0.0,
        "{what}: element {worst} is {} not {} (terms {})",
        got[worst],
        want[worst],
        terms[worst]
    );
}

/// The device, by every kernel, and the CPU agree on `geometries` with their groups.
fn groups_agree(dtype: Dtype, geometries: &[(Geometry, usize)], offset: usize, options: EmulatorOptions) {
    for &(geometry, groups) in geometries {
        let (conv, shape) = layer(geometry, groups, offset);
        let inputs = Inputs::new(&conv, shape, dtype);
        let cpu = Cpu::<f64>::new();
        let (want, terms) = (inputs.run(&cpu, &conv, shape), inputs.abs().run(&cpu, &conv, shape));
        for &tile in tiles(dtype) {
            let plain = device(dtype, options);
            let d = tile.into_iter().fold(plain, Cuda::with_tile);
            let got = inputs.run(&d, &conv, shape);
            for (i, name) in ["y", "dx", "grads"].into_iter().enumerate() {
                // Gradients of parameters are floats in either mode.
                let rounding = if dtype == Dtype::Bf16 && i < 2 { 1.0 / 256.0 } else { 0.0 };
                let what = format!("{name} {dtype:?} {geometry:?}, {groups} groups, {tile:?}");
                close(&what, &got[i], &want[i], &terms[i], rounding);
            }
        }
    }
}

fn agree_in(dtype: Dtype, geometries: &[Geometry], offset: usize, options: EmulatorOptions) {
    let geometries: Vec<_> = geometries.iter().map(|&geometry| (geometry, 1)).collect();
    groups_agree(dtype, &geometries, offset, options);
}

fn agree(geometries: &[Geometry], offset: usize, options: EmulatorOptions) {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        agree_in(dtype, geometries, offset, options);
    }
}

#[test]
fn pointwise() {
    if skipped() {
        return;
    }
    let cases = [
        (2, 17, 19, 16, 24, 1, 1, 0, 1, true),
        (2, 15, 13, 32, 48, 1, 2, 0, 1, false),
        (1, 9, 7, 64, 21, 1, 1, 0, 1, true),
        (3, 5, 6, 5, 72, 1, 1, 0, 1, false),
    ];
    agree(&cases, 8, EmulatorOptions::default());
}

#[test]
fn single_positions() {
    if skipped() {
        return;
    }
    let cases = [
        (1, 1, 1, 1, 1, 1, 1, 0, 1, true),
        (2, 1, 1, 64, 72, 1, 1, 0, 1, false),
        (2, 1, 1, 72, 16, 1, 1, 0, 1, true),
        (1, 1, 1, 5, 8, 3, 1, 1, 1, false),
        (3, 2, 1, 8, 8, 3, 2, 1, 1, false),
        (2, 3, 2, 16, 8, 1, 4, 0, 1, false),
    ];
    agree(&cases, 8, EmulatorOptions::default());
}

#[test]
fn kernels_of_three() {
    if skipped() {
        return;
    }
    let cases = [
        (2, 11, 13, 8, 16, 3, 1, 1, 1, false),
        (1, 16, 9, 48, 64, 3, 1, 1, 1, false),
        (2, 13, 11, 72, 8, 3, 2, 1, 1, true),
        (2, 7, 5, 21, 13, 3, 1, 1, 1, true),
        (1, 9, 12, 16, 16, 3, 1, 0, 1, false),
    ];
    agree(&cases, 8, EmulatorOptions::default());
}

#[test]
fn stems() {
    if skipped() {
        return;
    }
    let cases = [
        (1, 29, 22, 3, 16, 7, 2, 3, 1, false),
        (2, 15, 17, 3, 64, 3, 2, 1, 1, false),
        (1, 9, 9, 1, 3, 7, 1, 3, 1, true),
        // Several segments of a row, more outputs than a block has, odd steps, biases.
        (2, 9, 261, 3, 72, 3, 2, 1, 1, true),
        (1, 3, 140, 3, 8, 3, 1, 1, 1, false),
        (1, 11, 270, 3, 64, 7, 2, 3, 1, true),
        (1, 13, 10, 3, 136, 7, 3, 0, 1, false),
    ];
    agree(&cases, 8, EmulatorOptions::default());
}

#[test]
fn dilated() {
    if skipped() {
        return;
    }
    let cases = [
        (1, 17, 15, 16, 8, 3, 1, 6, 6, false),
        (2, 9, 13, 8, 21, 3, 1, 12, 12, false),
        (1, 12, 11, 24, 16, 3, 1, 2, 2, true),
        (1, 14, 13, 8, 16, 3, 2, 2, 2, false),
        (1, 14, 13, 8, 16, 3, 3, 2, 2, false),
        (1, 7, 9, 16, 8, 3, 4, 6, 6, false),
    ];
    agree(&cases, 8, EmulatorOptions::default());
}

/// Enough blocks that the plans take large tiles and split positions.
#[test]
fn large_tiles() {
    if skipped() {
        return;
    }
    agree_in(Dtype::F32, &[(1, 130, 130, 72, 72, 1, 1, 0, 1, true)], 0, EmulatorOptions::default());
    agree_in(Dtype::Bf16, &[(2, 130, 130, 72, 72, 1, 1, 0, 1, true)], 0, EmulatorOptions::default());
}

/// A weight that begins within a chunk of its 16-bit copy, or of the parameters themselves.
#[test]
fn unaligned_weights() {
    if skipped() {
        return;
    }
    for offset in [4, 3] {
        agree(&[(1, 6, 7, 16, 16, 3, 1, 1, 1, true)], offset, EmulatorOptions::default());
    }
}

/// Aligned groups, groups whose channels are no whole chunks, one channel a group.
const GROUPED: [(Geometry, usize); 8] = [
    ((2, 9, 11, 32, 16, 3, 1, 1, 1, true), 2),
    ((1, 10, 7, 48, 24, 3, 2, 1, 1, false), 3),
    ((2, 7, 9, 144, 144, 1, 1, 0, 1, true), 2),
    ((2, 7, 5, 64, 10, 1, 1, 0, 1, true), 2),
    ((1, 9, 8, 10, 14, 3, 2, 2, 2, true), 2),
    ((1, 12, 11, 16, 32, 3, 1, 6, 6, false), 2),
    ((2, 5, 6, 12, 24, 3, 3, 1, 1, false), 4),
    ((1, 6, 7, 5, 10, 3, 1, 1, 1, true), 5),
];

#[test]
fn groups() {
    if skipped() {
        return;
    }
    for dtype in [Dtype::F32, Dtype::Bf16] {
        groups_agree(dtype, &GROUPED, 8, EmulatorOptions::default());
        groups_agree(dtype, &GROUPED[..2], 3, EmulatorOptions::default());
    }
}

/// Enough blocks that the plans take large tiles, with positions in splits.
#[test]
fn groups_in_large_tiles() {
    if skipped() {
        return;
    }
    let geometries = [((1, 96, 96, 144, 144, 1, 1, 0, 1, true), 2)];
    for dtype in [Dtype::F32, Dtype::Bf16] {
        groups_agree(dtype, &geometries, 0, EmulatorOptions::default());
    }
}

/// Every access to memory is checked.
#[test]
fn no_access_is_out_of_place() {
    if skipped() {
        return;
    }
    let cases = [
        (1, 5, 7, 8, 24, 3, 2, 1, 1, true),
        (1, 4, 5, 3, 5, 3, 1, 2, 2, true),
        (1, 5, 7, 3, 8, 3, 2, 1, 1, true),
        (1, 5, 7, 3, 8, 7, 2, 3, 1, false),
        (2, 1, 1, 16, 8, 1, 1, 0, 1, false),
    ];
    let options = EmulatorOptions { check: true, ..EmulatorOptions::default() };
    agree(&cases, 8, options);
    let grouped = [((1, 5, 7, 16, 24, 3, 2, 1, 1, true), 2), ((1, 4, 5, 9, 6, 3, 1, 2, 2, true), 3)];
    for dtype in [Dtype::F32, Dtype::Bf16] {
        groups_agree(dtype, &grouped, 8, options);
    }
}

/// The same bits in any order of threads, and whenever copies land.
#[test]
fn results_do_not_depend_on_the_order_of_threads() {
    if skipped() {
        return;
    }
    let options = |schedule, copies| EmulatorOptions { schedule, copies, ..EmulatorOptions::default() };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for geometry in [(2, 13, 11, 16, 24, 3, 2, 1, 1, true), (1, 19, 17, 3, 8, 3, 1, 1, 1, true)] {
            let (conv, shape) = layer(geometry, 1, 8);
            let inputs = Inputs::new(&conv, shape, dtype);
            for &tile in tiles(dtype) {
                let run = |o| {
                    let d = tile.into_iter().fold(device(dtype, o), Cuda::with_tile);
                    inputs.run(&d, &conv, shape).map(|v| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
                };
                let first = run(EmulatorOptions::default());
                for o in [
                    options(Schedule::Descending, CopyTime::Early),
                    options(Schedule::Seeded(7), CopyTime::Seeded(8)),
                ] {
                    assert!(first == run(o), "{dtype:?} {geometry:?} {tile:?} {o:?}");
                }
            }
        }
    }
}

/// The copy holds every parameter rounded to nearest even, and is made once.
#[test]
fn half_precision_parameters() {
    if skipped() {
        return;
    }
    let d = device(Dtype::Bf16, EmulatorOptions::default());
    for len in [1, 8, 13, 2051] {
        let params = d.upload_vector(&values(len, 5, Dtype::F32));
        assert!(params.half().is_none());
        let half = d.half(&params);
        assert_eq!(half.bytes(), 2 * len);
        assert_eq!(d.half(&params).ptr(), half.ptr());
    }
    // What a convolution sees: 1x1 of an image that is one at each channel in turn.
    let weights = values(35 * 32, 6, Dtype::F32);
    let (conv, _) = layer((1, 1, 1, 32, 35, 1, 1, 0, 1, false), 1, 0);
    let eye: Vec<f32> = (0..32 * 32).map(|i| f32::from(u8::from(i / 32 == i % 32))).collect();
    let x = d.upload(Shape::new(1, 32, 1, 32), &eye);
    let y = d.download(&conv2d_fprop(&d, &Fprop::new(&x, &d.upload_vector(&weights), &conv)).unwrap().y);
    for (i, v) in y.iter().enumerate() {
        let (c, o) = (i / 35, i % 35);
        assert_eq!(*v, half::bf16::from_f32(weights[o * 32 + c]).to_f32(), "output {o}, input {c}");
    }
    d.check().unwrap();
}

/// What convolutions do in passing, by every kernel: moments for a batch norm and sums for its backward pass beside those of its
/// own passes; to the same bits as by two ops a data gradient added to another, and a frozen batch norm or its derivative.
#[test]
fn moments_sums_and_added_gradients() {
    if skipped() {
        return;
    }
    let geometries: [(Geometry, usize); 7] = [
        ((2, 19, 17, 16, 24, 3, 1, 1, 1, false), 1),
        ((1, 33, 12, 64, 136, 1, 1, 0, 1, false), 1),
        ((2, 15, 13, 32, 48, 3, 2, 1, 1, false), 1),
        ((2, 9, 11, 128, 64, 3, 1, 2, 2, false), 2),
        ((1, 7, 9, 5, 7, 3, 1, 1, 1, false), 1),
        // A first convolution, whose segments end with rows of y or before.
        ((1, 4, 256, 3, 72, 3, 2, 1, 1, false), 1),
        ((1, 4, 200, 3, 72, 3, 2, 1, 1, false), 1),
    ];
    let checked = EmulatorOptions { check: true, ..EmulatorOptions::default() };
    let acts = [RELU, Activation::LeakyRelu(0.1), Activation::Identity];
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for (i, (geometry, groups)) in geometries.into_iter().enumerate() {
            let (conv, shape) = layer(geometry, groups, 8);
            let inputs = Inputs::new(&conv, shape, dtype);
            for (j, &tile) in tiles(dtype).iter().enumerate() {
                let options = if i == 0 { checked } else { EmulatorOptions::default() };
                let d = tile.into_iter().fold(device(dtype, options), Cuda::with_tile);
                let what = format!("{dtype:?} {geometry:?}, {groups} groups, {tile:?}");
                gathers_moments(&d, &conv, shape, &inputs, &what);
                goes_through_frozen_norms(&d, &conv, shape, &inputs, acts[(i + j) % 3], &what);
                adds_gradients(&d, &conv, shape, &inputs, &what);
                for (residual, add) in [(false, false), (true, true)] {
                    let what = format!("{what}, residual {residual}, added {add}");
                    sums_gradients(&d, dtype, &conv, shape, &inputs, (residual, add), &what);
                }
                d.check().unwrap();
            }
        }
    }
}

fn gathers_moments(d: &Cuda, conv: &Conv2d, shape: Shape, inputs: &Inputs, what: &str) {
    let span = |i: usize| Span { offset: i * conv.out_channels, len: conv.out_channels };
    let bn = BatchNorm {
        weight: span(0),
        bias: span(1),
        running_mean: span(0),
        running_var: span(1),
        channels: conv.out_channels,
        momentum: 0.3,
        eps: 1e-5,
    };
    let affine = d.upload_vector(&values(2 * conv.out_channels, 7, Dtype::F32));
    let mut stats = [d.zeros(2 * conv.out_channels), d.zeros(2 * conv.out_channels)];
    let (x, params) = (d.upload(shape, &inputs.x), d.upload_vector(&inputs.params));
    let FpropOut { y: z, moments } =
        conv2d_fprop(d, &Fprop::new(&x, &params, conv).with(OutputEnd::Moments)).unwrap();
    let plain = d.download(&conv2d_fprop(d, &Fprop::new(&x, &params, conv)).unwrap().y);
    assert!(d.download(&z).iter().zip(&plain).all(|(a, b)| a.to_bits() == b.to_bits()), "{what}: values");
    let short = shape.c == 3 && d.download(&z).len() % (128 * 72) != 0;
    assert!(moments.is_some() || short, "{what}: no moments");
    let [one, other] = &mut stats;
    let (y, saved) = batch_norm_train(
        d,
        BatchNormTrain {
            x: &z,
            params: &affine,
            stats: one,
            bn: &bn,
            act: RELU,
            residual: None,
            moments: moments.as_ref(),
        },
    )
    .unwrap();
    let (want_y, want) = batch_norm_train(
        d,
        BatchNormTrain {
            x: &z,
            params: &affine,
            stats: other,
            bn: &bn,
            act: RELU,
            residual: None,
            moments: None,
        },
    )
    .unwrap();
    let pairs = [
        ("saved moments", d.download_vector(&saved.moments), d.download_vector(&want.moments)),
        ("running statistics", d.download_vector(one), d.download_vector(other)),
        ("y", d.download(&y), d.download(&want_y)),
    ];
    for (name, got, want) in pairs {
        for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
            // The same sum may round to one of two neighbours.
            let rounding = if name == "y" { 1.0 / 128.0 } else { 1e-5 };
            let off = (got - want).abs();
            assert!(off <= rounding * want.abs() + 1e-5, "{what}: {name} {i} is {got}, not {want}");
        }
    }
}

fn goes_through_frozen_norms(
    d: &Cuda,
    conv: &Conv2d,
    shape: Shape,
    inputs: &Inputs,
    act: Activation,
    what: &str,
) {
    let begin = inputs.params.len();
    let most = conv.in_channels.max(conv.out_channels);
    let norm = |channels: usize| {
        let span = |offset: usize| Span { offset, len: channels };
        BatchNorm {
            weight: span(begin),
            bias: span(begin + most),
            running_mean: span(1),
            running_var: span(1 + most),
            channels,
            momentum: 0.3,
            eps: 1e-3,
        }
    };
    let params = d.upload_vector(&[&inputs.params[..], &values(2 * most, 5, Dtype::F32)].concat());
    let variances = values(most, 7, Dtype::F32).into_iter().map(|v| v + 1.5);
    let stats: Vec<f32> = values(1 + most, 6, Dtype::F32).into_iter().chain(variances).collect();
    let stats = d.upload_vector(&stats);
    let out = conv.out_shape(shape);
    let (x, dy) = (d.upload(shape, &inputs.x), d.upload(out, &inputs.dy));
    let (other, clean) = (
        d.upload(out, &values(out.len(), 13, Dtype::F32)),
        d.upload(shape, &values(shape.len(), 14, Dtype::F32)),
    );
    let same = |got: &Tensor, want: &Tensor, part: &str| {
        let (got, want) = (d.download(got), d.download(want));
        let differs = got.iter().zip(&want).position(|(a, b)| a.to_bits() != b.to_bits());
        assert!(differs.is_none() && got.len() == want.len(), "{what}: {part} differs at {differs:?}");
        assert!(got.iter().any(|v| *v != 0.0), "{what}: {part} is zero");
    };
    let (bn, before) = (norm(out.c), norm(shape.c));
    let behind = FrozenNorm { stats: &stats, bn: &bn, act };
    let z = conv2d_fprop(d, &Fprop::new(&x, &params, conv)).unwrap().y;
    for residual in [None, Some(&other)] {
        let got = conv2d_fprop(d, &Fprop::new(&x, &params, conv).with(OutputEnd::Norm(behind, residual)))
            .unwrap()
            .y;
        let want = batch_norm_eval(
            d,
            &BatchNormEval {
                x: &z,
                params: &params,
                norm: FrozenNorm { stats: &stats, bn: &bn, act },
                residual,
            },
        )
        .unwrap();
        same(&got, &want, "y behind a frozen batch norm");
    }
    let got =
        conv2d_fprop(d, &Fprop::new(&x, &params, conv).with(OutputEnd::Tangent(behind, &other))).unwrap().y;
    let want = batch_norm_tangent(
        d,
        &BatchNormTangent {
            t: &z,
            y: &other,
            params: &params,
            norm: FrozenNorm { stats: &stats, bn: &bn, act },
        },
    )
    .unwrap();
    same(&got, &want, "tangent");
    let onto = FrozenNorm { stats: &stats, bn: &before, act };
    let got = conv2d_dgrad(d, &Dgrad { dy: &dy, params: &params, conv, onto: Onto::Frozen(onto, &clean) })
        .unwrap()
        .dx;
    let dx = conv2d_dgrad(d, &Dgrad::new(&dy, &params, conv, shape)).unwrap().dx;
    let want = batch_norm_tangent(
        d,
        &BatchNormTangent {
            t: &dx,
            y: &clean,
            params: &params,
            norm: FrozenNorm { stats: &stats, bn: &before, act },
        },
    )
    .unwrap();
    same(&got, &want, "data gradient through a frozen batch norm");
}

fn adds_gradients(d: &Cuda, conv: &Conv2d, shape: Shape, inputs: &Inputs, what: &str) {
    let (dy, params) = (d.upload(conv.out_shape(shape), &inputs.dy), d.upload_vector(&inputs.params));
    let to = d.upload(shape, &inputs.x);
    let got = conv2d_dgrad(d, &Dgrad { dy: &dy, params: &params, conv, onto: Onto::Add(&to) }).unwrap().dx;
    let dx = conv2d_dgrad(d, &Dgrad::new(&dy, &params, conv, shape)).unwrap().dx;
    let want = d.download(&add(d, &dx, &to, 1.0).unwrap());
    let same = d.download(&got).iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
    assert!(same, "{what}: added gradient");
}

/// The backward pass of a batch norm whose output `conv` reads, with the sums that the data gradient left and with its own.
fn sums_gradients(
    d: &Cuda,
    dtype: Dtype,
    conv: &Conv2d,
    shape: Shape,
    inputs: &Inputs,
    (residual, add): (bool, bool),
    what: &str,
) {
    // Its parameters lie behind the convolution's.
    let (begin, c) = (inputs.params.len(), shape.c);
    let span = |offset: usize| Span { offset, len: c };
    let bn = BatchNorm {
        weight: span(begin),
        bias: span(begin + c),
        running_mean: span(0),
        running_var: span(c),
        channels: c,
        momentum: 0.3,
        eps: 1e-5,
    };
    let act = Activation::LeakyRelu(0.1);
    let affine = values(2 * c, 5, Dtype::F32);
    let params = d.upload_vector(&[&inputs.params[..], &affine].concat());
    let x = d.upload(shape, &values(shape.len(), 11, dtype));
    let other = d.upload(shape, &values(shape.len(), 13, dtype));
    let mut stats = d.zeros(2 * c);
    let (y, saved) = batch_norm_train(
        d,
        BatchNormTrain {
            x: &x,
            params: &params,
            stats: &mut stats,
            bn: &bn,
            act,
            residual: residual.then_some(&other),
            moments: None,
        },
    )
    .unwrap();
    let norm = NormPass { x: &x, y: &y, saved: &saved, bn: &bn, act, residual };

    let dy = d.upload(conv.out_shape(shape), &inputs.dy);
    let to = add.then_some(&other);
    let DgradOut { dx: dz, sums } =
        conv2d_dgrad(d, &Dgrad { dy: &dy, params: &params, conv, onto: Onto::Norm(norm, to) }).unwrap();
    let plain = match to {
        Some(to) => {
            conv2d_dgrad(d, &Dgrad { dy: &dy, params: &params, conv, onto: Onto::Add(to) }).unwrap().dx
        }
        None => conv2d_dgrad(d, &Dgrad::new(&dy, &params, conv, shape)).unwrap().dx,
    };
    let same = d.download(&dz).iter().zip(&d.download(&plain)).all(|(a, b)| a.to_bits() == b.to_bits());
    assert!(same, "{what}: gradient");
    // Rows that are no whole chunks are summed in a pass of their own.
    assert_eq!(sums.is_some(), c % 8 == 0, "{what}: sums");

    let mut grads = [d.zeros(begin + 2 * c), d.zeros(begin + 2 * c)];
    let [one, two] = &mut grads;
    let (got, got_res) = batch_norm_train_bwd(
        d,
        BatchNormTrainBwd { dy: &dz, norm, params: &params, grads: one, sums: sums.as_ref() },
    )
    .unwrap();
    let (want, want_res) =
        batch_norm_train_bwd(d, BatchNormTrainBwd { dy: &dz, norm, params: &params, grads: two, sums: None })
            .unwrap();
    let largest = |v: &[f32]| v.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let mut pairs = vec![("parameters", d.download_vector(one), d.download_vector(two), 1e-5)];
    let rounding = if dtype == Dtype::Bf16 { 1.0 / 128.0 } else { 1e-5 };
    pairs.push(("dx", d.download(&got), d.download(&want), rounding));
    if let (Some(got), Some(want)) = (got_res, want_res) {
        pairs.push(("residual", d.download(&got), d.download(&want), 0.0));
    }
    for (name, got, want, rounding) in pairs {
        let scale = largest(&want);
        assert!(scale > 0.0, "{what}: no {name}");
        for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
            let off = (got - want).abs();
            assert!(off <= rounding * want.abs() + 1e-5 * scale, "{what}: {name} {i} is {got}, not {want}");
        }
    }
}
