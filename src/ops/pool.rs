//! Max pooling and adaptive average pooling (as PyTorch's): validated entry points.

use super::{Backend, Device, MaxPool2d, Shape, Size, check};
use crate::{Error, Result};

/// The ops of this family that a device implements. It may assume what the functions of this module validate.
pub trait PoolOps: Device {
    /// As [`max_pool2d`].
    fn max_pool2d(&self, x: &Self::Tensor, pool: &MaxPool2d) -> Self::Tensor;
    /// As [`max_pool2d_bwd`].
    fn max_pool2d_bwd(&self, dy: &Self::Tensor, x: &Self::Tensor, pool: &MaxPool2d) -> Self::Tensor;
    /// As [`adaptive_avg_pool2d`].
    fn adaptive_avg_pool2d(&self, x: &Self::Tensor, size: Size) -> Self::Tensor;
    /// As [`adaptive_avg_pool2d_bwd`].
    fn adaptive_avg_pool2d_bwd(&self, dy: &Self::Tensor, x_size: Size) -> Self::Tensor;
}

fn valid(op: &'static str, x: Shape, pool: &MaxPool2d) -> Result<()> {
    check::not_empty(op, "x", x)?;
    if pool.kernel == 0 || pool.stride == 0 || pool.padding > pool.kernel / 2 {
        return Err(Error::shape(
            op,
            "kernel and stride of at least 1, padding of at most half the kernel",
            format!("{pool:?}"),
        ));
    }
    if pool.out_shape(x).is_empty() {
        return Err(Error::shape(
            op,
            format!("x that a window of {} fits into with padding {}", pool.kernel, pool.padding),
            x.to_string(),
        ));
    }
    Ok(())
}

/// Maximum of each window, padding with minus infinity; output as [`MaxPool2d::out_shape`].
///
/// # Errors
/// [`Error::Shape`] where the window does not fit.
pub fn max_pool2d<B: Backend>(b: &B, x: &B::Tensor, pool: &MaxPool2d) -> Result<B::Tensor> {
    valid("max_pool2d", B::shape(x), pool)?;
    Ok(b.max_pool2d(x, pool))
}

/// dx (overwrites): each window's gradient is added at its first maximum in row order.
///
/// # Errors
/// [`Error::Shape`] where dy is not the output's shape.
pub fn max_pool2d_bwd<B: Backend>(
    b: &B,
    dy: &B::Tensor,
    x: &B::Tensor,
    pool: &MaxPool2d,
) -> Result<B::Tensor> {
    const OP: &str = "max_pool2d_bwd";
    valid(OP, B::shape(x), pool)?;
    check::shape(OP, "dy", pool.out_shape(B::shape(x)), B::shape(dy))?;
    Ok(b.max_pool2d_bwd(dy, x, pool))
}

/// Mean over bins, bin i of `size` covering floor(i len / size) to ceil((i + 1) len / size): `[n, size, c]`.
///
/// # Errors
/// [`Error::Shape`] for an empty x or a size of 0.
pub fn adaptive_avg_pool2d<B: Backend>(b: &B, x: &B::Tensor, size: Size) -> Result<B::Tensor> {
    const OP: &str = "adaptive_avg_pool2d";
    check::not_empty(OP, "x", B::shape(x))?;
    check::size(OP, size)?;
    Ok(b.adaptive_avg_pool2d(x, size))
}

/// dx `[n, x_size, c]` (overwrites) of [`adaptive_avg_pool2d`] from an input of `x_size`.
///
/// # Errors
/// [`Error::Shape`] for an empty dy or an `x_size` of 0.
pub fn adaptive_avg_pool2d_bwd<B: Backend>(b: &B, dy: &B::Tensor, x_size: Size) -> Result<B::Tensor> {
    const OP: &str = "adaptive_avg_pool2d_bwd";
    check::not_empty(OP, "dy", B::shape(dy))?;
    check::size(OP, x_size)?;
    Ok(b.adaptive_avg_pool2d_bwd(dy, x_size))
}
