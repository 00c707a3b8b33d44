//! Everything that the laboratory has about an op, one file per family as in `src/ops/`: for `bench` how its
//! calls are noted, what they cost, and running them on drawn inputs; for `op` how a fixture's tensors become
//! arguments and results; for `gradcheck` its derivatives. Here is the list of all of them.

mod batch_norm;
mod conf_ce;
mod confusion_matrix;
pub(crate) mod conv2d;
mod cross_entropy;
mod cut_mix;
mod device;
mod elementwise;
mod ensemble_pseudo_label;
mod interpolate;
mod mse_consistency;
mod optimizer;
mod photometric;
mod pool;
mod tvat;

use crate::bench::case::{Case, Draw, Facts, Work};
use crate::check::gradcheck::{Check, Claimant};
use crate::check::run_op::FixtureOp;
pub(crate) use conf_ce::ConfCeAttrs;
pub(crate) use ensemble_pseudo_label::{EnsembleAttrs, Teachers};
use psmt_fast::Result;
use psmt_fast::ops::Backend;

/// For each file: its cases, the fixtures that it runs, and the derivatives that it checks, with the number
/// that seeds the draws of each. Makes [`Call`] of the cases and gathers the rest.
macro_rules! registry {
    ($(
        $file:ident: [$($case:ident),*] [$($op:literal => $run:ident),*]
        [$($number:literal $name:literal => $draw:ident),*];
    )*) => {
        $(pub(crate) use $file::{$($case),*};)*

        /// An op with its sizes and settings as plain data: what a trace notes and what is timed.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)] // One variant per case.
        pub enum Call {
            $($($case($case),)*)*
        }

        $($(impl From<$case> for Call {
            fn from(case: $case) -> Call {
                Call::$case(case)
            }
        })*)*

        /// The ops that fixtures name.
        pub(crate) fn fixtures<B: Backend>() -> Vec<FixtureOp<B>> {
            vec![$($(($op, $file::$run),)*)*]
        }

        /// Backward and tangent passes that are compared with finite differences.
        pub(crate) fn checks<B: Claimant>() -> Vec<Check<B>> {
            vec![$($(Check { number: $number, op: $name, draw: $file::$draw },)*)*]
        }

        impl Call {
            pub(crate) fn facts(&self) -> Facts {
                match self {
                    $($(Call::$case(case) => case.facts(),)*)*
                }
            }

            pub(crate) fn prepare<B: Backend>(&self, draw: &mut Draw<'_, B>) -> Result<Work<B>> {
                match self {
                    $($(Call::$case(case) => case.prepare(draw),)*)*
                }
            }
        }
    };
}

registry! {
    batch_norm:
        [BatchNormTrain, BatchNormEval, BatchNormTrainBwd, BatchNormEvalBwd, BatchNormTangent]
        ["batch_norm" => fixture]
        [1 "batch_norm_train" => train_problems, 2 "batch_norm_eval" => eval_problems,
         3 "batch_norm_tangent" => tangent_problems];
    conf_ce: [ConfCe] ["conf_ce" => fixture] [12 "conf_ce" => problems];
    confusion_matrix: [ConfusionMatrix] ["confusion_matrix" => fixture] [];
    conv2d: [Fprop, Dgrad, Wgrad] ["conv2d" => fixture] [0 "conv2d" => problems];
    cross_entropy:
        [CrossEntropy]
        ["cross_entropy" => fixture, "ohem_cross_entropy" => ohem_fixture]
        [10 "cross_entropy" => problems, 11 "ohem_cross_entropy" => ohem_problems];
    cut_mix: [CutMix] ["cut_mix" => fixture] [];
    device: [Clear, WatchTensor, WatchVector] [] [];
    elementwise:
        [LeakyRelu, LeakyReluBwd, Concat, SliceChannels, Add, SumPositions]
        ["leaky_relu" => leaky_relu_fixture]
        [4 "leaky_relu" => leaky_relu_problems, 8 "add" => add_problems, 9 "concat" => concat_problems];
    ensemble_pseudo_label: [EnsemblePseudoLabel] ["ensemble_pseudo_label" => fixture] [];
    interpolate: [Interpolate, InterpolateBwd] ["interpolate" => fixture] [7 "interpolate" => problems];
    mse_consistency: [MseConsistency] [] [13 "mse_consistency" => problems];
    optimizer: [Sgd, SgdEma, CopySpans] [] [];
    photometric:
        [NormalizeBytes, Photometric]
        ["adjust_brightness" => adjust, "adjust_contrast" => adjust, "adjust_saturation" => adjust,
         "adjust_hue" => adjust, "grayscale" => grayscale, "gaussian_blur" => gaussian_blur]
        [];
    pool:
        [MaxPool, MaxPoolBwd, AdaptiveAvgPool, AdaptiveAvgPoolBwd]
        ["max_pool2d" => max_pool2d_fixture, "adaptive_avg_pool2d" => adaptive_avg_pool2d_fixture]
        [5 "max_pool2d" => max_pool2d_problems, 6 "adaptive_avg_pool2d" => adaptive_avg_pool2d_problems];
    tvat:
        [UniformNoise, Normalize, AddNormalized, TvatCotangent, KlGradient]
        []
        [14 "kl_gradient" => kl_gradient_problems, 15 "tvat_cotangent" => tvat_cotangent_problems];
}

impl Call {
    /// The op's name.
    pub fn name(&self) -> &'static str {
        self.facts().name
    }

    /// Sizes and settings in a few words.
    pub fn sizes(&self) -> String {
        self.facts().sizes
    }

    /// Multiply-adds times two of a convolution.
    pub fn flops(&self) -> Option<u64> {
        self.facts().flops
    }

    /// Bytes that the op moves at least, where an activation has `value` bytes.
    pub fn least_bytes(&self, value: usize) -> u64 {
        self.facts().least_bytes(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use psmt_fast::ops::{self, MaxPool2d, Shape};

    #[test]
    fn bytes_are_those_of_the_definition() {
        let bytes = |call: Call, value| call.least_bytes(value);
        let x = Shape::new(2, 3, 5, 8);
        assert_eq!(bytes(LeakyRelu { x }.into(), 4), 2 * 240 * 4);
        assert_eq!(bytes(LeakyRelu { x }.into(), 2), 2 * 240 * 2);
        let pool = MaxPool2d { kernel: 3, stride: 2, padding: 1 };
        assert_eq!(bytes(MaxPoolBwd { x, pool }.into(), 2), 2 * (240 + 240 + 2 * 2 * 3 * 8));
        let spec = ops::Sgd { lr: 0.1, momentum: 0.9, weight_decay: 0.0, num_decayed: 0 };
        assert_eq!(bytes(SgdEma { len: 10, stats: 0, spec }.into(), 2), 10 * (7 * 4 + 2 * 2));
        assert_eq!(bytes(SgdEma { len: 10, stats: 3, spec }.into(), 4), 10 * 7 * 4 + 3 * 3 * 4);
    }
}
