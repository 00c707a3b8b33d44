//! Timing: warm-up, repetitions between two waits, medians. Must not know what is timed.
//!
//! A device works asynchronously and the wait itself costs microseconds, so short work is enqueued many times
//! between two waits and the time divided: as often as fills a sample. What remains besides the work itself
//! is what the device spends between kernels, and, where work is shorter than enqueuing it, the program's own
//! time, which is measured too.

use psmt_fast::Result;
use psmt_fast::ops::Backend;
use std::time::Instant;

/// How often work is timed.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Timed samples, at least 1.
    pub samples: usize,
    /// Calls before those.
    pub warmup: usize,
    /// Milliseconds that a sample takes at least; 0 for one call per sample.
    pub min_ms: f64,
}

/// Calls that are enqueued to see how long that takes: few enough that no queue is full.
const BURST: usize = 8;
/// More calls than this are never between two waits.
const MOST: usize = 1 << 16;

/// Milliseconds of one call.
#[derive(Clone, Debug)]
pub struct Timing {
    /// One per sample, in the order they were taken.
    pub samples: Vec<f64>,
    /// Calls per sample.
    pub repetitions: usize,
    /// Milliseconds in which the program enqueues a call. Not below `median` by much: the device waits for
    /// the program.
    pub enqueue_ms: f64,
}

impl Timing {
    /// The value below which a `share` of the samples lies, interpolated.
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let at = share * (sorted.len() - 1) as f64;
        let (low, part) = (at as usize, at.fract());
        sorted[low] + part * (sorted[(low + 1).min(sorted.len() - 1)] - sorted[low])
    }

    /// Half of the samples are below.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The fastest sample.
    pub fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    /// First quartile, third quartile, the slowest sample.
    pub fn spread(&self) -> [f64; 3] {
        [0.25, 0.75, 1.0].map(|share| self.quantile(share))
    }

    /// Whether enqueuing took most of the time of a device that works asynchronously.
    pub fn waits_for_program(&self) -> bool {
        self.enqueue_ms > 0.8 * self.median()
    }
}

/// Times `work`, which takes the number of its call.
///
/// # Errors
/// Errors of `work` and faults of the device.
pub fn sample<B: Backend>(
    b: &B,
    sampling: Sampling,
    mut work: impl FnMut(usize) -> Result<()>,
) -> Result<Timing> {
    let mut number = 0;
    let mut batch = |calls: usize| -> Result<(f64, f64)> {
        let start = Instant::now();
        for _ in 0..calls {
            work(number)?;
            number += 1;
        }
        let enqueued = start.elapsed();
        b.synchronize();
        let done = start.elapsed();
        b.check()?;
        Ok((1e3 * enqueued.as_secs_f64(), 1e3 * done.as_secs_f64()))
    };
    batch(sampling.warmup)?;
    let mut repetitions = 1;
    if sampling.min_ms > 0.0 {
        // Each batch is long enough to foretell the next; the first ones are the rest of the warm-up.
        loop {
            let (_, ms) = batch(repetitions)?;
            if ms >= sampling.min_ms || repetitions >= MOST {
                break;
            }
            let needed = (1.2 * repetitions as f64 * sampling.min_ms / ms.max(1e-6)).ceil() as usize;
            repetitions = needed.clamp(repetitions + 1, 16 * repetitions).min(MOST);
        }
    }
    let burst = BURST.min(repetitions);
    let enqueue_ms = batch(burst)?.0 / burst as f64;
    let samples = (0..sampling.samples)
        .map(|_| Ok(batch(repetitions)?.1 / repetitions as f64))
        .collect::<Result<Vec<f64>>>()?;
    Ok(Timing { samples, repetitions, enqueue_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use psmt_fast::backend::cpu::Cpu;

    #[test]
    fn quantiles_are_those_of_the_sorted_samples() {
        let t = |samples: &[f64]| Timing { samples: samples.to_vec(), repetitions: 1, enqueue_ms: 0.0 };
        let five = t(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!((five.min(), five.median(), five.spread()), (1.0, 3.0, [2.0, 4.0, 5.0]));
        assert_eq!(t(&[1.0, 2.0]).median(), 1.5);
        assert_eq!(t(&[7.0]).spread(), [7.0; 3]);
    }

    #[test]
    fn short_work_is_repeated_and_numbered() {
        let (mut calls, sampling) = (0, Sampling { samples: 3, warmup: 2, min_ms: 0.5 });
        let timing = sample(&Cpu::<f32>::new(), sampling, |number| {
            assert_eq!(number, calls);
            calls += 1;
            Ok(())
        });
        let timing = timing.unwrap();
        assert_eq!(timing.samples.len(), 3);
        assert!(timing.repetitions > 1, "an empty call does not take half a millisecond");
        let once = Sampling { min_ms: 0.0, ..sampling };
        let mut calls = 0;
        let timing = sample(&Cpu::<f32>::new(), once, |_| {
            calls += 1;
            Ok(())
        });
        assert_eq!((timing.unwrap().repetitions, calls), (1, 2 + 1 + 3));
    }
}
