//! How much memory a prediction takes, from sizes alone: of a whole image, or of a sliding window. Must not
//! know files.

use super::{Overlap, Prediction, Predictor, Settings, network_size};
use crate::data::HostImages;
use crate::model::Architecture;
use crate::ops::{self, Backend, Shape, Size};
use crate::{Error, Result};

/// What is predicted.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Rows and columns of the images.
    pub size: Size,
    /// Images that are predicted together.
    pub images: usize,
    /// Networks that run.
    pub networks: usize,
    /// Predictions that are asked for.
    pub predictions: usize,
}

/// Pixels of a batch of which no machine holds the activations, and for which their number need not be
/// computed.
const LARGEST: u64 = 1 << 36;

/// Bytes that predicting takes in addition to the networks: images, activations, logits, and labels with
/// confidences. On a device they are its own, but for the sums over windows and views.
pub fn bytes(arch: &Architecture, settings: &Settings, asked: &Asked) -> u64 {
    let Asked { size, images, networks, predictions } = *asked;
    let (n, classes) = (images as u64, arch.config.num_classes as u64);
    let area = |(h, w): Size| (h as u64).saturating_mul(w as u64);
    let all = |parts: &[u64]| parts.iter().fold(0u64, |sum, part| sum.saturating_add(*part));
    let times = |a: u64, b: u64| a.saturating_mul(b);
    let pixels = times(n, area(size));
    // Image and mask, the batch of both and its copy on the device.
    let input = times(12, pixels);
    // Label and confidence of each prediction.
    let output = times(5 * predictions as u64, pixels);
    let views = settings.views.of(network_size(size, settings.long_side));
    let of_view = |seen: Size| {
        let whole = settings.is_whole(seen);
        let shown = if whole { stretched(seen, settings.multiple) } else { window(seen, settings) };
        if times(n, area(shown)) > LARGEST {
            return u64::MAX;
        }
        let x = Shape::new(images, shown.0, shown.1, 3);
        let logits = times(4 * networks as u64, arch.logits_shape(x).len() as u64);
        let activations = arch.inference_bytes(x);
        // Two networks' logits at one size, which an ensemble takes the mean of.
        let upsampled = |size: Size| times(2 * 4 * classes, times(n, area(size)));
        let upsampled = match (whole, settings.views.is_single()) {
            (true, true) if shown == seen => 0,
            (true, true) => upsampled(shown),
            (true, false) => upsampled(size),
            (false, _) => upsampled(shown),
        };
        let shown = times(2 * 3 + 4 * 3, times(n, area(shown)));
        // Networks run one after another; then their logits are all that is left.
        all(&[shown, logits, activations.max(upsampled)])
    };
    let pass = views.iter().map(|view| of_view(view.size)).max().unwrap_or(0);
    let scores = |size: Size| times(4 * classes * predictions as u64, times(n, area(size)));
    let sums = match views.iter().map(|view| view.size).max_by_key(|size| area(*size)) {
        Some(seen) if !settings.is_whole(seen) => {
            all(&[scores(seen), if seen == size && settings.views.is_single() { 0 } else { scores(size) }])
        }
        _ if !settings.views.is_single() => times(2, scores(size)),
        _ => 0,
    };
    all(&[input, output, pass, sums])
}

/// Does on `b` what predicting `asked` does there: of several views the largest, of several windows one, of
/// images of zeros. A device that notes what memory is taken learns from it what a validation takes.
///
/// # Errors
/// Those of [`Predictor::predict`].
pub fn rehearse<B: Backend>(predictor: &Predictor<'_, B>, asked: &Asked) -> Result<()> {
    let Predictor { b, arch, which, settings, .. } = *predictor;
    let views = settings.views.of(network_size(asked.size, settings.long_side));
    let Some(view) = views.into_iter().max_by_key(|view| view.size.0 * view.size.1) else { return Ok(()) };
    let whole = settings.is_whole(view.size);
    let shown = if whole { view.size } else { window(view.size, settings) };
    let images = HostImages::whole(asked.images, shown, vec![0; asked.images * shown.0 * shown.1 * 3]);
    let as_whole =
        Settings { window: 0, multiple: if whole { settings.multiple } else { 1 }, ..settings.clone() };
    let as_whole = Predictor { settings: &as_whole, ..*predictor };
    let predictions = if whole && settings.views.is_single() {
        as_whole.predict(&images, asked.size)?
    } else {
        // The host adds scores up; their labels and confidences go back to the device.
        as_whole.scores(&images, if whole { asked.size } else { shown })?;
        if !whole && view.size != asked.size {
            let sums = Shape::new(asked.images, view.size.0, view.size.1, arch.config.num_classes);
            ops::interpolate(b, &b.upload(sums, &vec![0.0; sums.len()]), asked.size)?;
        }
        let shape = Shape::new(asked.images, asked.size.0, asked.size.1, 1);
        which.iter().map(|_| zero_prediction(b, shape)).collect()
    };
    let shape = B::labels_shape(&predictions[0].label);
    let target = b.upload_labels(shape, &vec![0; shape.positions()]);
    for p in &predictions {
        ops::confusion_matrix(b, &p.label, &target, arch.config.num_classes, None)?;
    }
    b.check()
}

fn zero_prediction<B: Backend>(b: &B, shape: Shape) -> Prediction<B> {
    let label = b.upload_labels(shape, &vec![0; shape.positions()]);
    Prediction { label, confidence: b.upload(shape, &vec![0.0; shape.positions()]) }
}

/// Refuses predictions that need more memory than there is, before any of it is taken.
///
/// # Errors
/// [`Error::Memory`] with the settings that decide.
pub(super) fn check<B: Backend>(
    b: &B,
    arch: &Architecture,
    settings: &Settings,
    asked: &Asked,
) -> Result<()> {
    let bytes = bytes(arch, settings, asked);
    let Some(available) = b.available_memory().filter(|&available| bytes > available) else { return Ok(()) };
    let Asked { size: (h, w), images, .. } = *asked;
    Err(Error::Memory {
        what: format!(
            "predicting {images} images of {h} x {w} pixels (rows x columns) on {} with eval.long_side (--eval-size) {}, \
             eval.window (--window) {}, {} views (--scales, --flip)",
            b.name(),
            settings.long_side,
            settings.window,
            settings.views.of((1, 1)).len()
        ),
        needed_mib: bytes >> 20,
        available_mib: available >> 20,
    })
}

fn stretched((h, w): Size, multiple: usize) -> Size {
    let up = |side: usize| side.checked_next_multiple_of(multiple.max(1)).unwrap_or(side);
    (up(h), up(w))
}

fn window((h, w): Size, settings: &Settings) -> Size {
    let side = settings.window;
    match settings.overlap {
        Overlap::Probabilities => (side.min(h), side.min(w)),
        Overlap::Logits => (side, side),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::eval::Views;
    use crate::model::ModelConfig;
    use crate::ops::Device;

    fn mib(settings: &Settings, size: Size, images: usize) -> u64 {
        let arch = Architecture::new(ModelConfig::resnet50(21)).unwrap();
        bytes(&arch, settings, &Asked { size, images, networks: 3, predictions: 4 }) >> 20
    }

    #[test]
    fn smaller_batches_windows_and_sides_take_less() {
        let plain = Settings { batch_size: 4, ..Settings::default() };
        let (four, one) = (mib(&plain, (2000, 3000), 4), mib(&plain, (2000, 3000), 1));
        assert!((4 * one..4 * one + 4).contains(&four), "{four} {one}");
        let side = mib(&Settings { long_side: 1000, ..plain.clone() }, (2000, 3000), 4);
        assert!(side < four / 2, "{side} {four}");
        // Windows save activations, and cost the sums of their scores: four predictions of 21 classes in f32.
        let windows = mib(&Settings { window: 512, ..plain.clone() }, (2000, 3000), 1);
        assert!(windows > (4 * 21 * 4 * 6_000_000) >> 20, "{windows}");
        assert!(windows < mib(&Settings { window: 2000, ..plain.clone() }, (2000, 3000), 1));
        let flipped = Settings { views: Views { scales: vec![1.0, 2.0], flip: true }, ..plain };
        assert!(mib(&flipped, (2000, 3000), 1) > 2 * one);
    }

    #[test]
    fn only_what_cannot_fit_is_refused() {
        let arch = Architecture::new(ModelConfig::tiny(3)).unwrap();
        let b = Cpu::<f32>::new();
        if b.available_memory().is_none() {
            return eprintln!("skipped: what memory is left is unknown");
        }
        let fits = |settings: &Settings, size| {
            check(&b, &arch, settings, &Asked { size, images: 1, networks: 1, predictions: 1 })
        };
        let whole = Settings::default();
        fits(&whole, (64, 64)).unwrap();
        let text = fits(&whole, (1 << 20, 1 << 20)).unwrap_err().to_string();
        assert!(text.contains("1048576 x 1048576") && text.contains("--eval-size"), "{text}");
        for absurd in [(usize::MAX, 1), (1, usize::MAX), (usize::MAX, usize::MAX)] {
            assert!(matches!(fits(&whole, absurd), Err(Error::Memory { .. })));
        }
        // A window bounds what networks see, not what the host keeps.
        let window = Settings { window: 64, ..Settings::default() };
        fits(&window, (4096, 64)).unwrap();
        assert!(fits(&window, (1 << 20, 1 << 20)).is_err());
        let stretched = Settings { multiple: 256, ..Settings::default() };
        assert!(fits(&stretched, (1, usize::MAX)).is_err());
        fits(&Settings { views: Views::new(vec![0.5, 1.0], true).unwrap(), ..whole }, (64, 64)).unwrap();
    }

    #[test]
    fn absurd_sizes_do_not_overflow() {
        let settings = Settings { window: 1 << 40, overlap: Overlap::Logits, ..Settings::default() };
        let arch = Architecture::new(ModelConfig::tiny(2)).unwrap();
        let asked = Asked { size: (10, 10), images: 1, networks: 1, predictions: 1 };
        assert_eq!(bytes(&arch, &settings, &asked), u64::MAX);
    }
}
