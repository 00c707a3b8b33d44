//! Everything that the laboratory has about an op, one file per family as in `src/ops/`: for `bench` how its calls are noted, what
//! they cost, and running them on drawn inputs; for `op` how a fixture's tensors become arguments and results; for `gradcheck`
//! its derivatives. Here is the list of all of them.

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

/// What a family of ops has besides its cases.
trait Family {
    /// The ops that fixtures name.
    fn fixtures<B: Backend>() -> Vec<FixtureOp<B>> {
        Vec::new()
    }

    /// Backward and tangent passes that are compared with finite differences.
    fn checks<B: Claimant>() -> Vec<Check<B>> {
        Vec::new()
    }
}

/// Makes [`Call`] of the cases of each file, and gathers what else there is.
macro_rules! registry {
    ($($file:ident: $($case:ident)*;)*) => {
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

        /// All [`Family::fixtures`].
        pub(crate) fn fixtures<B: Backend>() -> Vec<FixtureOp<B>> {
            [$($file::Ops::fixtures()),*].concat()
        }

        /// All [`Family::checks`].
        pub(crate) fn checks<B: Claimant>() -> Vec<Check<B>> {
            [$($file::Ops::checks()),*].into_iter().flatten().collect()
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
    batch_norm: BatchNormTrain BatchNormEval BatchNormTrainBwd BatchNormEvalBwd BatchNormTangent;
    conf_ce: ConfCe;
    confusion_matrix: ConfusionMatrix;
    conv2d: Fprop Dgrad Wgrad;
    cross_entropy: CrossEntropy;
    cut_mix: CutMix;
    device: Clear WatchTensor WatchVector;
    elementwise: LeakyRelu LeakyReluBwd Concat SliceChannels Add SumPositions;
    ensemble_pseudo_label: EnsemblePseudoLabel;
    interpolate: Interpolate InterpolateBwd;
    mse_consistency: MseConsistency;
    optimizer: Sgd SgdEma CopySpans;
    photometric: NormalizeBytes Photometric;
    pool: MaxPool MaxPoolBwd AdaptiveAvgPool AdaptiveAvgPoolBwd;
    tvat: UniformNoise Normalize AddNormalized TvatCotangent KlGradient;
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
