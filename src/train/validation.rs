//! Which epochs are validated. Must not know devices.

use crate::config::RunSettings;

/// Whether the epoch of this number, from 1, of `epochs` is validated: every `val_every` epochs, every epoch
/// after `val_all_from` of the run, and the last.
pub(super) fn is_validated(epoch: u64, epochs: u64, run: &RunSettings) -> bool {
    // As the release counts: epoch > int(3/4 (epochs + 1)).
    let late = (run.val_all_from * (epochs + 1) as f64).floor();
    epoch == epochs || epoch.is_multiple_of(run.val_every.max(1)) || epoch as f64 > late
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validated(epochs: u64, val_every: u64, val_all_from: f64) -> Vec<u64> {
        let run = RunSettings { val_every, val_all_from, ..RunSettings::default() };
        (1..=epochs).filter(|&e| is_validated(e, epochs, &run)).collect()
    }

    #[test]
    fn the_default_validates_every_epoch_and_val_every_some_and_the_last() {
        let default = RunSettings::default();
        assert!((1..=7).all(|e| is_validated(e, 7, &default)));
        assert_eq!(validated(25, 10, 1.0), [10, 20, 25]);
        assert_eq!(validated(4, 100, 1.0), [4]);
        // 0 is refused before a run starts; it divides nothing here.
        assert_eq!(validated(3, 0, 1.0), [1, 2, 3]);
    }

    #[test]
    fn a_late_part_is_validated_whole() {
        assert_eq!(validated(20, 10, 0.75), [10, 16, 17, 18, 19, 20]);
        assert_eq!(validated(4, 100, 0.0), [1, 2, 3, 4]);
        // 3 * 321 / 4 = 240.75, 3 * 451 / 4 = 338.25 and 3 * 551 / 4 = 413.25, rounded down.
        for (epochs, rounds, first) in [(320, 24, 241), (450, 33, 339), (550, 41, 414)] {
            let mut expected: Vec<u64> = (1..=rounds).map(|i| 10 * i).collect();
            expected.extend(first..=epochs);
            assert_eq!(validated(epochs, 10, 0.75), expected, "{epochs} epochs");
        }
    }

    /// In whole numbers, int(3/4 (epochs + 1)) is 3 (epochs + 1) / 4; the last epoch is ours for runs too
    /// short to have it.
    #[test]
    fn cityscapes_is_as_released_for_any_number_of_epochs() {
        for epochs in 1..=1000 {
            let released = |e: u64| e.is_multiple_of(10) || e > 3 * (epochs + 1) / 4 || e == epochs;
            let expected: Vec<u64> = (1..=epochs).filter(|&e| released(e)).collect();
            assert_eq!(validated(epochs, 10, 0.75), expected, "{epochs} epochs");
        }
    }
}
