//! Numbers that tests draw: functions of a seed.
#![allow(dead_code)] // each test program uses a part

use psmt_fast::rng::{Domain, Key};

/// Uniform in [-1, 1).
pub fn uniform(len: usize, seed: u64) -> Vec<f32> {
    let key = Key::new(seed, Domain::Bench, 0);
    (0..len).map(|i| key.uniform(i as u64) * 2.0 - 1.0).collect()
}

/// Normal with mean 0 and deviation `scale`.
pub fn normal(len: usize, scale: f64, seed: u64) -> Vec<f64> {
    let mut stream = Key::new(seed, Domain::Bench, 0).stream();
    (0..len).map(|_| scale * f64::from(stream.normal())).collect()
}
