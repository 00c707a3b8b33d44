//! The two element types of the CPU device.

use super::memory::Pooled;
use std::fmt::{Debug, Display};
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

/// An element type of the CPU device, f32 or f64.
pub trait Real:
    Pooled
    + Debug
    + Display
    + PartialOrd
    + bytemuck::Pod
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + std::iter::Sum
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Rounds to this type.
    fn from_f64(v: f64) -> Self;
    /// Converts without rounding.
    fn from_f32(v: f32) -> Self;
    /// Converts without rounding.
    fn to_f64(self) -> f64;
    /// e^self.
    fn exp(self) -> Self;
    /// e^self for the inner loops of softmax, self <= 0: in f32 a polynomial that compilers vectorise (within
    /// 2 ulp; below -87 it stays at e^-87, about 2e-38), in f64 the same as [`Real::exp`]. NaN stays NaN.
    fn exp_fast(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// self * a + b with one rounding.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// The larger of two (the other one where one is NaN).
    fn max(self, other: Self) -> Self;
    /// The smaller of two (the other one where one is NaN).
    fn min(self, other: Self) -> Self;
    /// `self` within lo to hi; NaN stays NaN.
    fn clamp(self, lo: Self, hi: Self) -> Self;
    /// The largest integer that is not above `self`.
    fn floor(self) -> Self;
}

/// e^x for x <= 0 as 2^n e^r with n = round(x / ln 2) and a polynomial of degree 6 for e^r, |r| <= ln 2 / 2
/// (a weighted least-squares fit; its error of 2e-9 is below f32 rounding).
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it leaves the rounded integer in the low bits of the sum.
    const SHIFT: f32 = 12_582_912.0;
    /// ln 2 as a sum of two f32.
    const LN2: (f32, f32) = (std::f32::consts::LN_2, -1.904_654_3e-9);
    // Not `max`, which would turn NaN into the bound.
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    let r = n.mul_add(-LN2.1, n.mul_add(-LN2.0, x));
    let mut p = 0.001_381_454f32;
    for c in [0.008_368_745, 0.041_668_39, 0.166_665_21, 0.499_999_94, 1.0, 1.0] {
        p = p.mul_add(r, c);
    }
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

macro_rules! real {
    ($t:ty, $exp_fast:expr) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            #[inline(always)]
            fn from_f64(v: f64) -> Self {
                v as $t
            }
            #[inline(always)]
            fn from_f32(v: f32) -> Self {
                <$t>::from(v)
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                self.exp()
            }
            #[inline(always)]
            fn exp_fast(self) -> Self {
                $exp_fast(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                self.ln()
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            #[inline(always)]
            fn mul_add(self, a: Self, b: Self) -> Self {
                self.mul_add(a, b)
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                <$t>::max(self, other)
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                <$t>::min(self, other)
            }
            #[inline(always)]
            fn clamp(self, lo: Self, hi: Self) -> Self {
                <$t>::clamp(self, lo, hi)
            }
            #[inline(always)]
            fn floor(self) -> Self {
                <$t>::floor(self)
            }
        }
    };
}

real!(f32, exp_f32);
real!(f64, f64::exp);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_exp_is_within_two_ulp() {
        for i in 0..=870_000 {
            let x = -(i as f32) * 1e-4;
            let want = f64::from(x).exp();
            let error = (f64::from(x.exp_fast()) - want).abs() / want;
            assert!(error < 2.4e-7, "e^{x}: relative error {error}");
        }
        assert_eq!(0f32.exp_fast(), 1.0);
        assert!((-1e30f32).exp_fast() < 2e-38 && f32::NEG_INFINITY.exp_fast() < 2e-38);
        assert!(f32::NAN.exp_fast().is_nan() && f64::NAN.exp_fast().is_nan());
    }
}
