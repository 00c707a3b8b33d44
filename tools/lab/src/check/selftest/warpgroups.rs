//! TMA, mbarriers, clusters and WGMMA: kernels/selftest_sm90.cu. Values are small
//! integers, so that every sum is exact.

use super::{Device, Outcome, args};
use psmt_fast::Result;
use psmt_fast::backend::cuda::driver::{Args, Kernel, Launch};
use psmt_fast::backend::cuda::tensor_map::{ROW, TensorMapSpec};

/// Values of a row of a box and of a chunk.
const BOX: usize = ROW as usize;
const CHUNK: usize = 8;
/// Bytes of a box of 64 rows, with what its start may have to be moved by.
const BOX_BYTES: usize = 2 * BOX * BOX;
const SLACK: usize = 1024;

impl Device<'_> {
    fn launch_sm90(&self, name: &str, launch: Launch, args: Args) -> Result<()> {
        self.driver.launch(&Kernel { file: "selftest_sm90", name: name.into() }, launch, &args)
    }
}

/// Where value `col` of row `row` of a box lies: chunks of a row are exchanged by the row's number.
fn place(row: usize, col: usize) -> usize {
    row * BOX + ((col / CHUNK) ^ (row % 8)) * CHUNK + col % CHUNK
}

/// A box as the kernel must find it: `value(row, col)` in its place.
fn boxed(rows: usize, value: impl Fn(usize, usize) -> u16) -> Vec<u16> {
    let mut out = vec![0; rows * BOX];
    for row in 0..rows {
        (0..BOX).for_each(|col| out[place(row, col)] = value(row, col));
    }
    out
}

/// Judges one copy.
fn copy(
    d: &Device<'_>,
    outcome: &mut Outcome,
    spec: &TensorMapSpec,
    form: u32,
    at: [i32; 4],
    offsets: [u32; 2],
    want: &[u16],
) -> Result<()> {
    let (rows, out) = (spec.rows(), d.alloc::<u16>(want.len())?);
    let [c0, c1, c2, c3] = at;
    let args =
        args![out, d.driver.tensor_map(spec)?, form, rows as u32, c0, c1, c2, c3, offsets[0], offsets[1]];
    d.launch_sm90("tma_box", Launch::new(1, 32).with_shared(rows * 2 * BOX + SLACK), args)?;
    outcome.equal(&d.download::<u16>(out, want.len())?, want, |i| {
        format!("box at {at:?} with offsets {offsets:?}, row {}, place {}", i / BOX, i % BOX)
    });
    Ok(())
}

/// Sizes of a tensor and of a box, innermost first, and where boxes begin.
type Boxes<'a> = (&'a [usize], &'a [usize], &'a [[i64; 3]]);

/// Boxes inside the tensor, over its edges, and beyond; and boxes that no tensor fills, as of convolutions
/// with few channels, outputs or positions: what is missing is zero, and counts at the mbarrier as what is
/// there does.
pub(super) fn tiled(d: &Device<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::new();
    let data: Vec<u16> = (0..72 * 21 * 5).map(|i| i as u16 + 1).collect();
    let base = d.upload(&data)?;
    let cases: [Boxes<'_>; 6] = [
        (&[72, 105], &[BOX, 16], &[[0, 0, 0], [8, 3, 0], [-3, 101, 0], [64, -9, 0], [40, 105, 0]]),
        (&[72, 21, 5], &[BOX, 3, 4], &[[0, 0, 0], [16, 19, 3], [-8, -2, -1]]),
        // Wider than the tensor, higher, and as high as those of the largest tiles.
        (&[48, 20], &[BOX, 16], &[[0, 0, 0], [0, 9, 0], [-8, 2, 0], [40, -1, 0]]),
        (&[48, 5], &[BOX, 16], &[[0, 0, 0], [0, -2, 0]]),
        (&[48, 100], &[BOX, 128], &[[0, 0, 0], [0, 60, 0]]),
        (&[48, 9, 17], &[BOX, 1, 256], &[[0, 0, 0], [0, 4, 0], [0, 8, 3]]),
    ];
    for (dims, extent, places) in cases {
        let len = |axis: usize| dims.get(axis).map_or(1, |&len| len as i64);
        let strides = [dims[0], dims[0] * dims[1]];
        let spec = TensorMapSpec::tiled(base, dims, &strides[..dims.len() - 1], extent);
        for &at in places {
            let value = |row: usize, col: usize| {
                let (y, z) = (row % extent[1], row / extent[1]);
                let [x, y, z] = [at[0] + col as i64, at[1] + y as i64, at[2] + z as i64];
                let inside = (0..len(0)).contains(&x) && (0..len(1)).contains(&y) && (0..len(2)).contains(&z);
                if inside { data[((z * len(1) + y) * len(0) + x) as usize] } else { 0 }
            };
            let start = [at[0] as i32, at[1] as i32, at[2] as i32, 0];
            let form = dims.len() as u32 - 2;
            copy(d, &mut outcome, &spec, form, start, [0; 2], &boxed(spec.rows(), value))?;
        }
    }
    Ok(outcome)
}

/// Columns of pixels as convolutions read them: padded, with steps, taps apart, from one image into the next
/// and beyond the last; also of fewer channels than a copy brings, and as long as those of convolutions'
/// tiles.
pub(super) fn im2col(d: &Device<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::new();
    let (n, h, w) = (3usize, 6usize, 7usize);
    let data: Vec<u16> = (0..n * h * w * 80).map(|i| i as u16 + 1).collect();
    let base = d.upload(&data)?;
    // Kernel, padding, dilation, step.
    let windows = [(3, 1, 1, 1), (3, 2, 2, 1), (3, 1, 1, 2), (1, 0, 1, 2), (3, 0, 1, 1)];
    // Channels and pixels a column.
    let sizes = [(80, 32), (80, 128), (48, 64), (48, 128)];
    for ((c, pixels), window) in sizes.into_iter().flat_map(|size| windows.map(|window| (size, window))) {
        let (kernel, padding, dilation, step) = window;
        let reach = (kernel - 1) * dilation;
        let out = |len: usize| (len + 2 * padding - reach - 1) / step + 1;
        let (out_h, out_w) = (out(h), out(w));
        let bounds = (-(padding as i32), [padding as i32 - reach as i32; 2], step);
        let spec = TensorMapSpec::im2col(base, [n, h, w, c], bounds, pixels);
        for (first, channel, tap) in
            [(0, 0, 0), (5, 16, 1), (out_h * out_w - 3, 32, 2), (n * out_h * out_w - 4, 0, 4)]
        {
            let (row, col) = (tap / 3 % kernel * dilation, tap % kernel * dilation);
            let rows = |i: usize, e: usize| {
                let p = first + i;
                let (image, y, x) = (p / (out_h * out_w), p / out_w % out_h, p % out_w);
                let (y, x) = ((y * step + row).wrapping_sub(padding), (x * step + col).wrapping_sub(padding));
                let inside = image < n && y < h && x < w && channel + e < c;
                if inside { data[((image * h + y) * w + x) * c + channel + e] } else { 0 }
            };
            let start = |i: usize| (i * step) as i32 - padding as i32;
            let (image, y, x) = (first / (out_h * out_w), first / out_w % out_h, first % out_w);
            let at = [channel as i32, start(x), start(y), image as i32];
            copy(d, &mut outcome, &spec, 2, at, [col as u32, row as u32], &boxed(pixels, rows))?;
        }
    }
    Ok(outcome)
}

/// Several phases of two pairs of mbarriers.
pub(super) fn ring(d: &Device<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::new();
    for boxes in [1, 2, 3, 9] {
        let value = |i: usize| (i * 7 % 23) as f32 - 11.0;
        let data: Vec<u16> = (0..boxes * 8 * BOX).map(|i| half::bf16::from_f32(value(i)).to_bits()).collect();
        let spec = TensorMapSpec::tiled(d.upload(&data)?, &[BOX, boxes * 8], &[BOX], &[BOX, 8]);
        let out = d.alloc::<f32>(BOX)?;
        let args = args![out, d.driver.tensor_map(&spec)?, boxes as u32];
        d.launch_sm90("tma_ring", Launch::new(1, 96).with_shared(3 * SLACK), args)?;
        let want: Vec<f32> =
            (0..BOX).map(|col| (0..boxes * 8).map(|row| value(row * BOX + col)).sum()).collect();
        outcome.equal(&d.download::<f32>(out, BOX)?, &want, |i| format!("{boxes} boxes, column {i}"));
    }
    Ok(outcome)
}

/// Copies to both blocks of a cluster, and arrivals from either.
pub(super) fn cluster(d: &Device<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::new();
    for (boxes, blocks) in [(1, 2), (2, 2), (3, 4), (9, 264)] {
        let value = |i: usize| (i * 7 % 23) as f32 - 11.0;
        let data: Vec<u16> =
            (0..boxes * 16 * BOX).map(|i| half::bf16::from_f32(value(i)).to_bits()).collect();
        let spec = TensorMapSpec::tiled(d.upload(&data)?, &[BOX, boxes * 16], &[BOX], &[BOX, 8]);
        let out = d.alloc::<f32>(blocks * BOX)?;
        let args = args![out, d.driver.tensor_map(&spec)?, boxes as u32];
        d.launch_sm90("cluster_ring", Launch::new(blocks, 64).with_shared(3 * SLACK), args)?;
        let times = |row: usize| (row / 8 % 2 + 1) as f32;
        let sum = |col: usize| (0..boxes * 16).map(|row| times(row) * value(row * BOX + col)).sum();
        let want: Vec<f32> = (0..blocks * BOX).map(|i| sum(i % BOX)).collect();
        outcome.equal(&d.download::<f32>(out, blocks * BOX)?, &want, |i| {
            format!("{boxes} boxes, block {}, column {}", i / BOX, i % BOX)
        });
    }
    Ok(outcome)
}

/// Judges d = 2 a b of a [64, 64] and b [64, n].
fn product(
    d: &Device<'_>,
    outcome: &mut Outcome,
    (name, n, across): (&str, usize, [bool; 2]),
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Result<()> {
    let bits = |v: f32| half::bf16::from_f32(v).to_bits();
    // Rows along k, one for each m or n; or rows along m or n, one for each k.
    let factor = |len: usize, across: bool, value: &dyn Fn(usize, usize) -> f32| {
        let (rows, cols) = if across { (BOX, len) } else { (len, BOX) };
        let at = |row, col| if across { value(col, row) } else { value(row, col) };
        let data: Vec<u16> = (0..rows * cols).map(|i| bits(at(i / cols, i % cols))).collect();
        let spec = TensorMapSpec::tiled(d.upload(&data)?, &[cols, rows], &[cols], &[BOX, BOX]);
        d.driver.tensor_map(&spec)
    };
    let (a_map, b_map) = (factor(BOX, across[0], &a)?, factor(n, across[1], &|n, k| b(k, n))?);
    let out = d.alloc::<f32>(BOX * n)?;
    let shared = BOX_BYTES * (1 + n / BOX) + SLACK;
    d.launch_sm90(name, Launch::new(1, 128).with_shared(shared), args![out, a_map, b_map])?;
    let want: Vec<f32> =
        (0..BOX * n).map(|i| 2.0 * (0..BOX).map(|k| a(i / n, k) * b(k, i % n)).sum::<f32>()).collect();
    outcome.equal(&d.download::<f32>(out, BOX * n)?, &want, |i| {
        format!("{name}, row {}, column {}", i / n, i % n)
    });
    Ok(())
}

pub(super) fn products(d: &Device<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::new();
    let kinds = [
        ("wgmma_64", 64, [false, false]),
        ("wgmma_64_mn_major_b", 64, [false, true]),
        ("wgmma_64_mn_major", 64, [true, true]),
        ("wgmma_128", 128, [false, false]),
        ("wgmma_128_mn_major_b", 128, [false, true]),
        ("wgmma_128_mn_major", 128, [true, true]),
    ];
    for kind in kinds {
        let small = |i: usize, j: usize| ((i * 7 + j * 3) % 11) as f32 - 5.0;
        product(d, &mut outcome, kind, small, |k, n| ((k * 5 + n) % 13) as f32 - 6.0)?;
        // Every element of each factor by itself.
        let one = |i: usize, j: usize| f32::from(u8::from(i == j));
        product(d, &mut outcome, kind, |m, k| ((m * 64 + k) % 251) as f32, |k, n| one(k, n % 64))?;
        product(d, &mut outcome, kind, one, |k, n| ((k * 128 + n) % 241) as f32)?;
    }
    Ok(outcome)
}
