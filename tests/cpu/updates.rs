//! Updates of parameters of the CPU device against their formulas.

use crate::draw;
use crate::plain::{Cpu64, each_close};
use psmt_fast::ops::*;

#[test]
fn updates_follow_their_formulas() {
    let b = Cpu64::new();
    let [p, g, v, s] = [1, 2, 3, 4].map(|seed| draw::normal(70_001, 1.0, seed));
    let sgd = Sgd { lr: 0.1, momentum: 0.9, weight_decay: 1e-2, num_decayed: 40_003 };
    let (mut p1, mut v1) = (p.clone(), v.clone());
    b.sgd(SgdStep { params: &mut p1, grads: &g, momentum: &mut v1, spec: &sgd, teacher: None });
    let decay = |i: usize| if i < 40_003 { 1e-2 * p[i] } else { 0.0 };
    let want_v: Vec<f64> = (0..p.len()).map(|i| 0.9 * v[i] + g[i] + decay(i)).collect();
    let want_p: Vec<f64> = p.iter().zip(&want_v).map(|(p, v)| p - 0.1 * v).collect();
    each_close("momentum", &v1, &want_v, 1e-14);
    each_close("parameters", &p1, &want_p, 1e-14);
    let (mut p2, mut v2, mut teacher, mut stats) = (p.clone(), v.clone(), s.clone(), g.clone());
    let follower = Teacher { params: &mut teacher, stats: &mut stats, student_stats: &s, keep: 0.996 };
    b.sgd(SgdStep { params: &mut p2, grads: &g, momentum: &mut v2, spec: &sgd, teacher: Some(follower) });
    assert_eq!((&p2, &v2), (&p1, &v1));
    let average = |teacher: &[f64], student: &[f64]| -> Vec<f64> {
        teacher.iter().zip(student).map(|(t, s)| 0.996 * t + 0.004 * s).collect()
    };
    each_close("teacher", &teacher, &average(&s, &want_p), 1e-14);
    each_close("teacher's statistics", &stats, &average(&g, &s), 1e-14);
    let mut want = want_p;
    want[5..40_005].copy_from_slice(&s[30_001..]);
    want[60_000..60_003].copy_from_slice(&s[..3]);
    // Each span with the place where its copy begins.
    let moves = [(Span { offset: 30_001, len: 40_000 }, 5), (Span { offset: 0, len: 3 }, 60_000)];
    b.copy_spans(&mut p1, &s, &moves);
    each_close("what no span covers", &p1[..5], &want[..5], 1e-14);
    assert_eq!(p1[5..40_005], want[5..40_005]);
    assert_eq!(p1[60_000..60_003], want[60_000..60_003]);
    each_close("the rest", &p1, &want, 1e-14);
}
