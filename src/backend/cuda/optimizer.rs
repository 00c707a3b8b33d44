//! Launch plans of kernels/optimizer.cu.

use super::*;

const FILE: &str = "optimizer";

/// Values that a thread takes at a time.
const WIDTH: usize = 4;

/// v = momentum v + g, p -= lr v; g is the gradient, plus weight_decay p for the first `num_decayed` parameters.
pub fn sgd(d: &Cuda, params: &mut Vector, grads: &Vector, momentum: &mut Vector, spec: &Sgd) {
    let len = params.len;
    let mut args = args![
        params.buffer,
        momentum.buffer,
        params.half(),
        grads.buffer,
        len as u64,
        spec.num_decayed as u64
    ];
    args.push([-spec.lr, spec.momentum, spec.weight_decay].map(|v| v as f32));
    d.launch(FILE, "sgd", Launch::linear(len / WIDTH), args);
}

/// teacher = keep teacher + (1 - keep) student.
pub fn ema(d: &Cuda, teacher: &mut Vector, student: &Vector, keep: f64) {
    let len = teacher.len;
    let (keep, rest) = (keep as f32, (1.0 - keep) as f32);
    let args = args![teacher.buffer, teacher.half(), student.buffer, keep, rest, len as u64];
    d.launch(FILE, "ema", Launch::linear(len / WIDTH), args);
}

#[cfg(test)]
mod tests {
    use super::emulator::{self, EmulatorOptions};
    use super::*;

    /// Gives `v` a bf16 copy as a convolution makes it.
    fn with_half(d: &Cuda, v: &Vector) -> Arc<Buffer> {
        let half = Arc::new(d.upload_buffer(&to_bf16(&d.download_vector(v))));
        *v.half.lock().unwrap() = Some(half.clone());
        half
    }

    #[test]
    fn the_bf16_copy_follows_its_vector() {
        let Ok(driver) = emulator::open(EmulatorOptions::default()) else { return };
        let d = Cuda::new(driver, Dtype::Bf16);
        let values: Vec<f32> = (0..21).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut params = d.upload_vector(&values);
        let (mut momentum, mut teacher) = (d.zeros(21), d.zeros(21));
        let (half, teacher_half) = (with_half(&d, &params), with_half(&d, &teacher));
        let follows = |half: &Buffer, v: &Vector| {
            assert_eq!(d.download_buffer::<u16>(half, v.len), to_bf16(&d.download_vector(v)));
        };
        let spec = Sgd { lr: 0.5, momentum: 0.9, weight_decay: 0.1, num_decayed: 7 };
        let grads = d.upload_vector(&values);
        sgd(&d, &mut params, &grads, &mut momentum, &spec);
        follows(&half, &params);
        ema(&d, &mut teacher, &params, 0.9);
        follows(&teacher_half, &teacher);
        assert_ne!(d.download_vector(&teacher), vec![0.0; 21]);
        d.clear(&mut teacher);
        follows(&teacher_half, &teacher);
        d.check().unwrap();
    }
}
