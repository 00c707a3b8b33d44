//! The register tiles of the convolutions and the packing of their right-hand sides. Knows matrices only.
//!
//! A tile is up to [`MR`] rows by [`NR`] columns of a product, held in registers while it runs over the inner
//! dimension: for f32 twelve AVX2 accumulators, two vectors of the right side, one broadcast of the left. The loops
//! are plain; their fixed bounds let the compiler unroll and vectorise them.

use super::Real;

/// Rows of a tile.
pub const MR: usize = 6;
/// Columns of a tile.
pub const NR: usize = 16;
/// Steps of the inner dimension between which a panel of the right side stays in the first-level cache.
pub const KC: usize = 256;

/// Sums of one tile.
pub type Tile<T> = [[T; NR]; MR];

/// `tile[i] += sum over k of a[i][k] b[k]` for rows `i` below `M`, each row of `a` as long as `b`.
#[inline(never)]
fn rows_times_panel<T: Real, const M: usize>(tile: &mut Tile<T>, a: &[&[T]; MR], b: &[[T; NR]]) {
    let a: [&[T]; M] = std::array::from_fn(|i| &a[i][..b.len()]);
    let mut sum: [[T; NR]; M] = std::array::from_fn(|i| tile[i]);
    for (k, b) in b.iter().enumerate() {
        for i in 0..M {
            let v = a[i][k];
            for j in 0..NR {
                sum[i][j] = v.mul_add(b[j], sum[i][j]);
            }
        }
    }
    tile[..M].copy_from_slice(&sum);
}

/// `tile[i] += sum over k of a[i][k] b[k]` for the first `m` rows; rows of `a` are as long as `b`.
#[inline]
pub fn accumulate<T: Real>(m: usize, tile: &mut Tile<T>, a: &[&[T]; MR], b: &[[T; NR]]) {
    match m {
        1 => rows_times_panel::<T, 1>(tile, a, b),
        2 => rows_times_panel::<T, 2>(tile, a, b),
        3 => rows_times_panel::<T, 3>(tile, a, b),
        4 => rows_times_panel::<T, 4>(tile, a, b),
        5 => rows_times_panel::<T, 5>(tile, a, b),
        _ => rows_times_panel::<T, 6>(tile, a, b),
    }
}

/// `tile[i] += sum over k of a[k][i] b[k]`.
#[inline(never)]
pub fn accumulate_outer<T: Real>(tile: &mut Tile<T>, a: &[[T; MR]], b: &[[T; NR]]) {
    let mut sum = *tile;
    for (a, b) in a.iter().zip(b) {
        for i in 0..MR {
            for j in 0..NR {
                sum[i][j] = a[i].mul_add(b[j], sum[i][j]);
            }
        }
    }
    *tile = sum;
}

/// Copies columns `from..from + N` (fewer at the end of `row`) of a row into one line of a panel, zeros beyond.
#[inline(always)]
pub fn pack_line<T: Real, const N: usize>(line: &mut [T; N], row: &[T], from: usize) {
    match row.get(from..from + N) {
        Some(full) => line.copy_from_slice(full),
        None => {
            let rest = &row[from..];
            line[..rest.len()].copy_from_slice(rest);
            line[rest.len()..].fill(T::ZERO);
        }
    }
}

/// Copies as many values as `to` has; lengths are a few channels, for which a call to the system's copy costs more.
#[inline(always)]
pub fn copy_short<T: Real>(to: &mut [T], from: &[T]) {
    let from = &from[..to.len()];
    let (to8, to_rest) = to.as_chunks_mut::<8>();
    let (from8, from_rest) = from.as_chunks::<8>();
    to8.iter_mut().zip(from8).for_each(|(t, f)| *t = *f);
    let (to4, to_rest) = to_rest.as_chunks_mut::<4>();
    let (from4, from_rest) = from_rest.as_chunks::<4>();
    to4.iter_mut().zip(from4).for_each(|(t, f)| *t = *f);
    to_rest.iter_mut().zip(from_rest).for_each(|(t, f)| *t = *f);
}

/// Packs the transpose of a row-major matrix with up to [`NR`] rows: `panel[k][j] = row(j)[k]`, zero from row `n` on.
pub fn pack_transposed<'a, T: Real>(panel: &mut [[T; NR]], n: usize, row: impl Fn(usize) -> &'a [T]) {
    if n < NR {
        panel.as_flattened_mut().fill(T::ZERO);
    }
    // One cache line of each row at a time: rows are often powers of two apart and would evict one another.
    for (block, lines) in panel.chunks_mut(16).enumerate() {
        for j in 0..n {
            let part = &row(j)[block * 16..][..lines.len()];
            if let (Ok(part), Ok(lines)) =
                (<&[T; 16]>::try_from(part), <&mut [[T; NR]; 16]>::try_from(&mut *lines))
            {
                for k in 0..16 {
                    lines[k][j] = part[k];
                }
            } else {
                for (line, &v) in lines.iter_mut().zip(part) {
                    line[j] = v;
                }
            }
        }
    }
}
