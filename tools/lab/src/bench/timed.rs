//! Timing one call: inputs drawn on the device, memory warm or cold. Must not know which calls are worth
//! timing.

use super::case::{Draw, Outputs, Work};
use super::check::check_finite;
use super::measure::{Sampling, Timing, sample};
use crate::cases::Call;
use psmt_fast::Result;
use psmt_fast::ops::Backend;

/// More than the last-level cache of any device that this program runs on.
const CACHE_BYTES: u64 = 256 << 20;
/// More sets of inputs are not made: the work of making them would be much larger than what is timed.
const MOST_SETS: u64 = 64;

/// Sets of inputs that `call` is timed with one after another, and whether memory is cold then: what a set
/// was before is no longer in a cache when it comes again. One set, whose memory is as warm as it stays,
/// where `cold` is not asked for.
pub fn working_sets(call: &Call, value: usize, cold: bool) -> (usize, bool) {
    let bytes = call.least_bytes(value).max(1);
    let needed = CACHE_BYTES.div_ceil(bytes) + 1;
    match (cold, bytes >= CACHE_BYTES) {
        (_, true) => (1, true),
        (false, _) => (1, false),
        _ if needed > MOST_SETS => (MOST_SETS as usize, false),
        _ => (needed as usize, true),
    }
}

/// Times `call` on `sets` sets of inputs one after another. Results of a set are kept until it comes again,
/// so that they are written to other memory each time.
///
/// # Errors
/// Errors of the op, and [`psmt_fast::Error::CheckFailed`] where its first results are not finite.
pub fn time_call<B: Backend>(b: &B, call: &Call, sampling: Sampling, sets: usize) -> Result<Timing> {
    let prepare = |set| call.prepare(&mut Draw::new(b, set));
    let mut sets = (0..sets as u64).map(prepare).collect::<Result<Vec<Work<B>>>>()?;
    let mut outputs: Vec<_> = sets.iter().map(|_| None).collect();
    let mut first = Outputs::checked();
    sets[0](b, &mut first)?;
    check_finite(b, call, &first)?;
    drop(first);
    sample(b, sampling, |number| {
        let set = number % sets.len();
        outputs[set] = None;
        let mut out = Outputs::timed();
        sets[set](b, &mut out)?;
        outputs[set] = Some(out);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::LeakyRelu;
    use psmt_fast::ops::Shape;

    #[test]
    fn sets_outgrow_the_cache_or_say_that_they_do_not() {
        let call = |len: usize| LeakyRelu { x: Shape::new(1, 1, len, 1) }.into();
        let mib = (1 << 20) / 8;
        assert_eq!(working_sets(&call(32 * mib), 4, true), (9, true));
        assert_eq!(working_sets(&call(32 * mib), 4, false), (1, false));
        assert_eq!(working_sets(&call(512 * mib), 4, false), (1, true));
        assert_eq!(working_sets(&call(10), 4, true), (64, false));
    }
}
