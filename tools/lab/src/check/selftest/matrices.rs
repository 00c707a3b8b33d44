//! ldmatrix and mma. Matrices are chosen so that results are exact in whatever order and width the hardware
//! adds: the PTX ISA promises sums in at least single precision and leaves their order open.

use super::{Device, Outcome, args};
use psmt_fast::Result;
use psmt_fast::backend::cuda::driver::Launch;

pub(super) fn ldmatrix(d: &Device<'_>) -> Result<Outcome> {
    let x: Vec<u16> = (0..256).map(|i| i * 251 + 7).collect();
    let (px, po) = (d.upload(&x)?, d.alloc::<u32>(256)?);
    d.launch("ldmatrix", Launch::new(1, 32), args![po, px])?;
    let at = |r: usize, c: usize| u32::from(x[r * 16 + c]);
    let mut want = vec![0; 256];
    for lane in 0..32 {
        for m in 0..4 {
            // Rows and columns of matrix m in the 16 by 16.
            let (r0, c0) = (m % 2 * 8, m / 2 * 8);
            let (r, c) = (lane / 4, lane % 4 * 2);
            want[lane * 4 + m] = at(r0 + r, c0 + c) | at(r0 + r, c0 + c + 1) << 16;
            want[128 + lane * 4 + m] = at(r0 + c, c0 + r) | at(r0 + c + 1, c0 + r) << 16;
        }
    }
    let mut outcome = Outcome::new();
    outcome.equal(&d.download::<u32>(po, 256)?, &want, |i| {
        let kind = if i < 128 { "plain" } else { "transposed" };
        format!("{kind}, lane {}, matrix {}", i % 128 / 4, i % 4)
    });
    Ok(outcome)
}

/// Judges c + a b, a [16, 16], b [16, 8], c [16, 8], against the same in double precision. All results must
/// be floats.
fn product(d: &Device<'_>, outcome: &mut Outcome, name: &str, a: &[f32], b: &[f32], c: &[f32]) -> Result<()> {
    // Exact: all operands are chosen among the bf16 numbers.
    let half = |v: &[f32]| v.iter().map(|v| (v.to_bits() >> 16) as u16).collect::<Vec<u16>>();
    let (pd, pc) = (d.alloc::<f32>(128)?, d.upload(c)?);
    d.launch("mma", Launch::new(1, 32), args![pd, d.upload(&half(a))?, d.upload(&half(b))?, pc])?;
    let mut want = vec![0.0; 128];
    for (i, want) in want.iter_mut().enumerate() {
        let (row, col) = (i / 8, i % 8);
        let term = |k: usize| f64::from(a[row * 16 + k]) * f64::from(b[k * 8 + col]);
        *want = ((0..16).map(term).sum::<f64>() + f64::from(c[i])) as f32;
    }
    outcome
        .equal(&d.download::<f32>(pd, 128)?, &want, |i| format!("{name}, row {}, column {}", i / 8, i % 8));
    Ok(())
}

pub(super) fn integers(d: &Device<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::new();
    let a: Vec<f32> = (0..256).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
    let b: Vec<f32> = (0..128).map(|i| (i * 5 % 13) as f32 - 6.0).collect();
    let c: Vec<f32> = (0..128).map(|i| i as f32).collect();
    product(d, &mut outcome, "integers", &a, &b, &c)?;
    product(d, &mut outcome, "ones", &[1.0; 256], &[1.0; 128], &[-3.0; 128])?;
    Ok(outcome)
}

/// Every element of a and b by itself: products with a matrix that picks them.
pub(super) fn places(d: &Device<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::new();
    let zero = [0.0; 128];
    // Different numbers that bf16 holds.
    let a: Vec<f32> = (0..256).map(|i| i as f32).collect();
    let b: Vec<f32> = (0..128).map(|i| 128.0 + i as f32).collect();
    for first in [0, 8] {
        let pick: Vec<f32> = (0..128).map(|i| f32::from(u8::from(i / 8 == first + i % 8))).collect();
        product(d, &mut outcome, &format!("columns of a from {first} on"), &a, &pick, &zero)?;
    }
    let identity: Vec<f32> = (0..256).map(|i| f32::from(u8::from(i / 16 == i % 16))).collect();
    product(d, &mut outcome, "rows of b", &identity, &b, &zero)?;
    Ok(outcome)
}

/// A diagonal matrix: one product for each element of the result.
fn diagonal(value: impl Fn(usize) -> f32) -> Vec<f32> {
    (0..256).map(|i| if i / 16 == i % 16 { value(i % 16) } else { 0.0 }).collect()
}

pub(super) fn products(d: &Device<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::new();
    let zero = [0.0; 128];
    // All 8 bits of both factors: 16 bits of the product.
    let a = diagonal(|k| 1.0 + (8 * k + 7) as f32 / 128.0);
    let b: Vec<f32> = (0..128).map(|i| 1.0 + (127 - i) as f32 / 128.0).collect();
    product(d, &mut outcome, "full mantissas", &a, &b, &zero)?;
    // Up to near the ends of the exponent: 2^120 and 2^-120.
    for exponent in [60, -60] {
        let large = 2f32.powi(exponent);
        let b: Vec<f32> = b.iter().map(|v| v * large).collect();
        product(d, &mut outcome, "large and small exponents", &diagonal(|_| -large), &b, &zero)?;
    }
    // A subnormal factor counts (Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021): 2^-133 is
    // bf16's smallest.
    let b: Vec<f32> = (0..128).map(|i| f32::from_bits((i as u32 + 1) << 16)).collect();
    product(d, &mut outcome, "subnormal factors", &diagonal(|_| 2f32.powi(100)), &b, &zero)?;
    // Negative zeros add nothing.
    let c: Vec<f32> = (0..128).map(|i| i as f32 - 64.0).collect();
    product(d, &mut outcome, "negative zeros", &[-0.0; 256], &b, &c)?;
    product(d, &mut outcome, "negative zeros", &[2.0; 256], &[-0.0; 128], &c)?;
    Ok(outcome)
}

/// Sums that a narrower type than float would lose: 21 bits between the first term's highest and the others'
/// lowest, with one to spare for hardware that cuts instead of rounding.
pub(super) fn sums(d: &Device<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::new();
    let b: Vec<f32> = (0..128).map(|i| if i % 2 == 0 { 0.5 } else { -0.5 }).collect();
    let c: Vec<f32> = (0..128).map(|i| if i % 3 == 0 { 1_048_576.0 } else { -1_048_576.0 }).collect();
    product(d, &mut outcome, "small terms on a large sum", &[1.0; 256], &b, &c)?;
    // The large term is a product itself, in each place of the sum.
    for place in [0, 7, 8, 15] {
        let a: Vec<f32> = (0..256).map(|i| if i % 16 == place { 1024.0 } else { 1.0 }).collect();
        let b: Vec<f32> = (0..128).map(|i| if i / 8 == place { 1024.0 } else { 0.5 }).collect();
        product(d, &mut outcome, &format!("a large term in place {place}"), &a, &b, &[0.5; 128])?;
    }
    // Large terms that cancel and leave small ones of the same bits.
    let a: Vec<f32> = (0..256).map(|i| [4096.0, -4096.0, 1.0, 2.0][i % 4]).collect();
    product(d, &mut outcome, "cancelling terms", &a, &[3.0; 128], &[0.5; 128])?;
    Ok(outcome)
}
