//! Barriers, shared memory, warp operations, atomics, indices and asynchronous copies: all exact.

use super::{Device, Outcome, args};
use psmt_fast::Result;
use psmt_fast::backend::cuda::driver::Launch;

const THREADS: usize = 256;

pub(super) fn shared_arrays(d: &Device<'_>) -> Result<Outcome> {
    let blocks = 5;
    let x: Vec<f32> = (0..blocks * THREADS).map(|i| i as f32).collect();
    let px = d.upload(&x)?;
    let (py, pm) = (d.alloc::<f32>(x.len())?, d.alloc::<f32>(x.len())?);
    d.launch("reverse", Launch::new(blocks, 256), args![py, pm, px])?;
    let want: Vec<f32> = (0..x.len()).map(|i| x[i / THREADS * THREADS + THREADS - 1 - i % THREADS]).collect();
    let negated: Vec<f32> = want.iter().map(|v| -v).collect();
    let mut outcome = Outcome::new();
    outcome.equal(&d.download(py, x.len())?, &want, |i| format!("reversed element {i}"));
    outcome.equal(&d.download(pm, x.len())?, &negated, |i| format!("negated element {i}"));
    Ok(outcome)
}

pub(super) fn block_sums(d: &Device<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::new();
    for (threads, len) in [(256, 1000), (32, 7), (64, 65)] {
        // Integers: every order of the sum gives the same.
        let x: Vec<f64> = (0..3 * len).map(|i| (i % 17) as f64 - 3.0).collect();
        let (px, ps) = (d.upload(&x)?, d.alloc::<f64>(3)?);
        let plan = Launch::new(3, threads).with_shared(threads as usize / 32 * 8);
        d.launch("block_sum", plan, args![ps, px, len as u32])?;
        let want: Vec<f64> = x.chunks(len).map(|c| c.iter().sum()).collect();
        outcome
            .equal(&d.download(ps, 3)?, &want, |i| format!("sum of {len} by {threads} threads, block {i}"));
    }
    Ok(outcome)
}

pub(super) fn warp_operations(d: &Device<'_>) -> Result<Outcome> {
    const NAMES: [&str; 12] = [
        "shfl of lane 5",
        "shfl_xor by 3, 64 bits",
        "shfl_down by 7",
        "ballot of multiples of 3",
        "shfl of 7 times the lane, 64 bits",
        "shfl_xor of floats by 16",
        "shfl_down by 9, 64 bits",
        "shfl_xor by 31",
        "shfl of a lane beyond the warp",
        "ballot of all",
        "ballot of none",
        "shfl_down of doubles by 1",
    ];
    let x: Vec<u32> = (0..32).map(|i| i * i * 77 + 5).collect();
    let (px, po) = (d.upload(&x)?, d.alloc::<u64>(NAMES.len() * 32)?);
    d.launch("warp_ops", Launch::new(1, 32), args![po, px])?;
    let (narrow, wide) = (|i: usize| u64::from(x[i]), |i: usize| u64::from(x[i]) << 32 | i as u64);
    // A lane keeps its own value where the other one is beyond the warp.
    let down = |i: usize, by: usize| if i + by < 32 { i + by } else { i };
    let votes = (0..32).fold(0u64, |v, i| v | u64::from(x[i].is_multiple_of(3)) << i);
    let mut want = vec![0; NAMES.len() * 32];
    for i in 0..32 {
        let column = [
            narrow(5),
            wide(i ^ 3),
            narrow(down(i, 7)),
            votes,
            wide(i * 7 % 32),
            narrow(i ^ 16),
            wide(down(i, 9)),
            narrow(i ^ 31),
            narrow((i * 5 + 40) % 32),
            0xffff_ffff,
            0,
            narrow(down(i, 1)),
        ];
        column.into_iter().enumerate().for_each(|(row, v)| want[row * 32 + i] = v);
    }
    let mut outcome = Outcome::new();
    outcome
        .equal(&d.download::<u64>(po, want.len())?, &want, |i| format!("{}, lane {}", NAMES[i / 32], i % 32));
    Ok(outcome)
}

pub(super) fn warp_barrier(d: &Device<'_>) -> Result<Outcome> {
    let x: Vec<u32> = (0..THREADS as u32).map(|i| i * 3 + 1).collect();
    let (px, py) = (d.upload(&x)?, d.alloc::<u32>(THREADS)?);
    d.launch("warp_exchange", Launch::new(1, 256), args![py, px])?;
    let mut v = x;
    for _ in 0..3 {
        v = (0..THREADS).map(|t| v[t] + v[t / 32 * 32 + (t + 1) % 32]).collect();
    }
    let mut outcome = Outcome::new();
    outcome.equal(&d.download::<u32>(py, THREADS)?, &v, |i| format!("thread {i}"));
    Ok(outcome)
}

pub(super) fn atomics(d: &Device<'_>) -> Result<Outcome> {
    let (len, bins) = (10_000, 7);
    let x: Vec<u32> = (0..len).map(|i: u32| i.wrapping_mul(2_654_435_761) % 1_000_003).collect();
    let (px, pc) = (d.upload(&x)?, d.upload(&[0u32; 7])?);
    let (ps, pm, pw) = (d.upload(&[0u64])?, d.upload(&[0u32])?, d.upload(&[0u64])?);
    let plan = Launch::new(x.len().div_ceil(256), 256);
    d.launch("atomics", plan, args![pc, ps, pm, pw, px, len, bins])?;
    let mut counts = [0u32; 7];
    x.iter().for_each(|v| counts[(v % bins) as usize] += 1);
    let sum: u64 = x.iter().map(|&v| u64::from(v)).sum();
    let largest = x.iter().copied().fold(0, u32::max);
    let widest = x.iter().map(|&v| u64::from(v % 16) << 32 | u64::from(v)).fold(0, u64::max);
    let mut outcome = Outcome::new();
    outcome.equal(&d.download::<u32>(pc, 7)?, &counts, |i| format!("atomic_add of 32 bits, bin {i}"));
    outcome.equal(&d.download::<u64>(ps, 1)?, &[sum], |_| "atomic_add of 64 bits".into());
    outcome.equal(&d.download::<u32>(pm, 1)?, &[largest], |_| "atomic_max of 32 bits".into());
    outcome.equal(&d.download::<u64>(pw, 1)?, &[widest], |_| "atomic_max of 64 bits".into());
    Ok(outcome)
}

pub(super) fn indices(d: &Device<'_>) -> Result<Outcome> {
    let plan = Launch { grid: [3, 2, 4], block: [5, 3, 2], shared: 0 };
    let len = 3 * 2 * 4 * 30;
    let po = d.alloc::<u32>(len)?;
    d.launch("indices", plan, args![po])?;
    let place = |i: usize| {
        let (b, t) = (i as u32 / 30, i as u32 % 30);
        let block = (b / 6) << 20 | (b / 3 % 2) << 16 | (b % 3) << 12;
        block | ((t / 15) << 8) | ((t / 5 % 3) << 4) | (t % 5)
    };
    let want: Vec<u32> = (0..len).map(place).collect();
    let mut outcome = Outcome::new();
    outcome.equal(&d.download::<u32>(po, len)?, &want, |i| format!("block {}, thread {}", i / 30, i % 30));
    Ok(outcome)
}

/// `len` pieces of 16 bytes.
fn pieces(len: usize) -> Vec<u8> {
    (0..len * 16).map(|i| (i * 31 % 251) as u8).collect()
}

pub(super) fn copy_ring(d: &Device<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::new();
    for (stages, tail) in [(1, 16), (2, 5), (7, 0), (12, 1)] {
        let x = pieces(stages * THREADS);
        let (px, py) = (d.upload(&x)?, d.alloc::<u8>(x.len())?);
        let plan = Launch::new(1, 256).with_shared(3 * THREADS * 16);
        d.launch("copy_pipeline", plan, args![py, px, stages as u32, tail])?;
        let source = |i: usize| {
            let (stage, piece, byte) = (i / (16 * THREADS), i / 16 % THREADS, i % 16);
            let from = THREADS - 1 - piece;
            let cut = from == THREADS - 1 && byte >= tail as usize;
            if cut { 0 } else { x[(stage * THREADS + from) * 16 + byte] }
        };
        let want: Vec<u8> = (0..x.len()).map(source).collect();
        outcome
            .equal(&d.download(py, x.len())?, &want, |i| format!("{stages} stages, tail {tail}, byte {i}"));
    }
    Ok(outcome)
}

pub(super) fn copy_bytes(d: &Device<'_>) -> Result<Outcome> {
    let x = pieces(THREADS);
    let (px, py) = (d.upload(&x)?, d.alloc::<u8>(x.len())?);
    d.launch("copy_bytes", Launch::new(1, 256), args![py, px])?;
    let want: Vec<u8> = (0..x.len()).map(|i| if i % 16 < i / 16 % 17 { x[i] } else { 0 }).collect();
    let mut outcome = Outcome::new();
    outcome.equal(&d.download(py, x.len())?, &want, |i| {
        format!("byte {} of a copy of {} bytes", i % 16, i / 16 % 17)
    });
    Ok(outcome)
}

pub(super) fn copy_groups(d: &Device<'_>) -> Result<Outcome> {
    let x = pieces(3 * THREADS);
    let (px, py) = (d.upload(&x)?, d.alloc::<u8>(x.len())?);
    d.launch("copy_groups", Launch::new(1, 256), args![py, px])?;
    let row = 16 * THREADS;
    let source = |i: usize| x[i / row * row + (THREADS - 1 - i / 16 % THREADS) * 16 + i % 16];
    let want: Vec<u8> = (0..x.len()).map(source).collect();
    let mut outcome = Outcome::new();
    outcome.equal(&d.download(py, x.len())?, &want, |i| format!("group {}, byte {}", i / row, i % row));
    Ok(outcome)
}
