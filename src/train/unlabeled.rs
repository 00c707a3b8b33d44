//! The picture of unlabelled crops with their pseudo labels after an epoch. Nothing here changes the run.

use super::pictures::{self, Crop};
use super::step;
use super::trainer::Trainer;
use crate::eval::Palette;
use crate::ops::Backend;
use crate::{Error, Result};

impl<B: Backend> Trainer<'_, B> {
    /// Writes the picture of the epoch's last unlabelled batch with the pseudo labels that the networks give
    /// to it now. The batch is made again from its number, so a resumed run makes the same picture.
    pub(super) fn picture_unlabeled(&mut self, epoch: u64) -> Result<()> {
        let (config, schedule) = (self.config, &self.schedule);
        let rows = config.run.pictures.min(config.optim.batch_size);
        let done = self.state.progress.step - schedule.warm_up_steps();
        if rows == 0 || done == 0 || !config.method.algorithm.has_pseudo_labels() {
            return Ok(());
        }
        let Some(loader) = self.data.unlabeled_loader(config)? else { return Ok(()) };
        let batch = loader.batch(done * config.optim.accumulate as u64 - 1)?;
        let core = usize::from(schedule.step(self.state.progress.step - 1).core.max(1));
        let setup = step::Setup { b: self.b, arch: self.arch, config };
        let nets = &mut self.state.nets;
        let Some((labels, confidences)) = step::pseudo_labels(&setup, nets, &batch, core)? else {
            return Ok(());
        };
        self.b.check()?;
        let palette = Palette::new(self.meta.preset, self.arch.config.num_classes);
        let [h, w] = config.augment.crop;
        let crop = |i: usize| {
            let pixels = i * h * w..(i + 1) * h * w;
            let crop = Crop {
                size: (h, w),
                image: &batch.images.data[3 * pixels.start..3 * pixels.end],
                truth: batch.labels.as_ref().map(|truth| &truth[pixels.clone()]),
                label: &labels[pixels.clone()],
                confidence: &confidences[pixels],
            };
            pictures::unlabeled_strip(&crop, config.method.threshold as f32, &palette)
        };
        let strips: Vec<_> = (0..rows).map(crop).collect();
        let path = self.dir.pictures().join(format!("unlabeled-{epoch:04}.png"));
        let size = pictures::write(&path, &strips)?;
        if let Some(events) = &mut self.events {
            let png = std::fs::read(&path).map_err(Error::io(&path))?;
            events.picture("unlabeled", self.state.progress.step, size, &png)?;
        }
        Ok(())
    }
}
