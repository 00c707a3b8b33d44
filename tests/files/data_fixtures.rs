//! Photometric functions and resizing against stored results of torchvision and Pillow.

use psmt_fast::backend::cpu::Cpu;
use psmt_fast::data::{RgbImage, resize::resize_bicubic};
use psmt_fast::ops::{self, Adjust, Blur, Device, Normalize, Pixels, Shape, Strong};
use safetensors::SafeTensors;
use std::path::Path;

/// A fixture's attributes and tensors.
struct Fixture {
    bytes: Vec<u8>,
}

impl Fixture {
    fn read(name: &str) -> Fixture {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.safetensors"));
        Fixture { bytes: std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())) }
    }

    fn attrs(&self) -> serde_json::Value {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).unwrap();
        serde_json::from_str(&metadata.metadata().as_ref().unwrap()["attrs"]).unwrap()
    }

    /// A `[3, h, w]` float tensor as interleaved values with its (h, w).
    fn floats(&self, name: &str) -> (Vec<f32>, (usize, usize)) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        let &[3, h, w] = view.shape() else { panic!("{:?}", view.shape()) };
        let planes: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        ((0..h * w * 3).map(|i| planes[i % 3 * h * w + i / 3]).collect(), (h, w))
    }

    /// A `[h, w, 3]` byte tensor.
    fn image(&self, name: &str) -> RgbImage {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap();
        let &[h, w, 3] = view.shape() else { panic!("{:?}", view.shape()) };
        RgbImage { size: (h, w), data: view.data().to_vec() }
    }
}

/// The fixture's image changed by what `strong` makes of its factor or sigma and its kernel is within 1e-4 of
/// the stored one, relative in norm.
fn check(name: &str, strong: impl Fn(f32, usize) -> Strong) {
    let fixture = Fixture::read(name);
    let attrs = fixture.attrs();
    let factor = ["factor", "sigma"].iter().find_map(|k| attrs[k].as_f64()).unwrap_or_default() as f32;
    let kernel = attrs["kernel"].as_u64().unwrap_or_default() as usize;
    let (image, (h, w)) = fixture.floats("in.image");
    let b = Cpu::<f32>::new();
    let x = b.upload(Shape::new(1, h, w, 3), &image);
    let y = ops::photometric(&b, Pixels::Colors(&x), &[strong(factor, kernel)], &Normalize::IDENTITY);
    let image = b.download(&y.unwrap());
    let (want, _) = fixture.floats("out.image");
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let error = norm(&mut image.iter().zip(&want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied());
    println!("{name}: {error:.2e}");
    assert!(error < 1e-4, "{name}: relative error {error:.2e}");
}

#[test]
fn photometric_functions_match_torchvision() {
    let adjust = |adjust: fn(f32) -> Adjust| {
        move |factor, _| Strong { jitter: vec![adjust(factor)], ..Strong::default() }
    };
    check("adjust_brightness_0", adjust(Adjust::Brightness));
    check("adjust_contrast_0", adjust(Adjust::Contrast));
    check("adjust_saturation_0", adjust(Adjust::Saturation));
    check("adjust_hue_0", adjust(Adjust::Hue));
    check("grayscale_0", |_, _| Strong { gray: true, ..Strong::default() });
    for name in ["gaussian_blur_0", "gaussian_blur_1"] {
        check(name, |sigma, kernel| Strong { blur: Some(Blur { kernel, sigma }), ..Strong::default() });
    }
}

#[test]
fn bicubic_equals_pillow() {
    for name in ["resize_bicubic_0", "resize_bicubic_1", "resize_bicubic_2"] {
        let fixture = Fixture::read(name);
        let want = fixture.image("out.image");
        let got = resize_bicubic(&fixture.image("in.image"), want.size).unwrap();
        let differ = got.data.iter().zip(&want.data).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 0, "{name}: bytes that differ");
    }
}
