//! Timing one call: inputs drawn on the device, memory warm or cold. Knows calls, not which are worth timing.

use super::call::Call;
use super::check::check_finite;
use super::inputs::Inputs;
use super::measure::{Sampling, Timing, sample};
use psmt_fast::Result;
use psmt_fast::ops::Backend;

/// More than the last cache of any device that this program knows of.
const CACHE_BYTES: u64 = 256 << 20;
/// More sets of inputs are not made: the work of making them would be much larger than what is timed.
const MOST_SETS: u64 = 64;

/// Sets of inputs that `call` is timed with one after another, and whether memory is cold then: what a set was before is no
/// longer in a cache when it comes again. One set, whose memory is as warm as it stays, where `cold` is not asked for.
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

/// Times `call` on `sets` sets of inputs one after another. Results of a set are kept until it comes again, so that they are
/// written to other memory each time.
///
/// # Errors
/// Those of the op, and [`psmt_fast::Error::CheckFailed`] where its first results are not finite.
pub fn time_call<B: Backend>(b: &B, call: &Call, sampling: Sampling, sets: usize) -> Result<Timing> {
    let mut inputs = (0..sets as u64).map(|set| Inputs::draw(b, call, set)).collect::<Result<Vec<_>>>()?;
    let mut outputs: Vec<_> = (0..sets).map(|_| None).collect();
    let first = inputs[0].run(b, call)?;
    check_finite(b, call, &inputs[0], &first)?;
    outputs[0] = Some(first);
    sample(b, sampling, |number| {
        let set = number % sets;
        outputs[set] = None;
        outputs[set] = Some(inputs[set].run(b, call)?);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use psmt_fast::ops::Shape;

    #[test]
    fn sets_outgrow_the_cache_or_say_that_they_do_not() {
        let call = |len: usize| Call::LeakyRelu { x: Shape::new(1, 1, len, 1) };
        let mib = (1 << 20) / 8;
        assert_eq!(working_sets(&call(32 * mib), 4, true), (9, true));
        assert_eq!(working_sets(&call(32 * mib), 4, false), (1, false));
        assert_eq!(working_sets(&call(512 * mib), 4, false), (1, true));
        assert_eq!(working_sets(&call(10), 4, true), (64, false));
    }
}
