use super::*;

fn conv(channels: (usize, usize), kernel: usize, stride: usize, padding: usize, dilation: usize) -> Conv2d {
    let (in_channels, out_channels) = channels;
    let weight = Span { offset: 64, len: out_channels * kernel * kernel * in_channels };
    Conv2d { weight, bias: None, in_channels, out_channels, kernel, stride, padding, dilation }
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
                out.push((conv, Shape::new(x.0, x.1, x.2, channels.0)));
            }
        }
    }
    out
}

/// Within what a launch may be, and exactly the tiles of m x n in `classes` classes.
fn covers(plan: &Plan, dtype: Dtype, m: usize, n: usize, classes: usize) {
    let (tile_m, tile_n) = plan.tile.size(dtype);
    let (m_tiles, n_tiles) = (plan.sizes.m_tiles as usize, plan.sizes.n_tiles as usize);
    assert!((m_tiles - 1) * tile_m < m && m <= m_tiles * tile_m, "{plan:?}");
    assert!((n_tiles - 1) * tile_n < n && n <= n_tiles * tile_n, "{plan:?}");
    assert_eq!(plan.launch.grid[0] as usize, classes * m_tiles * n_tiles, "{plan:?}");
    assert_eq!((plan.launch.grid[1] as usize, plan.launch.grid[2]), (plan.splits, 1), "{plan:?}");
    assert!(plan.launch.grid[0] < 1 << 31 && plan.launch.grid[1] < 1 << 16, "{plan:?}");
    assert_eq!(plan.launch.block, [plan.tile.threads(), 1, 1]);
    // Two large blocks fit a multiprocessor's 228 KiB, small ones need no more than any kernel may have.
    let most = if plan.tile == Tile::Large { 113 << 10 } else { 48 << 10 };
    assert!(plan.launch.shared <= most, "{plan:?}");
}

#[test]
fn tiles_cover_every_output_once() {
    for (conv, x) in cases() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let y = conv.out_shape(x);
            covers(&fprop(&conv, x, dtype).unwrap(), dtype, y.positions(), y.c, 1);
            let classes = conv.stride.min(x.h) * conv.stride.min(x.w);
            let m = x.n * x.h.div_ceil(conv.stride) * x.w.div_ceil(conv.stride);
            covers(&dgrad(&conv, x, dtype).unwrap(), dtype, m, x.c, classes);
            let columns = conv.kernel * conv.kernel * x.c;
            covers(&wgrad(&conv, x, dtype).unwrap(), dtype, y.c, columns, 1);
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
            assert!(plan.splits == 1 || plan.workspace_bytes <= 64 << 20, "{plan:?}");
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
}
