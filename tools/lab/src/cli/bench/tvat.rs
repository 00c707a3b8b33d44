//! `bench tvat`: the noise of T-VAT for given features, by two teachers' decoders.

use super::report::record;
use super::{Run, StageFlags, stage};
use crate::bench::{images, step_args};
use psmt_fast::method::{Tvat, TvatArgs, tvat};
use psmt_fast::model::{Initialization, Network};
use psmt_fast::on_device;
use psmt_fast::ops::{Backend, Shape};
use psmt_fast::rng::{Domain, Key};
use psmt_fast::{Error, Result};
use serde_json::json;

/// Largest relative error of the length of an image's noise: it is the root of a sum of rounded squares.
const LENGTH_TOLERANCE: f64 = 1e-2;

pub(super) fn run(flags: &StageFlags) -> Result<()> {
    if !flags.tvat.asks_teachers() {
        return Err(Error::Usage(
            "--tvat: expected exact or finite-difference, which ask the teachers".into(),
        ));
    }
    let run = flags.shared.resolve()?;
    on_device!(run.open()?, b => time(b, &run, flags.tvat))
}

/// Features, raw noise, teachers.
struct State<B: Backend> {
    features: B::Tensor,
    d: B::Tensor,
    teachers: [Network<B>; 2],
}

fn time<B: Backend>(b: &B, run: &Run, kind: Tvat) -> Result<()> {
    let (arch, size) = (&run.sizes.arch, (run.sizes.crop, run.sizes.crop));
    let args = step_args(kind).tvat;
    let shape = arch.feature_shape(run.sizes.images());
    let make = |b: &B| -> Result<State<B>> {
        let teachers = [1, 2].map(|number| {
            let (params, stats) = arch.init(Initialization::default(), 0, number);
            Network::upload(b, &params, &stats)
        });
        let d = b.uniform_noise(shape, Key::new(0, Domain::Bench, 4));
        Ok(State { features: images(b, shape, 7), d, teachers })
    };
    // Copying the decoders side by side is part of it, though a step does so once for both of its passes.
    let work = |b: &B, s: &State<B>| {
        let decoders = arch.decoders(b, &[&s.teachers[0], &s.teachers[1]])?;
        let noise = tvat::noise(b, Some(&decoders), &s.features, size, &s.d, &args)?;
        noise.map(|noise| noise.values(b)).transpose()
    };
    let check = {
        let noise = work(b, &make(b)?)?.ok_or_else(|| Error::CheckFailed("tvat: no noise".into()))?;
        let noise = b.download(&noise);
        b.check()?;
        check(&noise, shape, &args)?
    };
    let timed = stage::time(b, run, make, |b, state| work(b, state).map(drop))?;
    stage::report(run, "tvat", &timed, check, record(json!({ "tvat": kind })))
}

/// Every image's noise has its length. A finite difference may lose the direction to rounding, which leaves
/// no noise.
fn check(noise: &[f32], shape: Shape, args: &TvatArgs) -> Result<&'static str> {
    for (image, values) in noise.chunks(shape.len() / shape.n).enumerate() {
        let length = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let lost = args.kind == Tvat::FiniteDifference && length == 0.0;
        // Not "above": a NaN has no length.
        let right = (length - args.eps).abs() <= LENGTH_TOLERANCE * args.eps;
        if !right && !lost {
            let message = format!("tvat: the noise of image {image} has length {length}, not {}", args.eps);
            return Err(Error::CheckFailed(message));
        }
    }
    Ok("each image's noise has the length that was asked for")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_of_another_length_is_refused() {
        let shape = Shape::new(2, 1, 1, 2);
        let exact = TvatArgs { kind: Tvat::Exact, eps: 5.0, xi: 1e-6, iterations: 1 };
        let finite = TvatArgs { kind: Tvat::FiniteDifference, ..exact };
        assert!(check(&[3.0, 4.0, 5.0, 0.0], shape, &exact).is_ok());
        assert!(check(&[3.0, 4.0, 5.1, 0.0], shape, &exact).is_err());
        assert!(check(&[3.0, 4.0, f32::NAN, 0.0], shape, &finite).is_err());
        assert!(check(&[3.0, 4.0, 0.0, 0.0], shape, &exact).is_err());
        assert!(check(&[3.0, 4.0, 0.0, 0.0], shape, &finite).is_ok());
    }
}
