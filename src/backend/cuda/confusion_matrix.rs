//! Launch plans of kernels/confusion_matrix.cu.

use super::Cuda;
use super::driver::Launch;
use super::memory::{Counts, Dtype, Labels, Tensor, args};
use crate::Error;
use crate::ops::ConfusionMatrixOps;

impl ConfusionMatrixOps for Cuda {
    fn confusion_matrix(
        &self,
        pred: &Labels,
        target: &Labels,
        num_classes: usize,
        above: Option<(&Tensor, f64)>,
    ) -> Counts {
        if above.is_some_and(|(confidence, _)| confidence.dtype != Dtype::F32) {
            self.note::<()>(Err(Error::shape(FILE, "confidences in f32", "bf16")));
        }
        let (confidence, threshold) = (above.map(|a| a.0), above.map_or(0.0, |a| a.1) as f32);
        let counts = self.counts(num_classes * num_classes);
        let len = target.shape.len();
        let args = args![counts, pred, target, confidence, len as u64, num_classes as u32, threshold];
        let launch = Launch::new((len / WIDTH).div_ceil(256).clamp(1, BLOCKS), 256);
        let bytes = 4 * num_classes * num_classes;
        if bytes <= SHARED {
            self.launch(FILE, "confusion_matrix_shared", launch.with_shared(bytes), args);
        } else {
            self.launch(FILE, "confusion_matrix_global", launch, args);
        }
        counts
    }
}

const FILE: &str = "confusion_matrix";

/// Labels that a thread takes at a time.
const WIDTH: usize = 16;
/// Shared memory per block without opting in to more.
const SHARED: usize = 48 << 10;
/// Most blocks, as each adds its whole matrix to the result.
const BLOCKS: usize = 528;
