//! Times the distinct convolutions of DeepLabv3+ on ResNet-50 on the processor next to the `gemm` crate.
//!
//!     cargo bench --bench layers -- [CROP] [BATCH] [FILTER]
//!
//! As `psmt-fast bench layers --device cpu --model r50`, with another ceiling: that of the `gemm` crate on
//! all threads, measured in the same run before every layer. Each result is first compared with the
//! definition at a few elements. GFLOP/s count the multiply-adds of the definition, padding included, so maps
//! smaller than a dilation may exceed the ceiling.

use psmt_fast::backend::cpu::Cpu;
use psmt_fast::method::Tvat;
use psmt_fast::model::ModelConfig;
use psmt_lab::bench::{Sampling, Sizes, coarse, conv_text, known_calls, layers, sample, time_call};
use rayon::prelude::*;

const SAMPLING: Sampling = Sampling { samples: 5, warmup: 1, min_ms: 10.0 };

/// c = a b by the `gemm` crate on one thread; square matrices of side `n`, column major.
fn multiply(n: usize, c: &mut [f32], a: &[f32], b: &[f32]) {
    assert!([c.len(), a.len(), b.len()] == [n * n; 3]);
    // Of each matrix.
    let (column_stride, row_stride) = (n as isize, 1);
    let (read_c, scale_of_c, scale_of_product) = (false, 0.0, 1.0);
    let (conj_c, conj_a, conj_b) = (false, false, false);
    // SAFETY: the matrices have n * n values each, and c is borrowed alone.
    unsafe {
        gemm::gemm(
            n,
            n,
            n,
            c.as_mut_ptr(),
            column_stride,
            row_stride,
            read_c,
            a.as_ptr(),
            column_stride,
            row_stride,
            b.as_ptr(),
            column_stride,
            row_stride,
            scale_of_c,
            scale_of_product,
            conj_c,
            conj_a,
            conj_b,
            gemm::Parallelism::None,
        );
    }
}

/// GFLOP/s of the `gemm` crate, one product of 384 per thread at once.
fn ceiling() -> psmt_fast::Result<f64> {
    const N: usize = 384;
    let threads = rayon::current_num_threads();
    let (a, b) = (coarse(N * N, 1), coarse(N * N, 2));
    let mut c = vec![vec![0f32; N * N]; threads];
    let timing = sample(&Cpu::<f32>::new(), SAMPLING, |_| {
        c.par_iter_mut().with_max_len(1).for_each(|c| {
            for _ in 0..8 {
                multiply(N, c, &a, &b);
            }
        });
        Ok(())
    })?;
    Ok((threads * 8 * 2 * N * N * N) as f64 * 1e-6 / timing.min())
}

fn main() -> psmt_fast::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let number = |i: usize, default: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (crop, batch) = (number(0, 128), number(1, 2));
    let filter = args.get(2).cloned().unwrap_or_default();
    let b = Cpu::<f32>::new();
    let sizes = Sizes::new(ModelConfig::resnet50(21), crop, batch)?;
    println!(
        "crop {crop}, batch {batch}, {} threads; GFLOP/s, ms, share of the ceiling",
        rayon::current_num_threads()
    );
    println!("{:48} {:>8} {:>27} {:>27} {:>27}", "layer", "ceiling", "fprop", "dgrad", "wgrad");
    // Of a step: milliseconds of each direction, and operations.
    let (mut totals, mut work) = ([0f64; 3], 0f64);
    for layer in layers(&known_calls(&sizes, Tvat::Exact)?) {
        let name = conv_text(&layer.conv, layer.x);
        if !name.contains(&filter) {
            continue;
        }
        layer.check(&b, (1e-5, 0.0))?;
        let (top, flops) = (ceiling()?, layer.conv.flops(layer.x) as f64);
        print!("{name:48} {top:8.1}");
        for (direction, (total, count)) in totals.iter_mut().zip(layer.counts).enumerate() {
            let ms = time_call(&b, &layer.call(direction), SAMPLING, 1)?.min();
            let rate = 1e-6 * flops / ms;
            *total += ms * count as f64;
            work += 1e-9 * flops * count as f64;
            print!(" {rate:8.1} {ms:9.3} ms {:4.0} %", rate / top * 100.0);
        }
        println!();
    }
    let [fprop, dgrad, wgrad] = totals;
    println!("all of a step: {fprop:.1} ms fprop, {dgrad:.1} ms dgrad, {wgrad:.1} ms wgrad");
    println!("               {work:.1} GFLOP, {:.1} GFLOP/s", 1e3 * work / totals.iter().sum::<f64>());
    Ok(())
}
