//! Predictions of whole batches: labels, probabilities and scores, whole or through a sliding window. Must
//! not know files.

use super::inference::{Logits, Prediction, Predictor, softmax, upload};
use super::{Overlap, window};
use crate::Result;
use crate::data::HostImages;
use crate::ops::{self, Backend, Shape, Size};

impl<B: Backend> Predictor<'_, B> {
    /// Predicts a batch at `out` rows and columns, one [`Prediction`] for each of `which`. A window of the
    /// settings slides over the images, which have no padding, in steps of two thirds of itself; without one
    /// they are predicted whole, at the next multiples of `settings.multiple`.
    ///
    /// # Errors
    /// A prediction that the networks cannot give, or a window that does not fit into memory.
    pub fn predict(&self, images: &HostImages, out: Size) -> Result<Vec<Prediction<B>>> {
        let Predictor { b, arch, which, settings, .. } = *self;
        let shape = images.shape;
        if settings.is_whole((shape.h, shape.w)) {
            let (logits, sizes) = self.whole(images, out)?;
            return which.iter().map(|&w| logits.pseudo_label(b, w, &sizes)).collect();
        }
        let all = self.scores(images, out)?;
        let shape = Shape::new(shape.n, out.0, out.1, arch.config.num_classes);
        let logits = settings.overlap == Overlap::Logits;
        Ok(all.iter().map(|p| Prediction::of(b, shape, p, logits)).collect())
    }

    /// The probabilities that [`Predictor::predict`] takes its labels from, on the host, NHWC at `out` rows
    /// and columns, for each of `which`.
    ///
    /// # Errors
    /// As [`Predictor::predict`].
    pub fn probabilities(&self, images: &HostImages, out: Size) -> Result<Vec<Vec<f32>>> {
        let mut all = self.scores(images, out)?;
        let whole = self.settings.is_whole((images.shape.h, images.shape.w));
        if whole || self.settings.overlap == Overlap::Logits {
            all.iter_mut().for_each(|p| softmax(p, self.arch.config.num_classes));
        }
        Ok(all)
    }

    /// What the labels of [`Predictor::predict`] are the arg max of, on the host, NHWC at `out` rows and
    /// columns, for each of `which`: logits, or the probabilities of windows that combine by
    /// [`Overlap::Probabilities`].
    ///
    /// # Errors
    /// As [`Predictor::predict`].
    pub fn scores(&self, images: &HostImages, out: Size) -> Result<Vec<Vec<f32>>> {
        if self.settings.is_whole((images.shape.h, images.shape.w)) {
            let (logits, sizes) = self.whole(images, out)?;
            return self.which.iter().map(|&w| logits.mean(self.b, w, &sizes)).collect();
        }
        self.check_available()?;
        window::scores(self, images, out)
    }

    fn check_available(&self) -> Result<()> {
        self.which.iter().try_for_each(|w| w.expect_among(&self.nets.available()))
    }

    /// Logits of whole images, and the sizes that they are upsampled to one after another. As published for
    /// VOC, the normalised image is stretched to the next multiples, and its logits are upsampled to that
    /// size before they get the size of `out`.
    fn whole(&self, images: &HostImages, out: Size) -> Result<(Logits<B>, Vec<Size>)> {
        self.check_available()?;
        let mut x = upload(self.b, images, &self.settings.normalize)?;
        let mut sizes = vec![out];
        if self.settings.multiple > 1 {
            let up = |v: usize| v.next_multiple_of(self.settings.multiple);
            let size = (up(images.shape.h), up(images.shape.w));
            if size != (images.shape.h, images.shape.w) {
                x = ops::interpolate(self.b, &x, size)?;
            }
            if size != out {
                sizes.insert(0, size);
            }
        }
        Ok((Logits::new(self, &x)?, sizes))
    }
}
