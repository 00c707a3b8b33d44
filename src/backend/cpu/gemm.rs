//! Matrix products by the `gemm` crate, with one bounds-checked function around its unsafe call.
//!
//! A product runs on the calling thread: callers cut their work into tasks by its size alone, so that results
//! do not depend on the number of threads.

use super::Real;
use super::parallel::Disjoint;
use gemm::Parallelism;

/// A strided view of `rows` by `columns` elements, element (i, j) at `i * row_step + j * column_step`.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A view of rows of `columns` elements each, which begin `step` elements apart.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a [T], rows: usize, columns: usize, step: usize) -> Matrix<'a, T> {
        Matrix::strided(data, (rows, columns), (step, 1))
    }

    /// A view of `size` rows and columns; from row to row and from column to column it is `steps` elements.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn strided(data: &'a [T], size: (usize, usize), steps: (usize, usize)) -> Matrix<'a, T> {
        if size.0 > 0 && size.1 > 0 {
            let last = (size.0 - 1) * steps.0 + (size.1 - 1) * steps.1;
            assert!(last < data.len(), "the matrix ends within its data");
        }
        Matrix { data, rows: size.0, columns: size.1, row_step: steps.0, column_step: steps.1 }
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn transposed(self) -> Matrix<'a, T> {
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
    // SAFETY: all elements of `a` and `b` lie in their slices by the check in `Matrix::new`, those of `out`
    // in its slice by the check in `pointer`; the caller promises that no other reference to the latter is in
    // use.
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

/// [`product`] into a slice that no other task writes.
pub fn product_into<T: Real>(out: &mut [T], step: usize, add: bool, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    // SAFETY: `out` is borrowed mutably until the product is done.
    unsafe { product(&Disjoint::new(out), 0, step, add, a, b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_agree_with_the_definition() {
        for (rows, inner, columns) in [(1, 1, 1), (5, 3, 7), (33, 20, 17), (4, 0, 3)] {
            let a: Vec<f64> = (0..rows * inner).map(|i| (i % 7) as f64).collect();
            let b: Vec<f64> = (0..inner * columns).map(|i| (i % 5) as f64 - 1.0).collect();
            let (left, right) =
                (Matrix::new(&a, rows, inner, inner), Matrix::new(&b, inner, columns, columns));
            let transposed: Vec<f64> =
                (0..inner * columns).map(|i| b[i % inner * columns + i / inner]).collect();
            let mut got = vec![f64::NAN; rows * columns];
            product_into(&mut got, columns, false, left, right);
            product_into(
                &mut got,
                columns,
                true,
                left,
                Matrix::new(&transposed, columns, inner, inner).transposed(),
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
