//! The schedule of a run and the settings of its steps that a configuration decides.

use super::{RunConfig, TeacherStart};
use crate::method::{NetworkName, Schedule, StepArgs, SupervisedLoss};
use crate::ops::View;

impl RunConfig {
    /// Networks that learn in the warm-up in the order of their turns, each with its view of the labelled
    /// images: teachers see the weak view, the student its own. Nobody where there is no warm-up or no
    /// teacher.
    pub fn warm_up_networks(&self) -> Vec<(NetworkName, View)> {
        let m = &self.method;
        let num_teachers = m.algorithm.num_teachers();
        if num_teachers == 0 || m.warm_up_passes == 0 {
            return Vec::new();
        }
        let own = if m.teacher_start == TeacherStart::WarmUp { num_teachers } else { 0 };
        let teachers = [NetworkName::Teacher1, NetworkName::Teacher2].into_iter().take(own);
        let student = (NetworkName::Student, m.labeled_view);
        teachers.map(|name| (name, View::Weak)).chain([student]).collect()
    }

    /// What every step of the run does, for lists of which a pass takes so many steps.
    pub fn schedule(&self, steps_per_pass: u64, steps_per_epoch: u64) -> Schedule {
        let m = &self.method;
        Schedule {
            warm_up: self.warm_up_networks(),
            warm_up_passes: m.warm_up_passes,
            steps_per_pass,
            epochs: self.schedule.train_epochs,
            steps_per_epoch,
            labeled_view: m.labeled_view,
            lr: self.optim.lr,
            unsup_weight: m.unsup_weight,
            ramp_up: m.ramp_up,
            ramp_up_epochs: m.ramp_up_epochs,
            num_teachers: m.algorithm.num_teachers(),
        }
    }

    /// Settings of a step of the warm-up: plain cross entropy, whatever loss follows.
    pub fn warm_up_args(&self) -> StepArgs {
        StepArgs { unsup_weight: 0.0, supervised_loss: SupervisedLoss::CrossEntropy, ..self.step_args() }
    }

    /// Settings of a step at the full learning rate and weight of the unsupervised loss, teacher 1 being
    /// active: what a schedule changes is for the caller to replace.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SupervisedLossName;
    use crate::method::Algorithm;
    use crate::ops::Ohem;

    #[test]
    fn warm_ups_train_by_plain_cross_entropy() {
        let mut c = RunConfig::default();
        c.optim.supervised_loss = SupervisedLossName::Ohem;
        assert_eq!(c.warm_up_args().supervised_loss, SupervisedLoss::CrossEntropy);
        // 50,000 pixels for each image of a batch, as released.
        let ohem = Ohem { threshold: 0.7, min_kept: 400_000 };
        assert_eq!(c.step_args().supervised_loss, SupervisedLoss::Ohem(ohem));
        c.optim.batch_size = 3;
        let ohem = Ohem { threshold: 0.7, min_kept: 150_000 };
        assert_eq!(c.step_args().supervised_loss, SupervisedLoss::Ohem(ohem));
    }

    #[test]
    fn teachers_warm_up_where_they_are_their_own() {
        use NetworkName::{Student, Teacher1, Teacher2};
        let mut c = RunConfig::default();
        let all = [(Teacher1, View::Weak), (Teacher2, View::Weak), (Student, View::Strong)];
        assert_eq!(c.warm_up_networks(), all);
        c.method.labeled_view = View::Weak;
        c.method.teacher_start = TeacherStart::Student;
        assert_eq!(c.warm_up_networks(), [(Student, View::Weak)]);
        c.method.teacher_start = TeacherStart::WarmUp;
        c.method.algorithm = Algorithm::MeanTeacher;
        assert_eq!(c.warm_up_networks(), [(Teacher1, View::Weak), (Student, View::Weak)]);
        c.method.algorithm = Algorithm::Supervised;
        assert_eq!(c.warm_up_networks(), []);
        c.method.algorithm = Algorithm::PsMt;
        c.method.warm_up_passes = 0;
        assert_eq!((c.warm_up_networks(), c.schedule(3, 5).warm_up_steps()), (vec![], 0));
    }
}
