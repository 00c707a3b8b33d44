//! Colours of images on the CUDA device, run by the emulator, against the CPU device in double precision: one
//! body for both devices and both activation types. Images are single pixels, primes, one off a tile, and
//! large enough for several parts; padding lies on every side.

use crate::cuda_common::{DTYPES, PLAIN, Run, agree, assert_same, device, run};
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::backend::cuda::Dtype;
use psmt_fast::ops::{self, *};
use psmt_fast::rng::{Domain, Key};

/// Random bytes, of which a few pixels are grey, black or white.
fn bytes(shape: Shape, seed: u64) -> Vec<u8> {
    let mut rng = Key::new(seed, Domain::Bench, 0).stream();
    let mut data: Vec<u8> = (0..shape.len()).map(|_| rng.below(256) as u8).collect();
    for pixel in data.chunks_exact_mut(3) {
        match rng.below(12) {
            0 => pixel.fill(pixel[0]),
            1 => pixel.fill(0),
            2 => pixel.fill(255),
            3 => pixel[1] = pixel[0],
            _ => {}
        }
    }
    data
}

/// Of image `i`: all, padding below and right, below and left, above, on every side, nothing shown.
fn shown(i: usize, h: usize, w: usize) -> Box2d {
    let (top, left) = (h.div_ceil(4).min(h - 1), w.div_ceil(3).min(w - 1));
    match i % 6 {
        0 => [0, 0, h, w],
        1 => [0, 0, h - top, w - left],
        2 => [0, left, h - top, w],
        3 => [top, 0, h, w],
        4 => [top, left, h - h / 4, w - w / 4],
        _ => [0, 0, 0, 0],
    }
}

fn images<B: Backend>(b: &B, shape: Shape, seed: u64) -> Images<B> {
    let shown = (0..shape.n).map(|i| shown(i + seed as usize, shape.h, shape.w)).collect();
    ops::upload_images(b, shape, &bytes(shape, seed), shown).unwrap()
}

/// Colours in [0, 1] that both types hold.
fn colors<B: Backend>(b: &B, run: &Run, shape: Shape, seed: u64) -> B::Tensor {
    run.upload(b, shape, bytes(shape, seed).into_iter().map(|v| f32::from(v) / 255.0).collect())
}

/// Every order of the four adjustments, one after another.
fn orders() -> Vec<Vec<Adjust>> {
    let all = [Adjust::Brightness(1.3), Adjust::Contrast(0.6), Adjust::Saturation(1.45), Adjust::Hue(-0.21)];
    let mut orders = vec![Vec::new()];
    for adjust in all {
        let insert = |order: &Vec<Adjust>| {
            let at = |i: usize| [&order[..i], &[adjust], &order[i..]].concat();
            (0..=order.len()).map(at).collect::<Vec<_>>()
        };
        orders = orders.iter().flat_map(insert).collect();
    }
    orders
}

const SHAPES: &[Shape] = &[
    Shape::new(1, 1, 1, 3),
    Shape::new(6, 7, 5, 3),
    Shape::new(5, 1, 13, 3),
    Shape::new(2, 17, 65, 3),
    Shape::new(3, 31, 2, 3),
    // More pixels than a part has.
    Shape::new(2, 67, 71, 3),
];

fn normalized<B: Backend>(b: &B, run: &mut Run) {
    for (seed, &shape) in SHAPES.iter().enumerate() {
        let x = images(b, shape, seed as u64);
        run.put(b, "normalize_bytes", &ops::normalize_bytes(b, &x, &Normalize::default()).unwrap());
    }
}

#[test]
fn bytes_are_normalised_alike() {
    agree(normalized, normalized, 1e-6);
}

#[test]
fn bytes_are_normalised_to_the_bits_of_the_cpu_and_padding_to_zero() {
    let Some(b) = device(Dtype::F32, PLAIN) else { return };
    let want = run(&Cpu::<f32>::new(), Dtype::F32, normalized);
    assert_same("bytes", &run(&b, Dtype::F32, normalized), &want);
    for dtype in DTYPES {
        let Some(b) = device(dtype, PLAIN) else { return };
        let shape = Shape::new(6, 7, 5, 3);
        let (x, normalize) = (images(&b, shape, 0), Normalize::default());
        let weak = b.download(&ops::normalize_bytes(&b, &x, &normalize).unwrap());
        let unchanged = vec![Strong::default(); shape.n];
        let strong = ops::photometric(&b, Pixels::Bytes(&x), &unchanged, &normalize).unwrap();
        let strong = b.download(&strong);
        for (i, (weak, strong)) in weak.chunks_exact(3).zip(strong.chunks_exact(3)).enumerate() {
            let (image, y, column) = (i / 35, i / 5 % 7, i % 5);
            let [y0, x0, y1, x1] = x.shown[image];
            let padding = !((y0..y1).contains(&y) && (x0..x1).contains(&column));
            assert_eq!(padding, weak == [0.0; 3], "{dtype:?}: pixel {y}, {column} of image {image}");
            assert_eq!(padding, strong == [0.0; 3], "{dtype:?}: pixel {y}, {column} of image {image}");
        }
    }
}

/// Of bytes with padding, and of colours.
fn both<B: Backend>(b: &B, run: &mut Run, what: &str, shape: Shape, strong: &[Strong]) {
    let seed = shape.len() as u64;
    let x = images(b, shape, seed);
    let y = ops::photometric(b, Pixels::Bytes(&x), strong, &Normalize::default()).unwrap();
    run.put(b, format!("{what} of bytes"), &y);
    let x = colors(b, run, shape, seed);
    let y = ops::photometric(b, Pixels::Colors(&x), strong, &Normalize::IDENTITY).unwrap();
    run.put(b, format!("{what} of colours"), &y);
}

fn adjusted<B: Backend>(b: &B, run: &mut Run) {
    let orders = orders();
    assert_eq!(orders.len(), 24);
    let strong: Vec<Strong> =
        orders.iter().map(|order| Strong { jitter: order.clone(), ..Strong::default() }).collect();
    both(b, run, "all orders", Shape::new(24, 7, 5, 3), &strong);
    // One adjustment alone, grey, and nothing.
    let mut alone: Vec<Strong> = orders[0]
        .iter()
        .map(|&adjust| Strong { jitter: vec![adjust], gray: adjust == Adjust::Hue(-0.21), blur: None })
        .collect();
    alone.extend([Strong { gray: true, ..Strong::default() }, Strong::default()]);
    both(b, run, "one adjustment", Shape::new(6, 11, 3, 3), &alone);
    for &shape in SHAPES {
        let strong: Vec<Strong> =
            strong.iter().cycle().skip(shape.h).step_by(5).take(shape.n).cloned().collect();
        both(b, run, "adjustments", shape, &strong);
    }
}

#[test]
fn adjustments_agree_in_every_order() {
    // Up to a dozen roundings of values up to 1, stretched by 1 / std and factors up to 1.45.
    agree(adjusted, adjusted, 2e-6);
}

fn blurred<B: Backend>(b: &B, run: &mut Run) {
    let orders = orders();
    let strong = |i: usize, (kernel, sigma): (usize, f32)| Strong {
        jitter: orders[i % 24].clone(),
        gray: i % 3 == 1,
        blur: Some(Blur { kernel, sigma }),
    };
    for &shape in SHAPES {
        // Kernel and sigma differ within a batch; 15 and 31 reach beyond most of these images, several times.
        let blurs = [(3, 0.1), (5, 0.9), (7, 1.5), (7, 2.0), (15, 4.0), (31, 9.0)];
        let strong: Vec<Strong> =
            (0..shape.n).map(|i| strong(7 * i + shape.w, blurs[(i + shape.h) % blurs.len()])).collect();
        both(b, run, "blur", shape, &strong);
    }
    let widest = [strong(3, (MAX_BLUR_KERNEL, 70.0)), Strong::default()];
    both(b, run, "widest blur", Shape::new(2, 3, 9, 3), &widest);
}

#[test]
fn blurs_agree_whatever_their_width() {
    // As above; a sum of 31 or 511 taps twice averages its roundings.
    agree(blurred, blurred, 2e-6);
}
