//! Comparisons of results, whose failures name the worst element and both values.
#![allow(dead_code)] // each test program uses a part

/// Asserts that every value lies within `allowed(index)` of the expected one. A value that is no number never
/// does.
#[track_caller]
pub fn assert_within<G, W>(what: &str, got: &[G], want: &[W], allowed: impl Fn(usize) -> f64)
where
    G: Copy + Into<f64>,
    W: Copy + Into<f64>,
{
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    let value = |i: usize| (got[i].into(), want[i].into());
    let excess = |i: usize| {
        let (got, want): (f64, f64) = value(i);
        let over = (got - want).abs() - allowed(i);
        if over.is_nan() { f64::INFINITY } else { over }
    };
    if let Some(worst) = (0..got.len()).max_by(|&a, &b| excess(a).total_cmp(&excess(b))) {
        let (got, want) = value(worst);
        let within = allowed(worst);
        assert!(excess(worst) <= 0.0, "{what}: element {worst} is {got}, not {want} within {within:e}");
    }
}

/// The largest absolute value.
pub fn largest<T: Copy + Into<f64>>(values: &[T]) -> f64 {
    values.iter().fold(0.0, |m: f64, &v| m.max(v.into().abs()))
}

/// Asserts that two results have the same bits.
#[track_caller]
pub fn assert_same_bits(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    if let Some(i) = (0..got.len()).find(|&i| got[i].to_bits() != want[i].to_bits()) {
        panic!("{what}: element {i} is {}, not {}", got[i], want[i]);
    }
}
