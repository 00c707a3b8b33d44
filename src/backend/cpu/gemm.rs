//! Matrix products, all by the `gemm` crate, behind one checked call; and the copies that prepare operands. Knows
//! matrices only.
//!
//! A product runs on the calling thread: callers cut their work into tasks by its size alone, so that results do not
//! depend on the number of threads.

use super::Real;
use super::memory::Buffer;
use super::parallel::{Disjoint, tasks};
use gemm::Parallelism;

/// Side of the blocks in which matrices are turned over.
pub const LINE: usize = 16;

/// A view of `rows` by `columns` elements, element (i, j) at `i * row_step + j * column_step`.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Rows of `columns` elements, `step` apart.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a [T], rows: usize, columns: usize, step: usize) -> Matrix<'a, T> {
        if rows > 0 && columns > 0 {
            assert!((rows - 1) * step + columns <= data.len(), "the matrix ends within its data");
        }
        Matrix { data, rows, columns, row_step: step, column_step: 1 }
    }

    /// Number of its columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Its transpose.
    pub fn turned(self) -> Matrix<'a, T> {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_step: self.column_step,
            column_step: self.row_step,
            ..self
        }
    }
}

/// Writes `a * b` to the elements `at + i * step + j` of `out`, or adds it where `add`.
///
/// # Safety
/// While this runs no reference to those elements may be in use on any thread.
pub unsafe fn product<T: Real>(
    out: &Disjoint<'_, T>,
    at: usize,
    step: usize,
    add: bool,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
) {
    let (rows, columns, inner) = (a.rows, b.columns, a.columns);
    assert_eq!(inner, b.rows, "inner dimensions agree");
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(columns <= step || rows == 1, "rows of the product do not overlap");
    let to = out.pointer(at..at + (rows - 1) * step + columns);
    let one = if add { T::ONE } else { T::ZERO };
    let steps = |m: &Matrix<'_, T>| (m.column_step as isize, m.row_step as isize);
    let ((a_column, a_row), (b_column, b_row)) = (steps(&a), steps(&b));
    // SAFETY: all elements of `a` and `b` lie in their slices by the check in `Matrix::new`, those of `out` in its
    // slice by the check in `pointer`; the caller promises that nobody else uses the latter.
    unsafe {
        gemm::gemm::<T>(
            rows,
            columns,
            inner,
            to,
            1,
            step as isize,
            add,
            a.data.as_ptr(),
            a_column,
            a_row,
            b.data.as_ptr(),
            b_column,
            b_row,
            one,
            T::ONE,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// [`product`] with an output of one's own.
pub fn product_into<T: Real>(out: &mut [T], step: usize, add: bool, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    // SAFETY: `out` is borrowed mutably until the product is done.
    unsafe { product(&Disjoint::new(out), 0, step, add, a, b) }
}

/// Copies as many values as `to` has; lengths are a few channels, for which a call to the system's copy costs more.
#[inline(always)]
pub fn copy_short<T: Real>(to: &mut [T], from: &[T]) {
    let from = &from[..to.len()];
    if to.len() > 64 {
        to.copy_from_slice(from);
        return;
    }
    let (to8, to_rest) = to.as_chunks_mut::<8>();
    let (from8, from_rest) = from.as_chunks::<8>();
    to8.iter_mut().zip(from8).for_each(|(t, f)| *t = *f);
    let (to4, to_rest) = to_rest.as_chunks_mut::<4>();
    let (from4, from_rest) = from_rest.as_chunks::<4>();
    to4.iter_mut().zip(from4).for_each(|(t, f)| *t = *f);
    to_rest.iter_mut().zip(from_rest).for_each(|(t, f)| *t = *f);
}

/// Turns up to [`LINE`] rows over: `lines[k][j] = row(j)[k]` for `j` below `n`; the rest of each line is unspecified.
pub fn turn_rows<'a, T: Real>(lines: &mut [[T; LINE]], n: usize, row: impl Fn(usize) -> &'a [T]) {
    // One cache line of each row at a time: rows are often powers of two apart and would evict one another.
    for (block, lines) in lines.chunks_mut(LINE).enumerate() {
        for j in 0..n {
            let part = &row(j)[block * LINE..][..lines.len()];
            for (line, &v) in lines.iter_mut().zip(part) {
                line[j] = v;
            }
        }
    }
}

/// The transpose of `rows` by `inner` values: `[inner][rows]`. Only the lines of `used` are written.
pub fn transpose<T: Real>(
    from: &[T],
    rows: usize,
    inner: usize,
    used: &[std::ops::Range<usize>],
) -> Buffer<T> {
    let mut to = Buffer::stale(rows * inner);
    let blocks: Vec<_> =
        used.iter().flat_map(|r| r.clone().step_by(LINE).map(|k| (k, LINE.min(r.end - k)))).collect();
    let shared = Disjoint::new(&mut to);
    let group = 8;
    tasks(blocks.len().div_ceil(group), rows * inner, |task| {
        for j in (0..rows).step_by(LINE) {
            let n = LINE.min(rows - j);
            for &(k, len) in blocks.iter().skip(task * group).take(group) {
                let mut lines = [[T::ZERO; LINE]; LINE];
                turn_rows(&mut lines[..len], n, |i| &from[(j + i) * inner + k..]);
                for (i, line) in lines[..len].iter().enumerate() {
                    let at = (k + i) * rows + j;
                    // SAFETY: each line is one task's, one part of it is out at a time.
                    unsafe { shared.part(at..at + n) }.copy_from_slice(&line[..n]);
                }
            }
        }
    });
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_transposes_agree_with_the_definition() {
        for (rows, inner, columns) in [(1, 1, 1), (5, 3, 7), (33, 20, 17), (4, 0, 3)] {
            let a: Vec<f64> = (0..rows * inner).map(|i| (i % 7) as f64).collect();
            let b: Vec<f64> = (0..inner * columns).map(|i| (i % 5) as f64 - 1.0).collect();
            let (left, right) =
                (Matrix::new(&a, rows, inner, inner), Matrix::new(&b, inner, columns, columns));
            let b_turned = transpose(&b, inner, columns, std::slice::from_ref(&(0..columns)));
            let mut got = vec![f64::NAN; rows * columns];
            product_into(&mut got, columns, false, left, right);
            product_into(
                &mut got,
                columns,
                true,
                left,
                Matrix::new(&b_turned, columns, inner, inner).turned(),
            );
            for i in 0..rows {
                for j in 0..columns {
                    let sum: f64 = (0..inner).map(|k| a[i * inner + k] * b[k * columns + j]).sum();
                    assert_eq!(got[i * columns + j], 2.0 * sum);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "within its data")]
    fn matrices_do_not_reach_beyond_their_data() {
        let _ = Matrix::new(&[0f32; 9], 2, 5, 5);
    }
}
