//! Known data layouts with the settings that fit them. A preset only sets defaults: file and command line
//! win.

use super::{ModelSettings, RunConfig, SupervisedLossName, TeacherStart};
use crate::data::Preset;
use crate::method::cut_mix::CutMixForm;
use crate::model::Initialization;
use crate::ops::View;

impl RunConfig {
    /// Defaults with those of `preset`.
    pub fn preset(preset: Option<Preset>) -> RunConfig {
        let mut c = RunConfig::default();
        let Some(preset) = preset else { return c };
        c.data.preset = Some(preset);
        c.data.num_classes = preset.num_classes();
        c.augment.base_size = preset.base_size();
        match preset {
            Preset::Voc => {}
            Preset::Cityscapes => {
                c.augment.crop = [800, 800];
                c.method.cut_mix = CutMixForm::Cityscapes;
                c.optim.supervised_loss = SupervisedLossName::Ohem;
                c.optim.lr = 4.5e-3;
                c.eval.window = 800;
                c.eval.batch_size = 1;
            }
            Preset::Camvid => {
                c.augment.base_size = Some(240);
                c.augment.crop = [128, 128];
                c.model = small_model(16, 64);
                c.model.initialization = Initialization::Pytorch;
                c.optim.lr = 0.1;
                c.eval.long_side = 240;
                c.eval.batch_size = 8;
                c.method.warm_up_passes = 200;
                c.method.ramp_up_epochs = 6.0;
                from_scratch(&mut c);
                c.schedule.train_epochs = 40;
                c.schedule.steps_per_epoch = 50;
                c.run.val_every = 10;
            }
            Preset::Demo => {
                c.augment.base_size = Some(96);
                c.augment.crop = [80, 80];
                c.model = small_model(8, 32);
                c.optim.lr = 0.1;
                c.optim.batch_size = 4;
                c.eval.batch_size = 12;
                c.method.threshold = 0.8;
                c.method.unsup_weight = 1.0;
                // The scenes' classes are told apart by hue.
                c.augment.hue = 0.05;
                c.augment.gray = 0.0;
                c.method.warm_up_passes = 100;
                c.method.ramp_up_epochs = 4.0;
                from_scratch(&mut c);
                c.schedule.train_epochs = 10;
                c.run.val_every = 4;
                c.run.checkpoint_every = 100;
            }
        }
        c
    }
}

/// A tiny network with stem and reduced features 16 wide, for images of about a hundred pixels and no
/// pretraining.
fn small_model(planes: usize, aspp: usize) -> ModelSettings {
    ModelSettings {
        name: "tiny".into(),
        stem_width: Some(16),
        planes: Some(planes),
        aspp: Some(aspp),
        low_level: Some(16),
        ..Default::default()
    }
}

/// Settings for short runs without pretraining: the teachers' own warm-up would end too far from the student
/// for an average of weights, and the published decay would average over more steps than there are.
fn from_scratch(c: &mut RunConfig) {
    c.method.teacher_start = TeacherStart::Student;
    c.method.labeled_view = View::Weak;
    c.method.ema_decay = 0.99;
}
