//! Whatever writes parameters keeps the bf16 copy of them that convolutions read up to date.

use crate::cuda_common::{PLAIN, device};
use crate::layer_common::Conv;
use psmt_fast::backend::cuda::{Cuda, Dtype, Vector};
use psmt_fast::ops::{self, Device, Sgd, Span, Teacher};

/// Parameters, of which the first twelve are the weights of a convolution.
const LEN: usize = 21;

fn output(b: &Cuda, params: &Vector) -> Vec<f32> {
    let case = Conv::new(3, 4).on(1, 2, 5);
    let (conv, shape) = (case.spec(), case.input());
    let x: Vec<f32> = (0..shape.len()).map(|i| (i as f32 * 0.71).cos()).collect();
    b.download(&ops::conv2d_fprop(b, &ops::Fprop::new(&b.upload(shape, &x), params, &conv)).unwrap().y)
}

/// The output is that of a vector without a copy from before.
#[track_caller]
fn follows(b: &Cuda, params: &Vector) {
    let fresh = b.upload_vector(&b.download_vector(params));
    assert_eq!(output(b, params), output(b, &fresh));
}

#[test]
fn convolutions_see_what_was_written_last() {
    let Some(b) = device(Dtype::Bf16, PLAIN) else { return };
    let values: Vec<f32> = (0..LEN).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut params = b.upload_vector(&values);
    let (mut momentum, mut teacher) = (b.zeros(LEN), b.zeros(LEN));
    // Both have a copy from here on.
    let before = [output(&b, &params), output(&b, &teacher)];
    let spec = Sgd { lr: 0.5, momentum: 0.9, weight_decay: 0.1, num_decayed: 7 };
    let grads = b.upload_vector(&values);
    let (mut stats, student_stats) = (b.zeros(5), b.upload_vector(&values[..5]));
    let follower =
        Teacher { params: &mut teacher, stats: &mut stats, student_stats: &student_stats, keep: 0.3 };
    ops::sgd(
        &b,
        ops::SgdStep {
            params: &mut params,
            grads: &grads,
            momentum: &mut momentum,
            spec: &spec,
            teacher: Some(follower),
        },
    )
    .unwrap();
    follows(&b, &params);
    follows(&b, &teacher);
    assert_ne!([output(&b, &params), output(&b, &teacher)], before);

    let mut want = b.download_vector(&teacher);
    want[3..8].copy_from_slice(&b.download_vector(&params)[11..16]);
    ops::copy_spans(&b, &mut teacher, &params, &[(Span { offset: 11, len: 5 }, 3)]).unwrap();
    assert_eq!(b.download_vector(&teacher), want);
    follows(&b, &teacher);
    b.clear(&mut teacher);
    assert!(output(&b, &teacher).iter().all(|&v| v == 0.0));
    b.check().unwrap();
}
