//! Times the distinct convolutions of DeepLabv3+ on ResNet-50: forward, data gradient, weight gradient.
//!
//!     cargo bench --bench layers -- [CROP] [BATCH] [FILTER]
//!
//! Each result is first compared with plain loops at a few elements. GFLOP/s count the multiply-adds of the definition,
//! padding included, so maps smaller than a dilation may exceed the ceiling. The ceiling is that of the `gemm` crate on
//! all threads, measured in the same run before every layer.

use psmt_fast::backend::cpu::{Cpu, Tensor};
use psmt_fast::ops::*;
use psmt_fast::rng::{Domain, Key};
use rayon::prelude::*;
use std::time::Instant;

/// Name, occurrences in a forward pass, stride of the input map, in, out, kernel, stride, dilation.
type Layer = (&'static str, usize, usize, usize, usize, usize, usize, usize);

/// Every distinct convolution.
const LAYERS: &[Layer] = &[
    ("stem.0", 1, 1, 3, 64, 3, 2, 1),
    ("stem.3", 1, 2, 64, 64, 3, 1, 1),
    ("stem.6", 1, 2, 64, 128, 3, 1, 1),
    ("layer1.0.conv1", 1, 4, 128, 64, 1, 1, 1),
    ("layer1.conv1", 2, 4, 256, 64, 1, 1, 1),
    ("layer1.conv2", 3, 4, 64, 64, 3, 1, 1),
    ("layer1.conv3", 3, 4, 64, 256, 1, 1, 1),
    ("layer1.0.downsample", 1, 4, 128, 256, 1, 1, 1),
    ("layer2.0.conv1", 1, 4, 256, 128, 1, 1, 1),
    ("layer2.0.conv2", 1, 4, 128, 128, 3, 2, 1),
    ("layer2.0.downsample", 1, 4, 256, 512, 1, 2, 1),
    ("layer2.conv1", 3, 8, 512, 128, 1, 1, 1),
    ("layer2.conv2", 3, 8, 128, 128, 3, 1, 1),
    ("layer2.conv3", 4, 8, 128, 512, 1, 1, 1),
    ("layer3.0.conv1", 1, 8, 512, 256, 1, 1, 1),
    ("layer3.0.conv2", 1, 8, 256, 256, 3, 2, 1),
    ("layer3.0.downsample", 1, 8, 512, 1024, 1, 2, 1),
    ("layer3.conv1", 5, 16, 1024, 256, 1, 1, 1),
    ("layer3.conv2", 5, 16, 256, 256, 3, 1, 1),
    ("layer3.conv3", 6, 16, 256, 1024, 1, 1, 1),
    ("layer4.0.conv1", 1, 16, 1024, 512, 1, 1, 1),
    ("layer4.0.conv2", 1, 16, 512, 512, 3, 1, 2),
    ("layer4.1.conv2", 1, 16, 512, 512, 3, 1, 4),
    ("layer4.2.conv2", 1, 16, 512, 512, 3, 1, 8),
    ("layer4.conv3", 3, 16, 512, 2048, 1, 1, 1),
    ("layer4.0.downsample", 1, 16, 1024, 2048, 1, 1, 1),
    ("layer4.conv1", 2, 16, 2048, 512, 1, 1, 1),
    ("aspp.0", 1, 16, 2048, 256, 1, 1, 1),
    ("aspp.1", 1, 16, 2048, 256, 3, 1, 6),
    ("aspp.2", 1, 16, 2048, 256, 3, 1, 12),
    ("aspp.3", 1, 16, 2048, 256, 3, 1, 18),
    ("aspp.red_conv", 1, 16, 1024, 256, 1, 1, 1),
    ("reduce", 1, 4, 256, 48, 1, 1, 1),
    ("decoder.0", 1, 4, 304, 256, 3, 1, 1),
    ("decoder.3", 1, 4, 256, 256, 3, 1, 1),
    ("classifier", 1, 4, 256, 21, 1, 1, 1),
];

fn random(len: usize, seed: u64) -> Vec<f32> {
    let key = Key::new(seed, Domain::Bench, 0);
    (0..len).map(|i| key.uniform(i as u64) - 0.5).collect()
}

/// Best seconds of several runs.
fn best(mut f: impl FnMut()) -> f64 {
    let (mut least, begin) = (f64::MAX, Instant::now());
    for i in 0.. {
        let t = Instant::now();
        f();
        least = least.min(t.elapsed().as_secs_f64());
        if i >= 4 && begin.elapsed().as_secs_f64() > 0.2 {
            break;
        }
    }
    least
}

/// GFLOP/s of the `gemm` crate, one product of 384 a thread at once.
fn ceiling() -> f64 {
    const N: usize = 384;
    let threads = rayon::current_num_threads();
    let (a, b) = (random(N * N, 1), random(N * N, 2));
    let mut c = vec![vec![0f32; N * N]; threads];
    let seconds = best(|| {
        c.par_iter_mut().with_max_len(1).for_each(|c| {
            for _ in 0..8 {
                // SAFETY: three matrices of N by N, c column major and not shared.
                unsafe {
                    gemm::gemm(
                        N,
                        N,
                        N,
                        c.as_mut_ptr(),
                        N as isize,
                        1,
                        false,
                        a.as_ptr(),
                        N as isize,
                        1,
                        b.as_ptr(),
                        N as isize,
                        1,
                        0.0,
                        1.0,
                        false,
                        false,
                        false,
                        gemm::Parallelism::None,
                    );
                }
            }
        });
    });
    (threads * 8 * 2 * N * N * N) as f64 * 1e-9 / seconds
}

/// Compares `got` at a few elements with `want(element)`; exits on a difference.
fn check(what: &str, got: &[f32], want: impl Fn(usize) -> (f64, f64)) {
    for k in 0..37 {
        let i = k * 7919 % got.len();
        let (value, size) = want(i);
        let agrees = (f64::from(got[i]) - value).abs() <= 1e-5 * size + 1e-30;
        if !agrees {
            eprintln!("{what}: element {i} is {}, not {value}", got[i]);
            std::process::exit(1);
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let number = |i: usize, default: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (crop, batch) = (number(0, 128), number(1, 2));
    let filter = args.get(2).cloned().unwrap_or_default();
    let b = Cpu::<f32>::new();
    println!(
        "crop {crop}, batch {batch}, {} threads; GFLOP/s, ms, share of the ceiling",
        rayon::current_num_threads()
    );
    println!("{:22} {:>8} {:>27} {:>27} {:>27}", "layer", "ceiling", "fprop", "dgrad", "wgrad");
    let mut totals = [0f64; 3];
    let mut flops = 0f64;
    for &(name, count, map, cin, cout, kernel, stride, dilation) in
        LAYERS.iter().filter(|l| l.0.contains(&filter))
    {
        let len = cout * kernel * kernel * cin;
        let conv = Conv2d {
            weight: Span { offset: 0, len },
            bias: None,
            in_channels: cin,
            out_channels: cout,
            groups: 1,
            kernel,
            stride,
            padding: kernel / 2 * dilation,
            dilation,
        };
        let side = crop.div_ceil(map);
        let shape = Shape::new(batch, side, side, cin);
        let x = Tensor::new(shape, random(shape.len(), 1));
        let weight = random(len, 2);
        let dy = Tensor::new(conv.out_shape(shape), random(conv.out_shape(shape).len(), 3));
        let mut grads = vec![0f32; len];
        verify(&b, name, &x, &weight, &dy, &conv);
        let top = ceiling();
        let seconds = [
            best(|| drop(b.conv2d_fprop(&x, &weight, &conv))),
            best(|| drop(b.conv2d_dgrad(&dy, &weight, &conv, shape))),
            best(|| b.conv2d_wgrad(&x, &dy, &mut grads, &conv)),
        ];
        let work = conv.flops(shape) as f64 * 1e-9;
        flops += work * count as f64;
        print!("{name:22} {top:8.1}");
        for (total, s) in totals.iter_mut().zip(seconds) {
            *total += s * count as f64;
            print!(" {:8.1} {:9.3} ms {:4.0} %", work / s, s * 1e3, work / s / top * 100.0);
        }
        println!();
    }
    let t = totals.map(|t| t * 1e3);
    println!("all occurrences: {:.1} ms fprop, {:.1} ms dgrad, {:.1} ms wgrad", t[0], t[1], t[2]);
    println!(
        "                 {:.1} GFLOP each, {:.1} GFLOP/s over the three",
        flops,
        3e3 * flops / t.iter().sum::<f64>()
    );
}

/// All three directions against the definition at a few elements.
fn verify(b: &Cpu<f32>, name: &str, x: &Tensor<f32>, weight: &Vec<f32>, dy: &Tensor<f32>, conv: &Conv2d) {
    let (s, o, k) = (x.shape(), dy.shape(), conv.kernel);
    // Every (output row, input row, tap) that the definition joins, over one axis.
    let joins = |out: usize, tap: usize, len: usize| {
        (out * conv.stride + tap * conv.dilation).checked_sub(conv.padding).filter(|&v| v < len)
    };
    let join = |p: usize, tap: usize| {
        let (n, oy, ox) = (p / (o.h * o.w), p / o.w % o.h, p % o.w);
        let (iy, ix) = (joins(oy, tap / k, s.h)?, joins(ox, tap % k, s.w)?);
        Some((n * s.h + iy) * s.w + ix)
    };
    let total =
        |terms: &mut dyn Iterator<Item = f64>| terms.fold((0.0, 0.0), |(v, a), t| (v + t, a + t.abs()));
    let w = |out: usize, tap: usize, c: usize| f64::from(weight[(out * k * k + tap) * s.c + c]);
    let (xv, dv) = (
        |q: usize, c: usize| f64::from(x.data()[q * s.c + c]),
        |p: usize, c: usize| f64::from(dy.data()[p * o.c + c]),
    );
    check(&format!("{name} fprop"), b.conv2d_fprop(x, weight, conv).data(), |i| {
        let (p, out) = (i / o.c, i % o.c);
        let reads = (0..k * k).filter_map(|t| join(p, t).map(|q| (t, q)));
        total(
            &mut reads
                .flat_map(|(t, q)| (0..s.c).map(move |c| (t, q, c)))
                .map(|(t, q, c)| xv(q, c) * w(out, t, c)),
        )
    });
    check(&format!("{name} dgrad"), b.conv2d_dgrad(dy, weight, conv, s).data(), |i| {
        let (q, c) = (i / s.c, i % s.c);
        let image = q / (s.h * s.w) * o.h * o.w;
        let reads = (image..image + o.h * o.w).flat_map(|p| (0..k * k).map(move |t| (p, t)));
        let reads = reads.filter(|&(p, t)| join(p, t) == Some(q));
        total(
            &mut reads
                .flat_map(|(p, t)| (0..o.c).map(move |out| (p, t, out)))
                .map(|(p, t, out)| dv(p, out) * w(out, t, c)),
        )
    });
    let mut grads = vec![0f32; weight.len()];
    b.conv2d_wgrad(x, dy, &mut grads, conv);
    check(&format!("{name} wgrad"), &grads, |i| {
        let (out, t, c) = (i / (k * k * s.c), i / s.c % (k * k), i % s.c);
        total(&mut (0..o.positions()).filter_map(|p| join(p, t).map(|q| dv(p, out) * xv(q, c))))
    });
}
