//! psmt-fast trains semantic-segmentation networks from few labelled and many unlabelled images by PS-MT (Liu
//! et al., "Perturbed and Strict Mean Teachers for Semi-supervised Semantic Segmentation", CVPR 2022).
//!
//! The program is a thin layer over this library. What a program of your own may build on:
//!
//! | module | for |
//! | --- | --- |
//! | [`backend`] | devices: [`backend::cpu::Cpu`] in f32 or f64, [`backend::cuda`] |
//! | [`ops`] | every op with its forward and backward pass, on any device |
//! | [`model`] | networks: [`model::Architecture`], [`model::Network`], tensor files ([`model::io`]) |
//! | [`method`] | one training step of PS-MT and of its baselines, T-VAT, CutMix, schedules |
//! | [`data`] | lists, decoding, augmentation, the loader |
//! | [`eval`] | metrics, inference on whole images and sliding windows |
//! | [`config`], [`train`] | whole runs: configuration, training, checkpoints |
//! | [`weights`], [`export`] | PyTorch's weight files in, ONNX out |
//!
//! Dependencies point downwards: the command line → [`config`], [`train`], [`export`], [`eval`], [`weights`]
//! → [`method`] → [`model`] → [`ops`] → [`backend`]; [`data`] stands next to the method and must not know
//! anything above it. `ARCHITECTURE.md` has the map.
//!
//! A network that takes one supervised step and then predicts:
//!
//! ```
//! use psmt_fast::backend::cpu::Cpu;
//! use psmt_fast::model::{Architecture, Initialization, ModelConfig, Network};
//! use psmt_fast::ops::{self, Device, Sgd, SgdStep, Shape};
//!
//! # fn main() -> psmt_fast::Result<()> {
//! let device = Cpu::<f32>::new();
//! let arch = Architecture::new(ModelConfig::tiny(3))?;
//! let (params, stats) = arch.init(Initialization::KaimingNormal, 1, 0);
//! let mut net = Network::upload(&device, &params, &stats);
//!
//! // Two images of 32 x 32 pixels, NHWC, and one label per pixel.
//! let x = device.upload(Shape::new(2, 32, 32, 3), &vec![0.1; 2 * 32 * 32 * 3]);
//! let y = device.upload_labels(Shape::new(2, 32, 32, 1), &vec![1; 2 * 32 * 32]);
//!
//! let (features, encoder) = arch.encoder_train(&device, &net.params, &mut net.stats, &x)?;
//! let (logits, decoder) = arch.decoder_train(&device, &net.params, &mut net.stats, &features)?;
//! // Logits have a quarter of the images' rows and columns; the loss interpolates them.
//! let loss = ops::cross_entropy(&device, &logits, &y, 1.0)?;
//!
//! let mut grads = device.zeros(arch.table.num_params);
//! let dfeatures = decoder.backward(&device, &net.params, &mut grads, &loss.dlogits)?;
//! encoder.backward(&device, &net.params, &mut grads, &dfeatures)?;
//!
//! let mut momentum = device.zeros(arch.table.num_params);
//! let spec = Sgd { lr: 0.01, momentum: 0.9, weight_decay: 1e-4, num_decayed: arch.table.num_decayed };
//! ops::sgd(
//!     &device,
//!     SgdStep { params: &mut net.params, grads: &grads, momentum: &mut momentum, spec: &spec, teacher: None },
//! )?;
//!
//! let logits = arch.predict(&device, &net, &x)?;
//! assert_eq!(Cpu::<f32>::shape(&logits), Shape::new(2, 8, 8, 3));
//! println!("loss {}", device.read_scalar(&loss.loss));
//! # Ok(())
//! # }
//! ```

pub mod backend;
#[doc(hidden)]
pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod eval;
pub mod export;
#[doc(hidden)]
pub mod files;
#[doc(hidden)]
pub mod host;
pub mod method;
pub mod model;
pub mod ops;
pub mod report;
pub mod rng;
pub mod train;
pub mod weights;

pub use error::{Error, Result};
