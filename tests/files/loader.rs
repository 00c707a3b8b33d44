//! The prefetching loader: its order, its views, its errors, and that its batches are the same however they
//! are asked for.

use crate::folder::{assert_has, data_error};
use psmt_fast::Error;
use psmt_fast::backend::cpu::Cpu;
use psmt_fast::data::*;
use psmt_fast::ops::{self, Device, Images, Normalize, Pixels, View};
use psmt_fast::rng::{Domain, Key};
use std::sync::Arc;

fn scenes(len: usize) -> Arc<dyn Source> {
    Arc::new(SceneSource::new(SceneSpec { seed: 5, first: 0, len, size: (40, 56) }).unwrap())
}

pub fn spec(batch: usize) -> LoaderSpec {
    LoaderSpec {
        seed: 11,
        stream: 3,
        batch,
        batches_per_step: 1,
        augment: Augment { crop: [32, 48], ..Augment::default() },
        prefetch: 2,
    }
}

#[test]
fn batches_do_not_depend_on_threads_or_on_where_one_starts() {
    let mut loader = Loader::unlabeled(scenes(7), spec(3)).unwrap();
    let all: Vec<UnlabeledBatch> = (0..6).map(|_| loader.next().unwrap()).collect();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let fresh = pool.install(|| {
            let loader = Loader::unlabeled(scenes(7), spec(3)).unwrap();
            let steps = (0..all.len() as u64).rev();
            steps.map(|step| loader.batch(step).unwrap()).collect::<Vec<_>>()
        });
        assert!(fresh.iter().rev().eq(&all));
    }
    loader.start(4).unwrap();
    assert_eq!(loader.next().unwrap(), all[4]);
    assert_eq!(loader.next().unwrap(), all[5]);
    loader.start(1).unwrap();
    assert_eq!(loader.next().unwrap(), all[1]);

    let mut labeled = Loader::labeled(scenes(7), spec(3), View::Weak).unwrap();
    let first = labeled.next().unwrap();
    let second = labeled.next().unwrap();
    let mut resumed = Loader::labeled(scenes(7), spec(3), View::Weak).unwrap();
    resumed.start(1).unwrap();
    assert_eq!(resumed.next().unwrap(), second);
    assert_ne!(first, second);
    let other = Loader::labeled(scenes(7), LoaderSpec { stream: 4, ..spec(3) }, View::Weak).unwrap();
    assert_ne!(other.batch(0).unwrap(), first);
}

#[test]
fn passes_have_each_sample_at_most_once_in_full_steps() {
    let order = |len: usize, spec: LoaderSpec, batches: u64| -> Vec<usize> {
        let loader = Loader::labeled(scenes(len), spec, View::Weak).unwrap();
        (0..batches).flat_map(|s| loader.batch(s).unwrap().indices).collect()
    };
    // Two batches of two make a pass over five, which leaves one out.
    let mut orders = std::collections::HashSet::new();
    let mut left_out = std::collections::HashSet::new();
    for pass in order(5, spec(2), 40).chunks(4) {
        let taken: std::collections::BTreeSet<usize> = pass.iter().copied().collect();
        assert_eq!(taken.len(), 4, "{pass:?}");
        left_out.extend((0..5).filter(|i| !taken.contains(i)));
        orders.insert(pass.to_vec());
    }
    assert!(orders.len() > 5 && left_out.len() == 5, "{left_out:?}");
    // A step of two batches is four images: one step makes a pass over seven.
    for pass in order(7, LoaderSpec { batches_per_step: 2, ..spec(2) }, 20).chunks(4) {
        assert_eq!(pass.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{pass:?}");
    }
    // A step larger than the list goes round it, as evenly as may be.
    for step in order(2, spec(5), 10).chunks(5) {
        let zeros = step.iter().filter(|i| **i == 0).count();
        assert!((2..=3).contains(&zeros), "{step:?}");
    }
}

#[test]
fn the_strong_view_of_labelled_images_is_the_same_crop() {
    let weak = Loader::labeled(scenes(7), spec(3), View::Weak).unwrap().batch(2).unwrap();
    let strong = Loader::labeled(scenes(7), spec(3), View::Strong).unwrap().batch(2).unwrap();
    assert_eq!((&weak.images, &weak.labels), (&strong.images, &strong.labels));
    assert!(weak.strong.is_none() && strong.strong.as_ref().unwrap().len() == 3);
    // The same draws as those of unlabelled images, whose masks come along.
    let unlabeled = Loader::unlabeled(scenes(7), spec(3)).unwrap().batch(2).unwrap();
    assert_eq!(strong.strong.unwrap(), unlabeled.strong);
    assert_eq!(Some(strong.labels), unlabeled.labels);
}

/// Scenes of which those with an odd number have no mask, or all.
struct Masked {
    scenes: Arc<dyn Source>,
    odd: bool,
}

impl Source for Masked {
    fn len(&self) -> usize {
        self.scenes.len()
    }
    fn name(&self, i: usize) -> String {
        self.scenes.name(i)
    }
    fn load(&self, i: usize) -> psmt_fast::Result<Arc<Sample>> {
        let mut sample = (*self.scenes.load(i)?).clone();
        sample.mask = sample.mask.filter(|_| self.odd && i.is_multiple_of(2));
        Ok(Arc::new(sample))
    }
    fn has_masks(&self) -> bool {
        false
    }
    fn num_masks(&self) -> usize {
        if self.odd { self.len().div_ceil(2) } else { 0 }
    }
}

#[test]
fn unlabelled_batches_bring_the_labels_that_there_are() {
    let of = |source: Arc<dyn Source>| Loader::unlabeled(source, spec(3)).unwrap().batch(4).unwrap();
    let all = of(scenes(7));
    let some = of(Arc::new(Masked { scenes: scenes(7), odd: true }));
    let none = of(Arc::new(Masked { scenes: scenes(7), odd: false }));
    let (labels, known) = (all.labels.clone().unwrap(), some.labels.clone().unwrap());
    let pixels = labels.len() / 3;
    for (place, &i) in some.indices.iter().enumerate() {
        let part = place * pixels..(place + 1) * pixels;
        match i % 2 {
            0 => assert_eq!(known[part.clone()], labels[part]),
            _ => assert!(known[part].iter().all(|&c| c == 255)),
        }
    }
    assert!(some.indices.iter().any(|i| i % 2 == 1) && some.indices.iter().any(|i| i % 2 == 0));
    // And nothing else of the batch depends on masks.
    assert_eq!(UnlabeledBatch { labels: None, ..all }, none);
    assert_eq!(UnlabeledBatch { labels: None, ..some }, none);
}

fn upload(images: &HostImages) -> Images<Cpu<f32>> {
    ops::upload_images(&Cpu::new(), images.shape, &images.data, images.shown.clone()).unwrap()
}

/// What the teachers see, and the student of labelled images.
pub fn weak(images: &HostImages) -> Vec<f32> {
    let b = Cpu::<f32>::new();
    b.download(&ops::normalize_bytes(&b, &upload(images), &Normalize::default()).unwrap())
}

/// What the student sees of unlabelled images.
fn strong(batch: &UnlabeledBatch) -> Vec<f32> {
    let b = Cpu::<f32>::new();
    let images = upload(&batch.images);
    let x = ops::photometric(&b, Pixels::Bytes(&images), &batch.strong, &Normalize::default());
    b.download(&x.unwrap())
}

/// Images that are a formula, each of another size.
struct Pattern;

impl Source for Pattern {
    fn len(&self) -> usize {
        5
    }
    fn name(&self, i: usize) -> String {
        format!("pattern {i}")
    }
    fn load(&self, i: usize) -> psmt_fast::Result<Arc<Sample>> {
        let (h, w) = (37 + 3 * i, 53 - 2 * i);
        let byte = |k: usize| {
            let (y, x, c) = (k / (3 * w), k / 3 % w, k % 3);
            ((7 * x + 13 * y + 29 * c + 31 * i) ^ (x * y / (c + 1))) as u8
        };
        let image = RgbImage { size: (h, w), data: (0..h * w * 3).map(byte).collect() };
        let mask = Mask { size: (h, w), data: (0..h * w).map(|k| (k % 4) as u8).collect() };
        Ok(Arc::new(Sample { image, mask: Some(mask), name: self.name(i) }))
    }
    fn has_masks(&self) -> bool {
        true
    }
}

#[test]
fn what_the_networks_see_keeps_its_bits() {
    // FNV-1a of the bits of both views for each step: a change of what is drawn, resampled or normalised
    // shows here. The taps of blurs are the platform's `exp`: another C library's may round otherwise.
    let stored = [
        (0x209f_1bd8_ad04_9874, 0x777a_3928_10b3_2aa0),
        (0x7f55_8c18_3142_aba6, 0x31a9_b774_a10f_97c6),
        (0xe69e_cc4a_7186_c206, 0x1069_0873_e151_ea5d),
        (0x53d0_74a1_16cd_e82c, 0x9479_e6be_b0e9_678c),
        (0x0135_8ab6_3d12_c17a, 0xe365_c655_8bb0_5d9d),
        (0x4582_05fb_7d97_ba94, 0xcac2_e669_9920_e738),
    ];
    let hash = |values: &[f32]| {
        let step = |h: u64, v: &f32| (h ^ u64::from(v.to_bits())).wrapping_mul(0x0100_0000_01b3);
        values.iter().fold(0xcbf2_9ce4_8422_2325, step)
    };
    let augment = Augment { crop: [43, 47], ..Augment::default() };
    let spec = LoaderSpec { augment, ..spec(4) };
    let labeled = Loader::labeled(Arc::new(Pattern), spec.clone(), View::Weak).unwrap();
    let unlabeled = Loader::unlabeled(Arc::new(Pattern), spec).unwrap();
    for (step, want) in stored.into_iter().enumerate() {
        let batch = unlabeled.batch(step as u64).unwrap();
        assert_eq!(batch.images, labeled.batch(step as u64).unwrap().images);
        assert_eq!((hash(&weak(&batch.images)), hash(&strong(&batch))), want, "step {step}");
    }
}

#[test]
fn views_share_their_geometry_and_padding() {
    let augment =
        Augment { crop: [64, 64], scale: [0.75, 0.75], jitter: 0.0, gray: 0.0, blur: 0.0, ..spec(1).augment };
    let loader = Loader::unlabeled(scenes(3), LoaderSpec { augment: augment.clone(), ..spec(3) }).unwrap();
    let batch = loader.batch(0).unwrap();
    let worst =
        weak(&batch.images).iter().zip(&strong(&batch)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "{worst}");

    // 40 x 56 at 0.75 is 30 x 42: the rest is padding in image and labels alike, mirrored with the crop.
    let loader = Loader::labeled(scenes(3), LoaderSpec { augment, ..spec(3) }, View::Weak).unwrap();
    let batch = loader.batch(0).unwrap();
    for (rgb, &label) in weak(&batch.images).chunks(3).zip(&batch.labels) {
        assert_eq!(rgb == [0.0; 3], label == 255);
    }
    let shown = batch.labels.iter().filter(|&&l| l != 255).count();
    assert_eq!(shown, 3 * 30 * 42);
}

/// A source whose sample 3 fails.
struct Broken(Arc<dyn Source>);

impl Source for Broken {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn name(&self, i: usize) -> String {
        self.0.name(i)
    }
    fn load(&self, i: usize) -> psmt_fast::Result<Arc<Sample>> {
        if i == 3 { Err(Error::data("three.png", "broken")) } else { self.0.load(i) }
    }
    fn has_masks(&self) -> bool {
        true
    }
}

#[test]
fn errors_arrive_in_order_and_stop_the_loader() {
    let mut loader = Loader::labeled(Arc::new(Broken(scenes(8))), spec(1), View::Weak).unwrap();
    let results: Vec<_> = (0..8).map(|_| loader.next()).take_while(|r| r.is_ok()).collect();
    assert!(results.len() < 8);
    assert!(data_error(loader.next()).contains("stopped"));
    let step = results.len() as u64;
    assert_eq!(data_error(loader.batch(step)), "three.png: broken");
    loader.start(step + 1).unwrap();
    loader.next().unwrap();
}

#[test]
fn dropping_a_busy_loader_ends_it() {
    for taken in 0..3 {
        let mut loader = Loader::unlabeled(scenes(6), spec(2)).unwrap();
        loader.start(0).unwrap();
        for _ in 0..taken {
            loader.next().unwrap();
        }
    }
}

#[test]
fn waiting_on_the_only_worker_makes_progress() {
    // Of the global pool, where the loader's own tasks run; every worker waits at once.
    let waits: Vec<UnlabeledBatch> = rayon::broadcast(|_| {
        let mut loader = Loader::unlabeled(scenes(6), spec(2)).unwrap();
        loader.next().unwrap();
        loader.next().unwrap()
    });
    assert!(waits.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let fails = |augment: Augment, key: &str| {
        let error = Loader::labeled(scenes(2), LoaderSpec { augment, ..spec(2) }, View::Weak).err().unwrap();
        assert!(matches!(error, Error::Config { .. }), "{error:?}");
        assert_has(&error.to_string(), &[key]);
    };
    let good = spec(2).augment;
    fails(Augment { crop: [0, 4], ..good.clone() }, "crop");
    fails(Augment { base_size: Some(0), ..good.clone() }, "base_size");
    fails(Augment { scale: [2.0, 0.5], ..good.clone() }, "scale");
    fails(Augment { flip: 1.5, ..good.clone() }, "flip");
    fails(Augment { hue: 0.7, ..good.clone() }, "hue");
    fails(Augment { contrast: f32::NAN, ..good.clone() }, "contrast");
    for kernels in [vec![1, 4, 5], vec![1, 3, 513], vec![0, 1, 3]] {
        fails(Augment { blur_kernels: kernels, ..good.clone() }, "blur_kernels");
    }
    for shares in [vec![1.0, 1.0], vec![0.0; 3], vec![1.0, -1.0, 1.0], vec![f32::NAN, 1.0, 1.0]] {
        fails(Augment { blur_kernel_shares: shares, ..good.clone() }, "blur_kernel_shares");
    }
    assert!(Loader::labeled(scenes(0), spec(2), View::Weak).is_err());
    assert!(Loader::labeled(scenes(2), spec(0), View::Weak).is_err());
    let error = toml::from_str::<Augment>("crop = [8, 8]\nblurr = 1").unwrap_err().to_string();
    assert_has(&error, &["unknown field `blurr`"]);
    assert_eq!(toml::from_str::<Augment>("").unwrap(), Augment::default());
    let text = toml::to_string(&Augment { base_size: Some(600), ..good.clone() }).unwrap();
    assert_eq!(toml::from_str::<Augment>(&text).unwrap(), Augment { base_size: Some(600), ..good });
}

#[test]
fn a_base_size_sets_the_long_side() {
    let augment = Augment { base_size: Some(600), crop: [512, 512], ..Augment::default() };
    let mut rng = Key::new(1, Domain::Bench, 1).stream();
    let (mut least, mut most) = (usize::MAX, 0);
    for _ in 0..4000 {
        let (h, w) = augment.geometry((375, 500), &mut rng).full;
        assert_eq!(h, (w as f64 * 0.75 + 0.5) as usize);
        (least, most) = (least.min(w), most.max(w));
    }
    assert!((300..310).contains(&least) && (1190..=1200).contains(&most), "{least} {most}");
}
