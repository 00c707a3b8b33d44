//! Atrous spatial pyramid pooling with one batch norm over its four branches; the image-pooling branch is
//! added after the 1x1 reduction (in-place ABN's Architecture head; Rota Bulò et al., 2018). Knows layers
//! only.

use crate::Result;
use crate::model::ModelConfig;
use crate::model::graph::Graph;
use crate::model::layers::{Backward, BnSaved, Cost, Gradient, Onto, Output, Pass};
use crate::model::table::{Builder, NormArgs};
use crate::ops::{self, Activation, Backend, BatchNorm, Conv2d, NormPass, Shape};

const LEAKY: Activation = Activation::LeakyRelu(0.01);
/// PyTorch's defaults, which this head keeps whatever the backbone uses.
const NORM: NormArgs = NormArgs { momentum: 0.1, eps: 1e-5 };

/// The head.
#[derive(Clone, Debug)]
pub(super) struct Aspp {
    /// One 1x1 and three dilated 3x3 convolutions, `channels` each.
    map_convs: Vec<Conv2d>,
    map_bn: BatchNorm,
    global_pooling_conv: Conv2d,
    global_pooling_bn: BatchNorm,
    red_conv: Conv2d,
    pool_red_conv: Conv2d,
    red_bn: BatchNorm,
    channels: usize,
}

pub struct AsppSaved<B: Backend> {
    x: B::Tensor,
    /// Batch norm over the concatenated branches.
    map: BnSaved<B>,
    /// Mean of x over its positions.
    pool: B::Tensor,
    global: BnSaved<B>,
    reduced: BnSaved<B>,
}

impl Aspp {
    pub fn new(build: &mut Builder, config: &ModelConfig) -> Aspp {
        let name = "encoder.head.aspp";
        let (cin, c) = (config.planes * 32, config.aspp);
        let mut map_convs = vec![build.conv(&format!("{name}.map_convs.0"), (cin, c), 1, 1, 1)];
        for (i, &d) in config.dilations.iter().enumerate() {
            map_convs.push(build.conv(&format!("{name}.map_convs.{}", i + 1), (cin, c), 3, 1, d));
        }
        Aspp {
            map_convs,
            map_bn: build.batch_norm(&format!("{name}.map_bn"), 4 * c, NORM),
            global_pooling_conv: build.conv(&format!("{name}.global_pooling_conv"), (cin, c), 1, 1, 1),
            global_pooling_bn: build.batch_norm(&format!("{name}.global_pooling_bn"), c, NORM),
            red_conv: build.conv(&format!("{name}.red_conv"), (4 * c, c), 1, 1, 1),
            pool_red_conv: build.conv(&format!("{name}.pool_red_conv"), (c, c), 1, 1, 1),
            red_bn: build.batch_norm(&format!("{name}.red_bn"), c, NORM),
            channels: c,
        }
    }

    /// Adds the head's cost for input shape `x`; returns its output's shape.
    pub fn cost(&self, x: Shape, cost: &mut Cost) -> Shape {
        for conv in &self.map_convs {
            cost.conv(conv, x);
        }
        let map = x.with_channels(4 * self.channels);
        cost.keep(2, map);
        let pool = Shape::new(x.n, 1, 1, x.c);
        cost.keep(1, pool);
        let global = cost.conv(&self.global_pooling_conv, pool);
        cost.keep(2, global);
        cost.conv(&self.pool_red_conv, global);
        let y = cost.conv(&self.red_conv, map);
        cost.keep(2, y);
        y
    }

    pub fn graph<G: Graph>(&self, g: &mut G, x: &G::Value) -> G::Value {
        let branches: Vec<G::Value> = self.map_convs.iter().map(|conv| g.conv(conv, x)).collect();
        let map = g.concat(&branches);
        let map = g.batch_norm(&self.map_bn, &map);
        let map = g.activation(LEAKY, &map);
        let out = g.conv(&self.red_conv, &map);
        let global = g.mean(x);
        let global = g.conv(&self.global_pooling_conv, &global);
        let global = g.batch_norm(&self.global_pooling_bn, &global);
        let global = g.activation(LEAKY, &global);
        let global = g.conv(&self.pool_red_conv, &global);
        let out = g.add(&out, &global);
        let out = g.batch_norm(&self.red_bn, &out);
        g.activation(LEAKY, &out)
    }

    /// `[n, h, w, 32 planes]` to `[n, h, w, aspp]`.
    pub fn forward<B: Backend, P: Pass<B>>(&self, pass: &mut P, x: B::Tensor) -> Output<B, P, AsppSaved<B>> {
        let pool = ops::adaptive_avg_pool2d(pass.b(), &x, (1, 1))?;
        let branches: Vec<B::Tensor> =
            self.map_convs.iter().map(|conv| pass.conv(conv, &x)).collect::<Result<_>>()?;
        let x = P::keep(|| x);
        let map = ops::concat(pass.b(), &branches.iter().collect::<Vec<_>>())?;
        drop(branches);
        let (map, map_saved) = pass.batch_norm((&self.map_bn, LEAKY), map, None)?;
        let out = pass.conv(&self.red_conv, &map)?;
        drop(map);
        let global = pass.conv(&self.global_pooling_conv, &pool)?;
        let (global, global_saved) = pass.batch_norm((&self.global_pooling_bn, LEAKY), global, None)?;
        let global = pass.conv(&self.pool_red_conv, &global)?;
        let out = ops::add(pass.b(), &out, &global, 1.0)?;
        let (y, reduced) = pass.batch_norm((&self.red_bn, LEAKY), out, None)?;
        let saved = P::zip(P::zip(x, map_saved), P::zip(global_saved, reduced));
        let saved =
            P::map(saved, |((x, map), (global, reduced))| AsppSaved { x, map, pool, global, reduced });
        Ok((y, saved))
    }

    /// dx. `below` is the batch norm whose output x is, if nothing else reads x.
    pub fn backward<B: Backend>(
        &self,
        pass: &mut Backward<'_, B>,
        saved: AsppSaved<B>,
        dy: B::Tensor,
        below: Option<NormPass<'_, B>>,
    ) -> Result<Gradient<B>> {
        let b = pass.b;
        let AsppSaved { x, map, pool, global, reduced } = saved;
        let x_shape = B::shape(&x);
        let (dout, _) = pass.batch_norm(&self.red_bn, LEAKY, reduced, Gradient::plain(dy), false)?;

        let onto = Onto::norm(global.pass(&self.global_pooling_bn, LEAKY, false));
        let dglobal = pass.conv(&self.pool_red_conv, &global.y, &ops::sum_positions(b, &dout)?, onto)?;
        let (dglobal, _) = pass.batch_norm(&self.global_pooling_bn, LEAKY, global, dglobal, false)?;
        let dpool = pass.conv(&self.global_pooling_conv, &pool, &dglobal, Onto::nothing())?.dy;

        let onto = Onto::norm(map.pass(&self.map_bn, LEAKY, false));
        let dmap = pass.conv(&self.red_conv, &map.y, &dout, onto)?;
        drop(dout);
        let (dmap, _) = pass.batch_norm(&self.map_bn, LEAKY, map, dmap, false)?;
        let mut dx: Option<Gradient<B>> = None;
        for (i, conv) in self.map_convs.iter().enumerate() {
            let dbranch = ops::slice_channels(b, &dmap, i * self.channels, self.channels)?;
            dx = Some(match dx {
                Some(dx) => {
                    let norm = if i + 1 == self.map_convs.len() { below } else { None };
                    pass.conv(conv, &x, &dbranch, Onto { add: Some(&dx.dy), norm })?
                }
                // The mean's backward spreads dpool / (h w) over the positions: the broadcast form of add.
                None => {
                    let part = pass.conv(conv, &x, &dbranch, Onto::nothing())?.dy;
                    Gradient::plain(ops::add(b, &part, &dpool, 1.0 / (x_shape.h * x_shape.w) as f64)?)
                }
            });
        }
        dx.ok_or_else(|| crate::Error::shape("aspp", "at least one branch", "none"))
    }
}
