//! The settings of a training step that a configuration decides.

use super::RunConfig;
use crate::method::StepArgs;

impl RunConfig {
    /// Settings of a step at the full learning rate and weight of the unsupervised loss, teacher 1 being active: what a
    /// schedule changes is for the caller to replace.
    pub fn step_args(&self) -> StepArgs {
        let (method, optim) = (&self.method, &self.optim);
        StepArgs {
            lr: optim.lr,
            momentum: optim.momentum,
            weight_decay: optim.weight_decay,
            ema_decay: method.ema_decay,
            unsup_weight: method.unsup_weight,
            conf_ce: method.conf_ce(),
            ensemble: method.ensemble(),
            tvat: method.tvat_args(),
            active_teacher: 1,
            supervised_loss: optim.loss(),
            algorithm: method.algorithm,
            keep_noise: false,
        }
    }
}
