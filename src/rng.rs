//! Counter-based random numbers (Philox 4x32-10; Salmon et al., "Parallel random numbers: as easy as 1, 2,
//! 3", SC 2011).
//!
//! Every draw is a pure function of (seed, domain, step, index), so that all devices draw the same numbers
//! and a run resumes in the middle of an epoch without generator state in its checkpoint.

/// Purpose of random numbers; those of different domains are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Domain {
    /// Parameter initialisation.
    Init = 1,
    /// Shuffling of a list.
    Shuffle = 2,
    /// Geometric and photometric augmentation.
    Augment = 3,
    /// CutMix boxes and permutations.
    CutMix = 4,
    /// T-VAT's initial noise in the labelled features.
    NoiseLabeled = 5,
    /// T-VAT's initial noise in the unlabelled features.
    NoiseUnlabeled = 6,
    /// Procedurally drawn scenes.
    Scene = 7,
    /// Benchmarks and checks.
    Bench = 8,
}

/// Philox 4x32-10: ten rounds of the bijection keyed by `key` on the counter `ctr`.
fn philox(mut key: [u32; 2], mut ctr: [u32; 4]) -> [u32; 4] {
    const MUL: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let p0 = u64::from(MUL[0]) * u64::from(ctr[0]);
        let p1 = u64::from(MUL[1]) * u64::from(ctr[2]);
        ctr =
            [(p1 >> 32) as u32 ^ ctr[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ ctr[3] ^ key[1], p0 as u32];
    }
    ctr
}

/// A keyed family of numbers: element `i` of it is a pure function of (seed, domain, step, i).
#[derive(Clone, Copy, Debug)]
pub struct Key {
    key: [u32; 2],
    domain: u32,
    step: u64,
}

impl Key {
    /// Family for `domain` at `step` (or epoch, or sample number) under the run's `seed`.
    pub fn new(seed: u64, domain: Domain, step: u64) -> Key {
        Key { key: [seed as u32, (seed >> 32) as u32], domain: domain as u32, step }
    }

    /// Key (two words), domain and step (two words), for kernels that draw the same numbers.
    pub fn words(&self) -> [u32; 5] {
        [self.key[0], self.key[1], self.domain, self.step as u32, (self.step >> 32) as u32]
    }

    /// Block `block` of the family, four 32-bit words. The counter is (block, domain and the block's high
    /// bits, step). `block` must be below 2^56.
    pub fn block(&self, block: u64) -> [u32; 4] {
        let hi = ((block >> 32) as u32) << 8 | self.domain;
        philox(self.key, [block as u32, hi, self.step as u32, (self.step >> 32) as u32])
    }

    /// Element `i` as a uniform number in [0, 1) with 24 bits: word `i % 4` of block `i / 4`.
    pub fn uniform(&self, i: u64) -> f32 {
        unit(self.block(i / 4)[(i % 4) as usize])
    }

    /// A sequential generator over this family, starting at block 0.
    pub fn stream(self) -> Stream {
        Stream { key: self, block: 0, words: [0; 4], left: 0 }
    }
}

/// The 24 high bits of a word as a number in [0, 1).
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Sequential draws from one [`Key`], for decisions on the host (augmentation, shuffling, boxes, scenes).
#[derive(Clone, Debug)]
pub struct Stream {
    key: Key,
    block: u64,
    words: [u32; 4],
    left: usize,
}

impl Stream {
    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.left == 0 {
            self.words = self.key.block(self.block);
            self.block += 1;
            self.left = 4;
        }
        self.left -= 1;
        self.words[3 - self.left]
    }

    /// A uniform number in [0, 1) with 24 bits.
    pub fn uniform(&mut self) -> f32 {
        unit(self.next_u32())
    }

    /// A uniform number in [lo, hi).
    pub fn range(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * self.uniform()
    }

    /// A uniform integer in [0, n); `n` must be positive. By multiplication and shift, with a bias below n /
    /// 2^32.
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.next_u32()) * n as u64) >> 32) as usize
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f32) -> bool {
        self.uniform() < p
    }

    /// A standard normal number (Box-Muller, one of the pair).
    pub fn normal(&mut self) -> f32 {
        let r = (-2.0 * f64::from(1.0 - self.uniform()).ln()).sqrt();
        (r * (std::f64::consts::TAU * f64::from(self.uniform())).cos()) as f32
    }

    /// A number from Beta(a, b) for positive integers, as a ratio of sums of exponentials.
    pub fn beta(&mut self, a: u32, b: u32) -> f32 {
        let mut gamma = |k: u32| -> f64 { (0..k).map(|_| -f64::from(1.0 - self.uniform()).ln()).sum() };
        let (x, y) = (gamma(a), gamma(b));
        (x / (x + y)) as f32
    }

    /// Shuffles `items` in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_published_vectors() {
        // Known-answer vectors of the Random123 distribution for philox4x32-10.
        assert_eq!(philox([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 2], [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn streams_of_domains_and_steps_differ() {
        let take = |d, s| Key::new(7, d, s).stream().next_u32();
        assert_ne!(take(Domain::Augment, 0), take(Domain::CutMix, 0));
        assert_ne!(take(Domain::Augment, 0), take(Domain::Augment, 1));
        assert_eq!(take(Domain::Augment, 3), take(Domain::Augment, 3));
    }

    #[test]
    fn draws_have_the_moments_of_their_distributions() {
        let mut s = Key::new(1, Domain::Bench, 0).stream();
        let n = 20_000;
        let (mut mean, mut var, mut beta) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let z = f64::from(s.normal());
            mean += z / n as f64;
            var += z * z / n as f64;
            beta += f64::from(s.beta(4, 4)) / n as f64;
        }
        assert!(mean.abs() < 0.03 && (var - 1.0).abs() < 0.05 && (beta - 0.5).abs() < 0.01);
    }
}
