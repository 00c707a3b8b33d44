//! T-VAT's parts of the CUDA device against the CPU in f64, on the emulator.

use crate::cuda_common::{PLAIN, assert_no_fault, rounded};
use crate::loss_cases::{Cpu64, all_close, devices, each_case, pair, to_cpu};
use psmt_fast::ops::{self, *};
use psmt_fast::rng::{Domain, Key};

#[test]
fn tvat_cotangents_match_the_cpu() {
    each_case("T-VAT", |t, what| {
        for decoders in 1..=3 {
            let wide = t.case.logits.with_channels(decoders * t.case.logits.c);
            let ((z64, z), (v64, v)) = (pair(&t.b, wide, 1.5, 40), pair(&t.b, wide, 1.5, 41));
            let (cpu, size) = (Cpu64::new(), t.case.size);
            let want = ops::tvat_cotangent(&cpu, &z64, &v64, decoders, size).expect("valid input");
            let got = ops::tvat_cotangent(&t.b, &z, &v, decoders, size).expect("valid input");
            t.assert_close(&format!("{what}: cotangent of {decoders} decoders"), &got, &want);
            let want = ops::kl_gradient(&cpu, &z64, &v64, decoders, size).expect("valid input");
            let got = ops::kl_gradient(&t.b, &z, &v, decoders, size).expect("valid input");
            t.assert_close(&format!("{what}: KL gradient of {decoders} decoders"), &got, &want);
        }
    });
}

#[test]
fn noise_is_the_same_and_norms_are_right() {
    for (dtype, b) in devices(PLAIN) {
        let key = Key::new(0x1234_5678_9abc, Domain::NoiseUnlabeled, 1 << 33);
        for shape in [Shape::new(1, 1, 1, 1), Shape::new(2, 3, 5, 7), Shape::new(3, 17, 19, 64)] {
            let what = format!("{dtype:?} {shape}");
            let noise = ops::uniform_noise(&b, shape, key).expect("valid input");
            let want: Vec<f32> =
                (0..shape.len() as u64).map(|i| rounded(key.uniform(i) - 0.5, dtype)).collect();
            assert_eq!(b.download(&noise), want, "{what}");
            let noise64 = to_cpu(&b, &noise);
            let want = ops::normalize(&Cpu64::new(), &noise64, 2.0).expect("valid input");
            let got = ops::normalize(&b, &noise, 2.0).expect("valid input");
            let sum = ops::add_normalized(&b, &got, &noise, 3.0).expect("valid input");
            let want_sum =
                ops::add_normalized(&Cpu64::new(), &to_cpu(&b, &got), &noise64, 3.0).expect("valid input");
            all_close(&format!("{what}: added"), dtype, &to_cpu(&b, &sum), &want_sum);
            all_close(&format!("{what}: normalize"), dtype, &to_cpu(&b, &got), &want);
            assert_no_fault(&b, &what);
        }
        let zero = b.upload(Shape::new(1, 1, 2, 2), &[0.0; 4]);
        assert_eq!(b.download(&ops::normalize(&b, &zero, 2.0).expect("valid input")), [0.0; 4]);
    }
}
