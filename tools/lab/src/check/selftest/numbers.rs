//! Conversions between types, which are exact, and functions that hardware approximates.

use super::{Device, Outcome, args};
use psmt_fast::Result;
use psmt_fast::backend::cuda::driver::Launch;

/// Floats of every kind by their bits: around zero, one, the largest and the smallest, halfway between two
/// bf16 numbers and next to that, infinities, NaNs, and a sweep over all.
fn bits() -> Vec<u32> {
    let mut bits = vec![
        // Halfway between bf16 numbers: even below, odd below; one unit to either side.
        0x3f80_8000,
        0x3f81_8000,
        0x3f80_7fff,
        0x3f80_8001,
        0x3f81_7fff,
        0x3f81_8001,
        // Rounds to the next power of two; to infinity, and just not.
        0x3fff_8000,
        0x7f7f_8000,
        0x7f7f_7fff,
        0x7f7f_ffff,
        // Zero, the smallest subnormals, halfway to the smallest of bf16, the largest subnormal, the smallest
        // normal.
        0x0000_0000,
        0x0000_0001,
        0x0000_8000,
        0x0000_8001,
        0x0001_8000,
        0x007f_ffff,
        0x0080_0000,
        // Infinity; NaNs whose only bits are in the lower or in the upper half; all bits.
        0x7f80_0000,
        0x7f80_0001,
        0x7fa0_0000,
        0x7fc0_0000,
        0x7fff_ffff,
    ];
    bits.extend(bits.clone().into_iter().map(|v| v | 0x8000_0000));
    bits.extend((0..1 << 16).map(|i: u32| i.wrapping_mul(0x9e37_79b9)));
    bits
}

/// The bf16 number nearest to a float that is not NaN, found by the distances to both neighbours, the even
/// one where they are equal. Beyond the largest the next is 2^128, which is infinity.
fn nearest_bf16(bits: u32) -> u16 {
    let value = |half: u32| match half & 0x7fff {
        0x7f80 => 2f64.powi(128),
        magnitude => f64::from(f32::from_bits(magnitude << 16)),
    };
    let size = f64::from(f32::from_bits(bits & 0x7fff_ffff));
    let below = bits >> 16;
    if size.is_infinite() {
        return below as u16;
    }
    let (down, up) = (size - value(below), value(below + 1) - size);
    let even = if below.is_multiple_of(2) { below } else { below + 1 };
    (if down < up {
        below
    } else if up < down {
        below + 1
    } else {
        even
    }) as u16
}

pub(super) fn conversions(d: &Device<'_>) -> Result<Outcome> {
    let x = bits();
    let len = x.len();
    let (py, ph, pb) = (d.alloc::<u32>(len)?, d.alloc::<u16>(len)?, d.alloc::<u32>(len)?);
    let pp = d.alloc::<u32>(len)?;
    let launch = Launch::new(len.div_ceil(256), 256);
    d.launch("convert", launch, args![py, ph, pb, pp, d.upload(&x)?, len as u32])?;
    let (half, back) = (d.download::<u16>(ph, len)?, d.download::<u32>(pb, len)?);
    let mut outcome = Outcome::new();
    outcome.equal(&d.download::<u32>(py, len)?, &x, |i| format!("bits {:#010x} through a float", x[i]));
    for i in 0..len {
        let place = |_| format!("bits {:#010x} to bf16", x[i]);
        if f32::from_bits(x[i]).is_nan() {
            // The one that `cvt` gives for all.
            outcome.equal(&[half[i]], &[0x7fff], place);
        } else {
            outcome.equal(&[half[i]], &[nearest_bf16(x[i])], place);
        }
    }
    let widened: Vec<u32> = half.iter().map(|&h| u32::from(h) << 16).collect();
    let pairs: Vec<u32> =
        (0..len).map(|i| u32::from(half[i]) | u32::from(half[(i + 1) % len]) << 16).collect();
    outcome.equal(&d.download::<u32>(pp, len)?, &pairs, |i| format!("bits {:#010x} to bf16 in a pair", x[i]));
    outcome.equal(&back, &widened, |i| format!("bf16 {:#06x} to float", half[i]));
    Ok(outcome)
}

/// Distance of a float from a positive number, in spacings of floats there.
fn ulps(got: f32, want: f64) -> f64 {
    let exponent = want.log2().floor().clamp(-126.0, 127.0);
    (f64::from(got) - want).abs() / (exponent - 23.0).exp2()
}

/// 2^v by ex2.approx.ftz.f32 (PTX ISA): within 2 ulp, also for integers; 1 for zeros and subnormals; results
/// below the smallest normal number 0; 0 and infinity for the infinities, NaN for NaN.
pub(super) fn exp2(d: &Device<'_>) -> Result<Outcome> {
    let mut x: Vec<f32> = (-150..=130).map(|i| i as f32).collect();
    x.extend((0..=40_000).map(|i| -130.0 + i as f32 * (260.0 / 40_000.0)));
    x.extend((0..=4096).map(|i| i as f32 / 4096.0 - 0.5));
    // Just above and below the smallest result, and the largest.
    x.extend([-126.0, 128.0].map(f32::next_up));
    x.extend([-126.0, 128.0].map(f32::next_down));
    x.extend([0.0, -0.0, 1e-30, -1e-30, 1e-40, f32::MAX, f32::MIN]);
    x.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
    let (len, py) = (x.len(), d.alloc::<f32>(x.len())?);
    d.launch("exp2_sweep", Launch::new(len.div_ceil(256), 256), args![py, d.upload(&x)?, len as u32])?;
    let mut outcome = Outcome::new();
    for (&v, got) in x.iter().zip(d.download::<f32>(py, len)?) {
        let describe = || format!("2^{v}: got {got}");
        if v.is_nan() {
            outcome.judge(if got.is_nan() { 0.0 } else { f64::NAN }, 0.0, describe);
        } else if !(-126.0..128.0).contains(&v) {
            let want = if v < 0.0 { 0.0 } else { f32::INFINITY };
            outcome.judge(if got == want { 0.0 } else { f64::NAN }, 0.0, describe);
        } else {
            let bar = if v.abs() < f32::MIN_POSITIVE { 0.0 } else { 2.0 };
            outcome.judge(ulps(got, f64::from(v).exp2()), bar, describe);
        }
    }
    Ok(outcome)
}

/// fmaf and sqrtf round once; rsqrtf is within 2 ulp and log2f within 1 (CUDA C++ programming guide,
/// mathematical functions), of which half is the rounding of the comparison's own result.
pub(super) fn functions(d: &Device<'_>) -> Result<Outcome> {
    let scale = |i: u32| ((i * 37 % 61) as f32 - 30.0).exp2();
    let mantissa = |i: u32, step: u32| 1.0 + (i.wrapping_mul(step) % (1 << 23)) as f32 * f32::EPSILON;
    let a: Vec<f32> = (0..4096).map(|i| mantissa(i, 2_654_435_761) * scale(i)).collect();
    let b: Vec<f32> = (0..4096).map(|i| -mantissa(i, 40_503_001)).collect();
    // Close to -a b, so that the result is what rounding the product first would lose.
    let c: Vec<f32> = a.iter().zip(&b).map(|(a, b)| -(a * b)).collect();
    let len = a.len();
    let po = d.alloc::<f32>(4 * len)?;
    let args = args![po, d.upload(&a)?, d.upload(&b)?, d.upload(&c)?, len as u32];
    d.launch("functions", Launch::new(len.div_ceil(256), 256), args)?;
    let out = d.download::<f32>(po, 4 * len)?;
    let mut outcome = Outcome::new();
    // A product of two floats and its difference from a float nearby are exact in double precision.
    let exact = |i: usize| (f64::from(a[i]) * f64::from(b[i]) + f64::from(c[i])) as f32;
    let want: Vec<f32> = (0..len).map(exact).collect();
    outcome.equal(&out[..len], &want, |i| format!("fmaf({}, {}, {})", a[i], b[i], c[i]));
    let want: Vec<f32> = a.iter().map(|&v| f64::from(v).sqrt() as f32).collect();
    outcome.equal(&out[len..2 * len], &want, |i| format!("sqrtf({})", a[i]));
    for i in 0..len {
        let (v, inverse, log) = (a[i], out[2 * len + i], out[3 * len + i]);
        let describe = || format!("rsqrtf({v}): got {inverse}");
        outcome.judge(ulps(inverse, 1.0 / f64::from(v).sqrt()), 2.0, describe);
        let want = f64::from(v).log2();
        let off = if want == 0.0 { f64::from(log).abs() } else { ulps(log.abs(), want.abs()) };
        outcome.judge(off, 1.5, || format!("log2f({v}): got {log}, expected about {want}"));
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_by_distances_gives_the_known_values() {
        for (bits, want) in [
            (0x3f80_0000, 0x3f80),
            // Ties go to even, down and up.
            (0x3f80_8000, 0x3f80),
            (0x3f81_8000, 0x3f82),
            (0x3f80_8001, 0x3f81),
            (0x7f7f_ffff, 0x7f80),
            (0x7f7f_7fff, 0x7f7f),
            (0xbf81_8000, 0xbf82),
            (0x0000_8000, 0x0000),
            (0x8000_8001, 0x8001),
            (0xff80_0000, 0xff80),
        ] {
            assert_eq!(nearest_bf16(bits), want, "{bits:#010x}");
        }
    }

    #[test]
    fn ulps_count_spacings() {
        assert_eq!(ulps(1.0f32.next_up(), 1.0), 1.0);
        assert_eq!(ulps(3.0, 3.0), 0.0);
        assert_eq!(ulps(4.0f32.next_up().next_up(), 4.0), 2.0);
    }
}
