//! The two element types of the CPU device.

use super::memory::Pool;
use std::fmt::{Debug, Display};
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};
use std::sync::Mutex;

/// f32 or f64.
pub trait Real:
    Copy
    + Default
    + Send
    + Sync
    + 'static
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
    /// Exact.
    fn from_f32(v: f32) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// e^self.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// self * a + b, fused where the machine does it in one instruction.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// The larger of two (the other one where one is NaN).
    fn max(self, other: Self) -> Self;
    /// Recycled memory of this type.
    fn pool() -> &'static Mutex<Pool<Self>>;
}

macro_rules! real {
    ($t:ty) => {
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
            fn pool() -> &'static Mutex<Pool<Self>> {
                static POOL: Mutex<Pool<$t>> = Mutex::new(Pool::new());
                &POOL
            }
        }
    };
}

real!(f32);
real!(f64);
