//! Plans cover every result once, stay within the limits of launches, and choose the expected tiles.

use super::gemm;
use super::plan::{Direction, Plan, add_splits, dbias};
use super::tile::{Kernels, STEP_BYTES, Tile};
use crate::Result;
use crate::backend::cuda::memory::Dtype;
use crate::ops::{Conv2d, Shape, Span};

fn fprop(conv: &Conv2d, x: Shape, kernels: Kernels) -> Result<Plan> {
    gemm::plan(Direction::Fprop, conv, x, kernels)
}
fn dgrad(conv: &Conv2d, x: Shape, kernels: Kernels) -> Result<Plan> {
    gemm::plan(Direction::Dgrad, conv, x, kernels)
}
fn wgrad(conv: &Conv2d, x: Shape, kernels: Kernels) -> Result<Plan> {
    gemm::plan(Direction::Wgrad, conv, x, kernels)
}

/// Values along k of a step.
fn depth(dtype: Dtype) -> usize {
    STEP_BYTES / dtype.size()
}

fn conv(channels: (usize, usize), kernel: usize, stride: usize, padding: usize, dilation: usize) -> Conv2d {
    let (in_channels, out_channels) = channels;
    let weight = Span { offset: 64, len: out_channels * kernel * kernel * in_channels };
    Conv2d { weight, bias: None, in_channels, out_channels, groups: 1, kernel, stride, padding, dilation }
}

/// `conv` with every channel `groups` times.
fn grouped(conv: Conv2d, groups: usize) -> Conv2d {
    let weight = Span { len: groups * conv.weight.len, ..conv.weight };
    let (in_channels, out_channels) = (groups * conv.in_channels, groups * conv.out_channels);
    Conv2d { weight, in_channels, out_channels, groups, ..conv }
}

/// Every combination that fits its input.
fn cases() -> Vec<(Conv2d, Shape)> {
    let mut out = Vec::new();
    for x in [(1, 1, 1), (2, 1, 1), (3, 17, 23), (2, 64, 33), (8, 128, 128)] {
        for channels in [(3, 64), (8, 8), (48, 21), (64, 72), (256, 512), (2048, 256)] {
            for (kernel, stride, dilation) in
                [(1, 1, 1), (1, 2, 1), (3, 2, 1), (3, 1, 12), (7, 2, 1), (3, 4, 6)]
            {
                let conv = conv(channels, kernel, stride, dilation * (kernel / 2), dilation);
                for groups in [1, 2, 7] {
                    let conv = grouped(conv, groups);
                    out.push((conv, Shape::new(x.0, x.1, x.2, conv.in_channels)));
                }
            }
        }
    }
    out
}

/// Kernels for f32, and for bf16 without and with those of wgmma, as the model chooses and each tile of them.
fn all_kernels() -> Vec<Kernels> {
    let of = |dtype, wgmma, only| Kernels { dtype, wgmma, only };
    let mut all =
        vec![of(Dtype::F32, false, None), of(Dtype::Bf16, false, None), of(Dtype::Bf16, true, None)];
    all.extend(Tile::CHOICES.map(|tile| of(Dtype::Bf16, true, Some(tile))));
    all
}

/// Kernels for bf16 that any card has.
const PLAIN: Kernels = Kernels { dtype: Dtype::Bf16, wgmma: false, only: None };
/// Those of a card with WGMMA.
const WGMMA: Kernels = Kernels { wgmma: true, ..PLAIN };

/// Within what a launch may be, and exactly the segments of rows and outputs of a first convolution.
fn covers_stem(plan: &Plan, y: Shape, wgrad: bool) {
    let segments = y.n * y.h * y.w.div_ceil(128);
    let [x, outputs, z] = plan.launch.grid.map(|v| v as usize);
    let each = if wgrad { plan.sizes.split_len as usize } else { 1 };
    assert!((x - 1) * each < segments && segments <= x * each, "{plan:?}");
    assert!((outputs, z, plan.splits) == (y.c.div_ceil(64), 1, if wgrad { x } else { 1 }), "{plan:?}");
    assert!(plan.launch.shared <= 48 << 10 && plan.launch.block == [256, 1, 1], "{plan:?}");
}

/// Within what a launch may be, and exactly the tiles of m x n in `classes` classes of each group.
fn covers(plan: &Plan, dtype: Dtype, m: usize, n: usize, classes: usize, groups: usize) {
    let (tile_m, tile_n) = plan.tile.size(dtype);
    assert_ne!(plan.tile, Tile::Stem);
    let (m_tiles, n_tiles) = (plan.sizes.m_tiles as usize, plan.sizes.n_tiles as usize);
    assert!((m_tiles - 1) * tile_m < m && m <= m_tiles * tile_m, "{plan:?}");
    assert!((n_tiles - 1) * tile_n < n && n <= n_tiles * tile_n, "{plan:?}");
    let cluster = plan.tile.cluster();
    assert_eq!(
        plan.launch.grid[0] as usize,
        classes * m_tiles.next_multiple_of(cluster) * n_tiles,
        "{plan:?}"
    );
    assert!(cluster == 1 || classes == 1, "{plan:?}");
    let [x, y, z] = plan.launch.grid.map(|v| v as usize);
    assert_eq!((y, z), (plan.splits, groups), "{plan:?}");
    assert!(x < 1 << 31 && y < 1 << 16 && z < 1 << 16, "{plan:?}");
    assert_eq!(plan.launch.block, [plan.tile.threads(), 1, 1]);
    // As many blocks as are counted on fit a multiprocessor's 228 KiB, of which each takes one more.
    let shared = (plan.launch.shared as usize + 1024) * plan.tile.resident();
    assert!(shared <= 228 << 10 && plan.launch.shared <= 227 << 10, "{plan:?}");
    let alone = plan.tile.threads() as usize * plan.tile.resident();
    assert!(alone <= 2048, "{plan:?}");
}

#[test]
fn tiles_cover_every_output_once() {
    for (conv, x) in cases() {
        for kernels in all_kernels() {
            let (positions, groups, dtype) = (conv.out_shape(x).positions(), conv.groups, kernels.dtype);
            let (cin, cout) = (conv.in_channels / groups, conv.out_channels / groups);
            let plan = fprop(&conv, x, kernels).unwrap();
            match plan.tile {
                Tile::Stem => covers_stem(&plan, conv.out_shape(x), false),
                _ => covers(&plan, dtype, positions, cout, 1, groups),
            }
            let classes = conv.stride.min(x.h) * conv.stride.min(x.w);
            let m = x.n * x.h.div_ceil(conv.stride) * x.w.div_ceil(conv.stride);
            covers(&dgrad(&conv, x, kernels).unwrap(), dtype, m, cin, classes, groups);
            let plan = wgrad(&conv, x, kernels).unwrap();
            let columns = if plan.tile.is_wgmma() { cin.next_multiple_of(64) } else { cin };
            match plan.tile {
                Tile::Stem => covers_stem(&plan, conv.out_shape(x), true),
                _ => covers(&plan, dtype, cout, conv.kernel * conv.kernel * columns, 1, groups),
            }
        }
    }
}

#[test]
fn classes_hold_every_input_position_once() {
    for (conv, x) in cases() {
        let of =
            |len: usize| (0..conv.stride.min(len)).map(|p| (len - p).div_ceil(conv.stride)).sum::<usize>();
        assert_eq!((of(x.h), of(x.w)), (x.h, x.w));
    }
}

#[test]
fn splits_cover_every_position_once() {
    for (conv, x) in cases() {
        for kernels in all_kernels() {
            let (positions, dtype) = (conv.out_shape(x).positions(), kernels.dtype);
            let plan = wgrad(&conv, x, kernels).unwrap();
            if plan.tile == Tile::Stem {
                continue;
            }
            let len = plan.sizes.split_len as usize;
            assert!((plan.splits - 1) * len < positions && positions <= plan.splits * len, "{plan:?}");
            assert_eq!(len % depth(dtype), 0, "a split is whole steps: {plan:?}");
            assert_eq!(plan.workspace_bytes, 4 * plan.splits * conv.weight.len);
            assert!(plan.splits == 1 || plan.workspace_bytes <= conv.groups * (64 << 20), "{plan:?}");
            let plan = dbias(conv.out_shape(x));
            let len = plan.split_len as usize;
            assert!((plan.splits - 1) * len < positions && positions <= plan.splits * len, "{plan:?}");
        }
    }
}

#[test]
fn many_splits_share_an_element() {
    for len in [1, 31, 256, 5376, 2_359_296] {
        for splits in [1, 2, 15, 16, 264] {
            let plan = add_splits(len, splits);
            let width = 256 / plan.lanes as usize;
            let blocks = plan.launch.grid[0] as usize;
            assert!((blocks - 1) * width < len && len <= blocks * width, "{len} {splits}: {plan:?}");
        }
    }
}

#[test]
fn large_tiles_are_for_large_products() {
    let large = Shape::new(8, 128, 128, 256);
    let tile = |kernels, channels, x: Shape| {
        let conv = conv(channels, 3, 1, 1, 1);
        fprop(&conv, x.with_channels(channels.0), kernels).unwrap().tile
    };
    assert_eq!(tile(PLAIN, (256, 256), large), Tile::Large);
    assert_eq!(tile(WGMMA, (256, 256), large), Tile::Wgmma256x2);
    assert_eq!(tile(WGMMA, (256, 128), large), Tile::Wgmma128);
    assert_eq!(tile(WGMMA, (256, 64), large), Tile::Wgmma64);
    let few = Shape::new(2, 16, 16, 256);
    assert_eq!(tile(PLAIN, (256, 256), few), Tile::Small);
    assert_eq!(tile(WGMMA, (3, 64), large), Tile::Stem);
    assert_eq!(tile(PLAIN, (3, 60), large), Tile::Any);
    assert_eq!(tile(WGMMA, (5, 64), large), Tile::Any);
}

#[test]
fn channels_of_a_group_decide_tiles_and_alignment() {
    let tile = |kernels, channels, groups| {
        let conv = grouped(conv(channels, 3, 1, 1, 1), groups);
        let plan = fprop(&conv, Shape::new(8, 128, 128, conv.in_channels), kernels).unwrap();
        assert_eq!(plan.sizes.in_pitch as usize, conv.in_channels);
        assert_eq!(plan.sizes.in_channels as usize, channels.0);
        plan.tile
    };
    assert_eq!(tile(PLAIN, (256, 256), 2), Tile::Large);
    assert_eq!(tile(WGMMA, (256, 256), 2), Tile::Wgmma256x2);
    // A box of 64 channels would reach into the next group.
    assert_eq!(tile(WGMMA, (96, 256), 2), Tile::Large);
    assert_eq!(tile(WGMMA, (96, 256), 1), Tile::Wgmma256x2);
    // 24 channels divide by a chunk, 12 of a group do not.
    assert_eq!(tile(PLAIN, (24, 24), 1), Tile::Small);
    assert_eq!(tile(PLAIN, (12, 12), 2), Tile::Any);
}

#[test]
fn what_tensor_maps_cannot_say_is_for_other_kernels() {
    let x = Shape::new(8, 128, 128, 256);
    let only = |conv: Conv2d| {
        let plans = [fprop(&conv, x, WGMMA), dgrad(&conv, x, WGMMA), wgrad(&conv, x, WGMMA)];
        plans.map(|plan| plan.unwrap().tile.is_wgmma())
    };
    assert_eq!(only(conv((256, 256), 3, 1, 1, 1)), [true, true, true]);
    // A data gradient of stride 2 reads other taps for even and odd positions.
    assert_eq!(only(conv((256, 256), 3, 2, 1, 1)), [true, false, true]);
    // Bounding boxes begin at most 128 pixels from a corner.
    assert_eq!(only(conv((256, 256), 3, 1, 63, 63)), [true, true, true]);
    assert_eq!(only(conv((256, 256), 3, 1, 64, 64)), [false, false, false]);
}

#[test]
fn unaligned_weights_are_noticed() {
    let x = Shape::new(1, 8, 8, 16);
    let mut conv = conv((16, 16), 3, 1, 1, 1);
    let flags = |p: Plan| (p.tile, p.sizes.aligned_a, p.sizes.aligned_b);
    conv.weight.offset = 4;
    let floats = Kernels { dtype: Dtype::F32, ..PLAIN };
    assert_eq!(flags(fprop(&conv, x, floats).unwrap()), (Tile::Small, 1, 1));
    assert_eq!(flags(fprop(&conv, x, WGMMA).unwrap()), (Tile::Any, 1, 0));
    assert_eq!(flags(dgrad(&conv, x, WGMMA).unwrap()), (Tile::Any, 1, 0));
    assert_eq!(flags(wgrad(&conv, x, PLAIN).unwrap()), (Tile::Small, 1, 1));
}

#[test]
fn sizes_beyond_the_indices_are_errors() {
    let conv = conv((1, 1), 1, 1, 0, 1);
    let error = fprop(&conv, Shape::new(1 << 20, 1 << 10, 1, 1), PLAIN).unwrap_err();
    assert!(error.to_string().contains("sizes below"), "{error}");
    let many = grouped(conv, 1 << 16);
    let error = wgrad(&many, Shape::new(1, 1, 1, 1 << 16), PLAIN).unwrap_err();
    assert!(error.to_string().contains("at most 65535 groups"), "{error}");
}
