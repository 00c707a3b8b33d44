//! Launch plans of kernels/photometric.cu.

use super::Cuda;
use super::driver::Launch;
use super::memory::{Tensor, args, plain_arg};
use crate::ops::{Adjust, Blur, Box2d, Images, Normalize, PhotometricOps, Pixels, Shape, Size, Strong};
use bytemuck::{Pod, Zeroable};

impl PhotometricOps for Cuda {
    fn normalize_bytes(&self, images: &Images<Self>, normalize: &Normalize) -> Tensor {
        normalize_bytes(self, images, normalize)
    }
    fn photometric(&self, pixels: Pixels<'_, Self>, strong: &[Strong], normalize: &Normalize) -> Tensor {
        photometric(self, pixels, strong, normalize)
    }
}

const FILE: &str = "photometric";

/// Rows and columns of a block's tile: `TILE_ROWS` and `TILE_COLUMNS` of the kernel.
const TILE: Size = (16, 64);
/// Source rows in shared memory at a time: `GROUP` of the kernel.
const GROUP: usize = 4;
const THREADS: u32 = 256;
/// Pixels per part of an image, of which one block sums the grey, and most parts per image.
const PART: usize = 1 << 12;
const MAX_PARTS: usize = 256;
/// The size of the changes' buffer is a multiple of this many words.
const WORDS: usize = 1 << 10;

/// `Affine` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Affine {
    mean: [f32; 3],
    std: [f32; 3],
}
plain_arg!(Affine);

impl Affine {
    fn new(normalize: &Normalize) -> Affine {
        Affine { mean: normalize.mean, std: normalize.std }
    }
}

/// The drawn changes of one image, `Change` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Change {
    shown: [u32; 4],
    kinds: [u32; 4],
    factors: [f32; 4],
    count: u32,
    before_contrast: u32,
    gray: u32,
    radius: u32,
    taps: u32,
}

impl Change {
    /// Appends the taps of its blur to `taps`.
    fn new(strong: &Strong, shown: Box2d, taps: &mut Vec<f32>) -> Change {
        let mut change = Change {
            // Boxes lie within images of at most 2^30 rows and columns: validated.
            shown: shown.map(|v| v as u32),
            count: strong.jitter.len() as u32,
            gray: u32::from(strong.gray),
            taps: taps.len() as u32,
            ..Change::zeroed()
        };
        change.before_contrast = change.count;
        for (i, adjust) in strong.jitter.iter().enumerate() {
            (change.kinds[i], change.factors[i]) = match *adjust {
                Adjust::Brightness(f) => (0, f),
                Adjust::Contrast(f) => (1, f),
                Adjust::Saturation(f) => (2, f),
                Adjust::Hue(f) => (3, f),
            };
            if change.kinds[i] == 1 {
                change.before_contrast = i as u32;
            }
        }
        // No blur is a blur by a single pixel.
        let blur = strong.blur.unwrap_or(Blur { kernel: 1, sigma: 1.0 });
        change.radius = (blur.kernel / 2) as u32;
        taps.extend(blur.taps());
        change
    }
}

/// (byte / 255 - mean) / std, 0 outside the part that is shown.
pub(super) fn normalize_bytes(d: &Cuda, images: &Images<Cuda>, normalize: &Normalize) -> Tensor {
    let shape = images.bytes.shape;
    let y = d.tensor(shape);
    let shown: Vec<u32> = images.shown.iter().flatten().map(|&v| v as u32).collect();
    let shown = d.upload_buffer(&shown);
    let Shape { h, w, .. } = shape;
    let args =
        args![y, images.bytes, shown, Affine::new(normalize), shape.positions() as u64, h as u32, w as u32];
    d.launch_typed(FILE, "normalize_bytes", y.dtype, Launch::linear(shape.positions().div_ceil(4)), args);
    y
}

/// Each image with its colours changed, then (value - mean) / std.
pub(super) fn photometric(
    d: &Cuda,
    pixels: Pixels<'_, Cuda>,
    strong: &[Strong],
    normalize: &Normalize,
) -> Tensor {
    let shape = pixels.shape();
    let Shape { n, h, w, .. } = shape;
    // What the kernels read: `<kernel>_u8_<type of y>` for bytes, `<kernel>_<type>` for an activation.
    let (source, from, shown, dtype) = match &pixels {
        Pixels::Bytes(images) => (images.bytes.buffer.clone(), "_u8", images.shown.clone(), d.dtype),
        Pixels::Colors(x) => (x.buffer.clone(), "", vec![[0, 0, h, w]; n], x.dtype),
    };
    let mut taps = Vec::new();
    let changes: Vec<Change> =
        strong.iter().zip(shown).map(|(strong, shown)| Change::new(strong, shown, &mut taps)).collect();
    let radius = changes.iter().map(|c| c.radius as usize).max().unwrap_or(0);
    let affine = Affine::new(normalize);
    // One buffer: the changes, then the taps.
    let mut words: Vec<u32> = [bytemuck::cast_slice(&changes), bytemuck::cast_slice(&taps)].concat();
    // The drawn blurs' sizes do not change the buffer's, so that steps ask for the same memory.
    words.resize(words.len().next_multiple_of(WORDS), 0);
    let buffer = d.upload_buffer(&words);
    let taps = buffer.ptr().offset(size_of::<Change>() * n);

    let parts = (h * w).div_ceil(PART).min(MAX_PARTS);
    let sums = d.buffer(8 * n * parts);
    // Also where no image has contrast: every step launches the same kernels, as its graph requires.
    let name = if from.is_empty() { format!("gray_sums_{}", dtype.suffix()) } else { "gray_sums_u8".into() };
    let args = args![sums, source, buffer, affine, parts as u32, h as u32, w as u32];
    d.launch(FILE, &name, Launch::new(n * parts, THREADS), args);
    let y = d.tensor_of(dtype, shape);
    let tiles = h.div_ceil(TILE.0) * w.div_ceil(TILE.1);
    let width = TILE.1 + 2 * radius;
    let shared = 4 * (2 * radius + 1 + 3 * GROUP * (width + TILE.1));
    let launch = Launch::new(n * tiles, THREADS).with_shared(shared);
    let args = args![y, source, buffer, taps, sums, affine, parts as u32, h as u32, w as u32];
    d.launch_typed(FILE, &format!("photometric{from}"), dtype, launch, args);
    y
}
