//! Known data layouts with the settings that fit them. A preset only sets defaults: file and command line win.

use super::{ModelSettings, RunConfig, SupervisedLossName, TeacherStart};
use crate::data::Preset;
use crate::method::cut_mix::CutMixForm;

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
                c.augment.crop = [160, 160];
                c.model = ModelSettings {
                    name: "tiny".into(),
                    stem_width: Some(16),
                    planes: Some(16),
                    aspp: Some(48),
                    low_level: Some(16),
                    ..Default::default()
                };
                c.optim.lr = 2e-2;
                c.eval.long_side = 240;
                c.eval.batch_size = 8;
            }
            Preset::Demo => {
                c.augment.base_size = Some(96);
                c.augment.crop = [80, 80];
                c.model = ModelSettings {
                    name: "tiny".into(),
                    stem_width: Some(16),
                    planes: Some(8),
                    aspp: Some(32),
                    low_level: Some(16),
                    ..Default::default()
                };
                c.optim.lr = 0.1;
                c.optim.batch_size = 4;
                c.eval.batch_size = 12;
                c.method.threshold = 0.8;
                c.method.unsup_weight = 1.0;
                c.method.warm_up_epochs = 8;
                c.method.ramp_up_epochs = 4.0;
                // Without pretraining the teachers' own warm-up ends too far from the student for an average of weights.
                c.method.teacher_start = TeacherStart::Student;
                c.schedule.epochs = 20;
                c.run.val_every = 4;
                c.run.checkpoint_every = 100;
            }
        }
        c
    }
}
