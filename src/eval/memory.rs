//! The least memory that predicting images takes, known before anything of it is taken. Must not know files.

use super::Settings;
use crate::model::DeepLab;
use crate::ops::{Backend, Shape, Size};
use crate::{Error, Result};

/// Refuses predictions that cannot fit: of `n` images that networks see at `seen` and whose predictions have `out` rows and
/// columns. More is taken than is counted here, so what passes may still not fit.
///
/// # Errors
/// [`Error::Memory`] with the settings that decide.
pub(super) fn check<B: Backend>(
    b: &B,
    arch: &DeepLab,
    settings: &Settings,
    n: usize,
    seen: Size,
    out: Size,
) -> Result<()> {
    let refuse = |bytes: u128, available: u64| Error::Memory {
        what: format!(
            "predicting {n} images at {} x {} (rows x columns) on {}: eval.long_side (--eval-size), --scales, eval.window \
             (--window) and eval.batch_size decide; it",
            seen.0,
            seen.1,
            b.name()
        ),
        needed_mib: u64::try_from(bytes >> 20).unwrap_or(u64::MAX),
        available_mib: available >> 20,
    };
    let pixels = |(h, w): Size| (h as u128 * w as u128).saturating_mul(n as u128);
    // Bytes of the images as networks see them, and scores of every class on the host where several views or windows combine.
    let mut host = pixels(seen).saturating_mul(3);
    let is_whole = settings.is_whole(seen);
    if !is_whole || !settings.views.is_single() {
        let kept = if is_whole { pixels(out) } else { pixels(out).max(pixels(seen)) };
        host = host.saturating_add(kept.saturating_mul(4 * arch.config.num_classes as u128));
    }
    if let Some(available) = crate::host::available_memory().filter(|&available| host > available.into()) {
        return Err(refuse(host, available));
    }
    let up = |v: usize| {
        if is_whole {
            v.checked_next_multiple_of(settings.multiple.max(1))
        } else {
            Some(v.min(settings.window))
        }
    };
    let (Some(h), Some(w)) = (up(seen.0), up(seen.1)) else { return Err(refuse(u128::MAX, u64::MAX)) };
    let Some(available) = b.available_memory() else { return Ok(()) };
    // Anything larger than this alone is too large, and below it no product overflows.
    let input = pixels((h, w)).saturating_mul(3 * b.value_bytes() as u128);
    let bytes = match input > available.into() {
        true => input,
        false => u128::from(arch.largest_layer(Shape::new(n, h, w, 3))) * b.value_bytes() as u128,
    };
    if bytes > available.into() { Err(refuse(bytes, available)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::eval::Views;
    use crate::model::ModelConfig;

    #[test]
    fn only_what_cannot_fit_is_refused() {
        let arch = DeepLab::new(ModelConfig::tiny(3)).unwrap();
        let b = Cpu::<f32>::new();
        if b.available_memory().is_none() {
            return eprintln!("skipped: nobody knows what memory is left");
        }
        let fits = |settings: &Settings, seen| check(&b, &arch, settings, 1, seen, (64, 64));
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
}
