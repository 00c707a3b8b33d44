use super::*;

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

/// Within what a launch may be, and exactly the tiles of m x n in `classes` classes of each group.
fn covers(plan: &Plan, dtype: Dtype, m: usize, n: usize, classes: usize, groups: usize) {
    let (tile_m, tile_n) = plan.tile.size(dtype);
    let (m_tiles, n_tiles) = (plan.sizes.m_tiles as usize, plan.sizes.n_tiles as usize);
    assert!((m_tiles - 1) * tile_m < m && m <= m_tiles * tile_m, "{plan:?}");
    assert!((n_tiles - 1) * tile_n < n && n <= n_tiles * tile_n, "{plan:?}");
    assert_eq!(plan.launch.grid[0] as usize, classes * m_tiles * n_tiles, "{plan:?}");
    let [x, y, z] = plan.launch.grid.map(|v| v as usize);
    assert_eq!((y, z), (plan.splits, groups), "{plan:?}");
    assert!(x < 1 << 31 && y < 1 << 16 && z < 1 << 16, "{plan:?}");
    assert_eq!(plan.launch.block, [plan.tile.threads(), 1, 1]);
    // Two large blocks fit a multiprocessor's 228 KiB, small ones need no more than any kernel may have.
    let most = if plan.tile == Tile::Large { 113 << 10 } else { 48 << 10 };
    assert!(plan.launch.shared <= most, "{plan:?}");
}

#[test]
fn tiles_cover_every_output_once() {
    for (conv, x) in cases() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let (positions, groups) = (conv.out_shape(x).positions(), conv.groups);
            let (cin, cout) = (conv.in_channels / groups, conv.out_channels / groups);
            covers(&fprop(&conv, x, dtype).unwrap(), dtype, positions, cout, 1, groups);
            let classes = conv.stride.min(x.h) * conv.stride.min(x.w);
            let m = x.n * x.h.div_ceil(conv.stride) * x.w.div_ceil(conv.stride);
            covers(&dgrad(&conv, x, dtype).unwrap(), dtype, m, cin, classes, groups);
            let columns = conv.kernel * conv.kernel * cin;
            covers(&wgrad(&conv, x, dtype).unwrap(), dtype, cout, columns, 1, groups);
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
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let positions = conv.out_shape(x).positions();
            let plan = wgrad(&conv, x, dtype).unwrap();
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
    let tile = |channels, x: Shape| {
        let conv = conv(channels, 3, 1, 1, 1);
        fprop(&conv, x.with_channels(channels.0), Dtype::Bf16).unwrap().tile
    };
    assert_eq!(tile((256, 256), large), Tile::Large);
    assert_eq!(tile((256, 64), large), Tile::Small);
    assert_eq!(tile((256, 256), Shape::new(2, 16, 16, 256)), Tile::Small);
    assert_eq!(tile((3, 64), large), Tile::Any);
}

#[test]
fn channels_of_a_group_decide_tiles_and_alignment() {
    let tile = |channels, groups, side| {
        let conv = grouped(conv(channels, 3, 1, 1, 1), groups);
        let plan = fprop(&conv, Shape::new(8, side, side, conv.in_channels), Dtype::Bf16).unwrap();
        assert_eq!(plan.sizes.in_pitch as usize, conv.in_channels);
        assert_eq!(plan.sizes.in_channels as usize, channels.0);
        plan.tile
    };
    assert_eq!(tile((256, 256), 2, 128), Tile::Large);
    // Too few tiles in one group, enough in two.
    assert_eq!(tile((256, 256), 1, 64), Tile::Large);
    assert_eq!(tile((256, 128), 1, 36), Tile::Small);
    assert_eq!(tile((256, 128), 2, 36), Tile::Large);
    // 24 channels divide by a chunk, 12 of a group do not.
    assert_eq!(tile((24, 24), 1, 64), Tile::Small);
    assert_eq!(tile((12, 12), 2, 64), Tile::Any);
}

#[test]
fn unaligned_weights_are_noticed() {
    let x = Shape::new(1, 8, 8, 16);
    let mut conv = conv((16, 16), 3, 1, 1, 1);
    let flags = |p: Plan| (p.tile, p.sizes.aligned_a, p.sizes.aligned_b);
    conv.weight.offset = 4;
    assert_eq!(flags(fprop(&conv, x, Dtype::F32).unwrap()), (Tile::Small, 1, 1));
    assert_eq!(flags(fprop(&conv, x, Dtype::Bf16).unwrap()), (Tile::Any, 1, 0));
    assert_eq!(flags(dgrad(&conv, x, Dtype::Bf16).unwrap()), (Tile::Any, 1, 0));
    assert_eq!(flags(wgrad(&conv, x, Dtype::Bf16).unwrap()), (Tile::Small, 1, 1));
}

#[test]
fn sizes_beyond_the_indices_are_errors() {
    let conv = conv((1, 1), 1, 1, 0, 1);
    let error = fprop(&conv, Shape::new(1 << 20, 1 << 10, 1, 1), Dtype::Bf16).unwrap_err();
    assert!(error.to_string().contains("sizes below"), "{error}");
    let many = grouped(conv, 1 << 16);
    let error = wgrad(&many, Shape::new(1, 1, 1, 1 << 16), Dtype::F32).unwrap_err();
    assert!(error.to_string().contains("at most 65535 groups"), "{error}");
}
