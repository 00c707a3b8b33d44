//! Properties that hold for any input: readers of text and files never panic, backward passes are the
//! transposes of their forward passes, drawn boxes and targets stay within their limits.

use crate::layer_common::Conv;
use crate::loss_common::Teachers;
use crate::plain::dot;
use approx::assert_relative_eq;
use proptest::prelude::*;
use psmt_fast::Error;
use psmt_fast::backend::cpu::{Cpu, Tensor};
use psmt_fast::config::{self, Overrides, RunConfig};
use psmt_fast::data::resize::resize_bicubic;
use psmt_fast::data::{Layout, List, Masks, RgbImage, decode_image, decode_mask};
use psmt_fast::method::cut_mix::{self, CutMixForm};
use psmt_fast::ops::{self, Ensemble, Shape};
use psmt_fast::rng::{Domain, Key};

fn tensor(shape: Shape, seed: u64) -> Tensor<f64> {
    let key = Key::new(seed, Domain::Bench, 0);
    Tensor::from_fn(shape, |i| f64::from(key.uniform(i as u64)) - 0.5)
}

fn shape(max_side: usize, max_channels: usize) -> impl Strategy<Value = Shape> {
    (1..3usize, 1..=max_side, 1..=max_side, 1..=max_channels).prop_map(|(n, h, w, c)| Shape::new(n, h, w, c))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_list_is_read_or_refused_with_its_path(text in "[ -~\t\n/#é]{0,200}") {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.txt");
        std::fs::write(&path, &text).unwrap();
        for layout in [Layout::Folder, Layout::Voc, Layout::Cityscapes] {
            match List::read(&path, dir.path(), layout, Masks::Required) {
                Err(Error::Data { path: p, line, .. }) => {
                    prop_assert_eq!(&p, &path);
                    prop_assert!(line.is_none_or(|l| l >= 1 && l <= text.lines().count()));
                }
                Err(e) => prop_assert!(false, "{e}"),
                Ok(_) => prop_assert!(false, "the folder is empty, yet {text:?} was read"),
            }
        }
    }

    #[test]
    fn any_configuration_text_is_read_or_refused(
        text in "[ -~\n]{0,200}",
        key in "[a-z_.]{0,20}",
        value in "[ -~]{0,20}",
    ) {
        if let Err(e) = config::parse("file.toml", &text) {
            prop_assert!(e.to_string().contains("file.toml"), "{}", e);
        }
        let mut overrides = Overrides::default();
        overrides.assign(&format!("{key}={value}")).unwrap();
        let _ = config::load::load(None, &overrides, None);
    }

    #[test]
    fn a_saved_configuration_reads_back_the_same(
        lr in 1e-6..10.0f64,
        epochs in 1..1000u64,
        decay in 0.0..1.0f64,
        seed in 0..i64::MAX as u64,
        crop in 16..2000usize,
    ) {
        let mut c = RunConfig::default();
        c.optim.lr = lr;
        c.schedule.train_epochs = epochs;
        c.schedule.seed = seed;
        c.method.ema_decay = decay;
        c.augment.crop = [crop, crop + 1];
        prop_assert_eq!(config::parse("saved", &c.to_toml().unwrap()).unwrap(), c);
    }

    #[test]
    fn bytes_that_are_no_image_are_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        head in prop::sample::select(vec![
            &b""[..],
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff\xe0",
            b"RIFF\0\0\0\0WEBP",
        ]),
        name in prop::sample::select(vec!["a.png", "a.jpg", "a.webp"]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, [head, &bytes].concat()).unwrap();
        let refused = matches!(decode_image(&path), Err(Error::Data { .. }));
        prop_assert!(refused);
        let refused = matches!(decode_mask(&path), Err(Error::Data { .. }));
        prop_assert!(refused);
    }

    #[test]
    fn resizing_to_the_same_size_changes_nothing(h in 1..20usize, w in 1..20usize, seed in any::<u64>()) {
        let key = Key::new(seed, Domain::Bench, 1);
        let data = (0..h * w * 3).map(|i| (256.0 * key.uniform(i as u64)) as u8).collect();
        let image = RgbImage { size: (h, w), data };
        prop_assert_eq!(resize_bicubic(&image, (h, w)).unwrap().data, image.data);
    }

    #[test]
    fn convolution_gradients_are_transposes(
        x_shape in shape(9, 5),
        parts in 1..6usize,
        groups in 1..4usize,
        kernel in 1..4usize,
        stride in 1..4usize,
        dilation in 1..4usize,
        padding in 0..4usize,
    ) {
        let x_shape = x_shape.with_channels(groups * x_shape.c);
        let conv = Conv::new(x_shape.c, groups * parts).groups(groups).kernel(kernel).stride(stride);
        let conv = conv.padding(padding).dilation(dilation).spec();
        let len = conv.weight_len();
        assert_eq!(conv.weight.len, len);
        let y_shape = conv.out_shape(x_shape);
        prop_assume!(!y_shape.is_empty());
        let b = Cpu::<f64>::new();
        let (x, dy) = (tensor(x_shape, 1), tensor(y_shape, 2));
        let params = tensor(Shape::new(1, 1, 1, len), 3).data().to_vec();
        let y = ops::conv2d_fprop(&b, &ops::Fprop::new(&x, &params, &conv)).unwrap().y;
        let dx = ops::conv2d_dgrad(&b, &ops::Dgrad::new(&dy, &params, &conv, x_shape)).unwrap().dx;
        let mut dweight = vec![0.0; len];
        ops::conv2d_wgrad(&b, &x, &dy, &mut dweight, &conv).unwrap();
        // y is linear in x and in the weight, so all three products are the same number.
        let value = dot(&y, &dy);
        assert_relative_eq!(dot(&x, &dx), value, epsilon = 1e-10, max_relative = 1e-10);
        let by_weight: f64 = params.iter().zip(&dweight).map(|(p, g)| p * g).sum();
        assert_relative_eq!(by_weight, value, epsilon = 1e-10, max_relative = 1e-10);
    }

    #[test]
    fn resampling_gradients_are_transposes(x_shape in shape(8, 4), h in 1..12usize, w in 1..12usize) {
        let b = Cpu::<f64>::new();
        let (x, dy) = (tensor(x_shape, 4), tensor(Shape::new(x_shape.n, h, w, x_shape.c), 5));
        let from = (x_shape.h, x_shape.w);
        let y = ops::interpolate(&b, &x, (h, w)).unwrap();
        let dx = ops::interpolate_bwd(&b, &dy, from).unwrap();
        assert_relative_eq!(dot(&x, &dx), dot(&y, &dy), epsilon = 1e-10, max_relative = 1e-10);
        let y = ops::adaptive_avg_pool2d(&b, &x, (h, w)).unwrap();
        let dx = ops::adaptive_avg_pool2d_bwd(&b, &dy, from).unwrap();
        assert_relative_eq!(dot(&x, &dx), dot(&y, &dy), epsilon = 1e-10, max_relative = 1e-10);
    }

    #[test]
    fn cut_mix_paints_its_boxes_in_order(
        n in 1..5usize,
        h in 1..20usize,
        w in 1..20usize,
        step in any::<u64>(),
        form in prop::sample::select(vec![CutMixForm::Voc, CutMixForm::Cityscapes, CutMixForm::None]),
    ) {
        let mix = cut_mix::sample(form, n, (h, w), Key::new(1, Domain::CutMix, step));
        mix.validate(n, (h, w)).unwrap();
        let x = tensor(Shape::new(n, h, w, 2), 6);
        let got = ops::cut_mix(&Cpu::<f64>::new(), &x, &mix).unwrap();
        let mut want = x.data().to_vec();
        for (boxes, perm) in mix.boxes.iter().zip(&mix.perm) {
            for (image, &[y0, x0, y1, x1]) in boxes.iter().enumerate() {
                for y in y0..y1 {
                    let line = |i: usize| ((i * h + y) * w + x0) * 2..((i * h + y) * w + x1) * 2;
                    want[line(image)].copy_from_slice(&x.data()[line(perm[image])]);
                }
            }
        }
        prop_assert_eq!(got.data(), &want[..]);
    }

    #[test]
    fn pseudo_labels_are_classes_and_confidences_are_probabilities(
        low in shape(4, 12),
        topk in 1..14usize,
        gamma in 0.0..1.0f64,
        size in (1..12usize, 1..12usize),
    ) {
        let b = Cpu::<f64>::new();
        let (core, assist) = (tensor(low, 7), tensor(low, 8));
        let teachers = Teachers { core, assist, ensemble: Ensemble { topk, gamma } };
        let out = ops::ensemble_pseudo_label(&b, &teachers.logits(), size).unwrap();
        prop_assert!(out.label.data.iter().all(|&l| usize::from(l) < low.c));
        // The largest of c probabilities is at least 1 / c.
        let least = 1.0 / low.c as f64 - 1e-12;
        prop_assert!(out.confidence.data().iter().all(|&v| v >= least && v <= 1.0 + 1e-12));
    }
}
