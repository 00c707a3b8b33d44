//! What kernels/common/device.cuh and device_sm90.cuh promise, proved on a device: the kernels of
//! kernels/selftest.cu and selftest_sm90.cu against plain loops and values that follow from the definitions
//! of the instructions (PTX ISA). Knows drivers; must not know ops, nor ask the emulator what an instruction
//! does.

mod blocks;
mod matrices;
mod numbers;
mod warpgroups;

use bytemuck::Pod;
use psmt_fast::Result;
use psmt_fast::backend::cuda::driver::{Args, DevicePtr, Driver, Kernel, Launch};
use std::cell::RefCell;

type Check = fn(&Device<'_>) -> Result<Outcome>;

/// Every check: what it proves, and how.
const CHECKS: [(&str, Check); 17] = [
    ("shared arrays, block barrier", blocks::shared_arrays),
    ("dynamic shared memory, shuffles of doubles", blocks::block_sums),
    ("shuffles and ballots", blocks::warp_operations),
    ("warp barrier", blocks::warp_barrier),
    ("integer atomics", blocks::atomics),
    ("thread and block indices", blocks::indices),
    ("asynchronous copies in a ring", blocks::copy_ring),
    ("asynchronous copies of 0 to 16 bytes", blocks::copy_bytes),
    ("groups of asynchronous copies", blocks::copy_groups),
    ("bits of floats, bf16 and back", numbers::conversions),
    ("exp2_approx", numbers::exp2),
    ("fmaf, sqrtf, rsqrtf, log2f", numbers::functions),
    ("ldmatrix, plain and transposed", matrices::ldmatrix),
    ("mma, small integers", matrices::integers),
    ("mma, places of elements", matrices::places),
    ("mma, exact products", matrices::products),
    ("mma, sums in float", matrices::sums),
];

/// Those of devices that have products of warpgroups.
const WARPGROUP_CHECKS: [(&str, Check); 5] = [
    ("bulk copies of boxes", warpgroups::tiled),
    ("bulk copies of pixels", warpgroups::im2col),
    ("mbarriers, barriers of warps", warpgroups::ring),
    ("clusters, copies to several blocks", warpgroups::cluster),
    ("products of warpgroups", warpgroups::products),
];

/// Result of one check.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    /// What it proves.
    pub name: &'static str,
    /// Whether all values are as they must be.
    pub ok: bool,
    /// Number of values compared.
    pub values: usize,
    /// Largest difference: absolute for integers and exact results, in units of the last place (ulp) for
    /// approximations, infinite where there is a number in one place only. JSON has null for the last.
    pub worst: f64,
    /// The worst place with both values where not ok, else empty.
    pub message: String,
}

/// Runs all checks on the device; `each` sees every row as soon as it is there.
///
/// # Errors
/// A fault of the device. A wrong value is a row, not an error.
pub fn run(driver: &dyn Driver, mut each: impl FnMut(&Row)) -> Result<Vec<Row>> {
    let more = if driver.has_wgmma() { &WARPGROUP_CHECKS[..] } else { &[] };
    let mut rows = Vec::with_capacity(CHECKS.len() + more.len());
    for (name, check) in CHECKS.iter().chain(more).copied() {
        let device = Device { driver, memory: RefCell::default() };
        let outcome = check(&device)?;
        driver.synchronize()?;
        let Outcome { ok, values, worst, message } = outcome;
        let row = Row { name, ok, values, worst, message };
        each(&row);
        rows.push(row);
    }
    Ok(rows)
}

/// What a check found so far.
struct Outcome {
    ok: bool,
    values: usize,
    worst: f64,
    message: String,
}

impl Outcome {
    fn new() -> Outcome {
        Outcome { ok: true, values: 0, worst: 0.0, message: String::new() }
    }

    /// Counts a value that is `difference` off, at most `bar` of which is right; NaN is never right.
    /// `describe` says which value it is.
    fn judge(&mut self, difference: f64, bar: f64, describe: impl FnOnce() -> String) {
        self.values += 1;
        let difference = if difference.is_nan() { f64::INFINITY } else { difference };
        let ok = difference <= bar;
        if !ok && (self.ok || difference > self.worst) {
            self.message = describe();
        }
        self.worst = self.worst.max(difference);
        self.ok &= ok;
    }

    /// Values that must be equal; `place` describes index i.
    fn equal<T: Number>(&mut self, got: &[T], want: &[T], place: impl Fn(usize) -> String) {
        for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
            let difference = if g == w { 0.0 } else { (g.wide() - w.wide()).abs() };
            // Unequal integers beyond 2^53 may round to the same double.
            let difference = if g != w && difference == 0.0 { 1.0 } else { difference };
            self.judge(difference, 0.0, || format!("{}: expected {w}, got {g}", place(i)));
        }
        if got.len() != want.len() {
            self.judge(f64::NAN, 0.0, || format!("expected {} values, got {}", want.len(), got.len()));
        }
    }
}

/// A value that can be compared and printed.
trait Number: Copy + PartialEq + std::fmt::Display {
    /// In double precision.
    fn wide(self) -> f64;
}

macro_rules! number {
    ($($t:ty),*) => { $(impl Number for $t {
        fn wide(self) -> f64 {
            self as f64
        }
    })* };
}
number!(u8, u16, u32, u64, f32, f64);

/// A device and the memory that a check has taken, which it gives back in the end.
struct Device<'a> {
    driver: &'a dyn Driver,
    memory: RefCell<Vec<(DevicePtr, usize)>>,
}

impl Device<'_> {
    /// Memory for `len` values that nothing has written.
    fn alloc<T>(&self, len: usize) -> Result<DevicePtr> {
        let bytes = len * size_of::<T>();
        let ptr = self.driver.alloc(bytes)?;
        self.memory.borrow_mut().push((ptr, bytes));
        Ok(ptr)
    }

    /// Memory with a copy of `data`.
    fn upload<T: Pod>(&self, data: &[T]) -> Result<DevicePtr> {
        let ptr = self.alloc::<T>(data.len())?;
        self.driver.upload(ptr, bytemuck::cast_slice(data))?;
        Ok(ptr)
    }

    /// The values there.
    fn download<T: Pod>(&self, from: DevicePtr, len: usize) -> Result<Vec<T>> {
        let mut data = vec![T::zeroed(); len];
        self.driver.download(from, bytemuck::cast_slice_mut(&mut data))?;
        Ok(data)
    }

    /// Runs a kernel of kernels/selftest.cu.
    fn launch(&self, name: &str, launch: Launch, args: Args) -> Result<()> {
        self.driver.launch(&Kernel { file: "selftest", name: name.into() }, launch, &args)
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        for (ptr, bytes) in self.memory.take() {
            self.driver.free(ptr, bytes);
        }
    }
}

/// Arguments from numbers and pointers.
macro_rules! args {
    ($($v:expr),* $(,)?) => {{
        let mut args = psmt_fast::backend::cuda::driver::Args::default();
        $(args.push($v);)*
        args
    }};
}
use args;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_value_is_named() {
        let mut outcome = Outcome::new();
        outcome.equal(&[1u32, 2, 3], &[1, 2, 3], |i| format!("element {i}"));
        assert!(outcome.ok && outcome.values == 3 && outcome.worst == 0.0);
        outcome.equal(&[1u32, 7, 3], &[1, 2, 4], |i| format!("element {i}"));
        assert!(!outcome.ok && outcome.worst == 5.0);
        assert_eq!(outcome.message, "element 1: expected 2, got 7");
        let mut outcome = Outcome::new();
        outcome.equal(&[u64::MAX], &[u64::MAX - 1], |i| format!("element {i}"));
        assert!(!outcome.ok && outcome.worst == 1.0);
        let mut outcome = Outcome::new();
        outcome.equal(&[f32::NAN, 1.0], &[1.0, 1.0], |i| format!("element {i}"));
        assert!(!outcome.ok && outcome.worst == f64::INFINITY && outcome.message.contains("element 0"));
        let mut outcome = Outcome::new();
        outcome.equal(&[0u8; 2], &[0u8; 3], |i| format!("element {i}"));
        assert!(!outcome.ok);
    }
}
