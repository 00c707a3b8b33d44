//! The networks, batches and settings that stages of a training step are timed with: those of the PyTorch
//! benchmark.

use psmt_fast::config::{self, MethodConfig, RunConfig};
use psmt_fast::method::{Batch, Networks, StepArgs, Tvat, Unlabeled};
use psmt_fast::model::{Architecture, Initialization, ModelConfig, Network};
use psmt_fast::ops::{Adjust, Backend, Blur, Mix, Shape, Strong};
use psmt_fast::rng::{Domain, Key};
use psmt_fast::{Error, Result};

/// Network and batch.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// The network.
    pub arch: Architecture,
    /// Side of the images.
    pub crop: usize,
    /// Labelled images, and as many unlabelled ones.
    pub batch: usize,
}

impl Sizes {
    /// Checks that they can be trained with.
    ///
    /// # Errors
    /// [`Error::Config`] for a network or batch, [`Error::Usage`] for a crop that cannot be.
    pub fn new(model: ModelConfig, crop: usize, batch: usize) -> Result<Sizes> {
        config::check_batch(batch)?;
        if crop == 0 {
            return Err(Error::Usage("--crop: expected at least 1 pixel, got 0".into()));
        }
        Ok(Sizes { arch: Architecture::new(model)?, crop, batch })
    }

    /// Small ones of the same number of classes, which a processor computes in double precision in a moment.
    ///
    /// # Errors
    /// As [`Sizes::new`].
    pub fn small(&self) -> Result<Sizes> {
        Sizes::new(ModelConfig::tiny(self.arch.config.num_classes), 33, 2)
    }

    /// Shape of the images.
    pub fn images(&self) -> Shape {
        Shape::new(self.batch, self.crop, self.crop, 3)
    }

    /// Shape of the logits of an image batch.
    pub fn logits(&self) -> Shape {
        self.arch.logits_shape(self.images())
    }
}

/// Freshly drawn networks, momentum and gradient of zeros.
pub fn networks<B: Backend>(b: &B, sizes: &Sizes) -> Networks<B> {
    let arch = &sizes.arch;
    let net = |number| {
        let (params, stats) = arch.init(Initialization::default(), 0, number);
        Network::upload(b, &params, &stats)
    };
    let zeros = || b.zeros(arch.table.num_params);
    Networks { student: net(0), teachers: vec![net(1), net(2)], momentum: zeros(), grads: zeros() }
}

/// Images of normal values.
pub fn images<B: Backend>(b: &B, shape: Shape, number: u64) -> B::Tensor {
    let mut rng = Key::new(0, Domain::Bench, number).stream();
    let values: Vec<f32> = (0..shape.len()).map(|_| rng.normal()).collect();
    b.upload(shape, &values)
}

/// One CutMix box a quarter of the side from the border, images in reverse.
pub fn mix(sizes: &Sizes) -> Mix {
    let (lo, hi) = (sizes.crop / 8, sizes.crop / 2);
    Mix { boxes: vec![vec![[lo, lo, hi, hi]; sizes.batch]], perm: vec![(0..sizes.batch).rev().collect()] }
}

/// Every adjustment, the widest usual blur, every other image in grey.
pub fn strong(sizes: &Sizes) -> Vec<Strong> {
    let jitter =
        vec![Adjust::Brightness(1.2), Adjust::Contrast(0.8), Adjust::Saturation(1.3), Adjust::Hue(0.1)];
    let blur = Some(Blur { kernel: 9, sigma: 2.0 });
    (0..sizes.batch).map(|i| Strong { jitter: jitter.clone(), gray: i % 2 == 1, blur }).collect()
}

/// Normal images, uniform labels and noise.
pub fn random_batch<B: Backend>(b: &B, sizes: &Sizes) -> Batch<B> {
    let shape = sizes.images();
    let classes = sizes.arch.config.num_classes;
    let mut rng = Key::new(0, Domain::Bench, 3).stream();
    let labels: Vec<u8> = (0..shape.positions()).map(|_| rng.below(classes) as u8).collect();
    let features = sizes.arch.feature_shape(shape);
    let noise = |number| b.uniform_noise(features, Key::new(0, Domain::Bench, number));
    Batch {
        x: images(b, shape, 0),
        y: b.upload_labels(shape.with_channels(1), &labels),
        unlabeled: Some(Unlabeled {
            weak: images(b, shape, 1),
            strong: images(b, shape, 2),
            truth: None,
            mix: mix(sizes),
            noise_labeled: noise(4),
            noise_unlabeled: noise(5),
        }),
    }
}

/// The method's defaults with feature noise `tvat`.
pub fn step_args(tvat: Tvat) -> StepArgs {
    // Random networks are unsure: a low threshold lets pixels pass, as in the PyTorch benchmark.
    let method = MethodConfig { threshold: 0.05, tvat, ..MethodConfig::default() };
    RunConfig { method, ..RunConfig::default() }.step_args()
}
