//! The op vocabulary. Each family of ops has structs for arguments and results, a trait that devices
//! implement, and for each op a public function that validates its arguments and calls the device, which
//! assumes that they are valid. A [`Device`] has memory; a [`Backend`] implements all families. Must not know
//! networks or the method.
//!
//! Activations are NHWC. Parameters, gradients and running statistics are flat vectors; ops address parts of
//! them by [`Span`]. A gradient with respect to an activation is returned (overwrites); a gradient with
//! respect to a parameter is added to the gradient vector (accumulates).

mod backend;
mod batch_norm;
mod check;
mod conf_ce;
mod confusion_matrix;
mod conv2d;
mod cross_entropy;
mod cut_mix;
mod elementwise;
mod ensemble_pseudo_label;
mod finite;
mod interpolate;
mod memory;
mod mse_consistency;
mod optimizer;
mod photometric;
mod pool;
mod spec;
mod tvat;

pub use backend::{Backend, Device};
pub use batch_norm::{
    BatchNormEval, BatchNormEvalBwd, BatchNormOps, BatchNormSaved, BatchNormTangent, BatchNormTrain,
    BatchNormTrainBwd, FrozenNorm, NormPass, batch_norm_eval, batch_norm_eval_bwd, batch_norm_tangent,
    batch_norm_train, batch_norm_train_bwd,
};
pub use conf_ce::{ConfCeArgs, ConfCeOps, ConfCeOut, conf_ce};
pub use confusion_matrix::{ConfusionMatrixOps, confusion_matrix};
pub use conv2d::{
    Conv2dOps, Dgrad, DgradOut, Fprop, FpropOut, Onto, OutputEnd, conv2d_dgrad, conv2d_fprop, conv2d_wgrad,
};
pub use cross_entropy::{CrossEntropyOps, LabelLoss, cross_entropy, ohem_cross_entropy};
pub use cut_mix::{CutMixOps, cut_mix};
pub use elementwise::{
    ElementwiseOps, add, concat, leaky_relu, leaky_relu_bwd, slice_channels, sum_positions,
};
pub use ensemble_pseudo_label::{EnsembleOps, PseudoLabel, TeacherLogits, ensemble_pseudo_label};
pub use finite::{MAX_PLACES, first_non_finite, first_non_finite_in, watch_key, watched};
pub use interpolate::{InterpolateOps, interpolate, interpolate_bwd};
pub use memory::{MemoryPlan, MemoryUse, StepMemory};
pub use mse_consistency::{LossGrad, MseConsistencyArgs, MseConsistencyOps, mse_consistency};
pub use optimizer::{OptimizerOps, SgdStep, Teacher, copy_spans, sgd};
pub use photometric::{
    Adjust, Blur, Box2d, Images, MAX_BLUR_KERNEL, Normalize, PhotometricOps, Pixels, Strong, View,
    normalize_bytes, photometric, upload_images,
};
pub use pool::{PoolOps, adaptive_avg_pool2d, adaptive_avg_pool2d_bwd, max_pool2d, max_pool2d_bwd};
pub use spec::{
    Activation, BatchNorm, ConfCe, Conv2d, Ensemble, HISTOGRAM_BINS, IGNORE, MaxPool2d, Mix, NORM_EPS, Ohem,
    RELU, Sgd, Shape, Size, Span,
};
pub use tvat::{TvatOps, add_normalized, kl_gradient, normalize, tvat_cotangent, uniform_noise};
