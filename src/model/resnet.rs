//! Bottleneck ResNet (He et al., 2016; its 7x7 stem, or three 3x3 convolutions in its place, as He et al.,
//! 2019), output stride 16: the last stage keeps its size and dilates by 2, 4, 8.

use super::graph::Graph;
use super::layers::{Backward, ConvBn, ConvBnSaved, Cost, Gradient, Onto, Output, Pass};
use super::table::{Builder, NormArgs};
use super::{ModelConfig, Stem};
use crate::Result;
use crate::ops::{self, Activation, Backend, MaxPool2d, NormPass, RELU, Shape};

const POOL: MaxPool2d = MaxPool2d { kernel: 3, stride: 2, padding: 1 };

/// 1x1, 3x3, 1x1 with a shortcut; the output has four times as many channels as the middle.
#[derive(Clone, Debug)]
struct Bottleneck {
    conv1: ConvBn,
    conv2: ConvBn,
    conv3: ConvBn,
    /// Shortcut where the shape changes.
    downsample: Option<ConvBn>,
}

pub struct BottleneckSaved<B: Backend> {
    conv1: ConvBnSaved<B>,
    conv2: ConvBnSaved<B>,
    conv3: ConvBnSaved<B>,
    downsample: Option<ConvBnSaved<B>>,
}

impl Bottleneck {
    fn new(
        build: &mut Builder,
        name: &str,
        cin: usize,
        planes: usize,
        stride: usize,
        dilation: usize,
        norm: NormArgs,
    ) -> Bottleneck {
        let names = |i: usize| (format!("{name}.conv{i}"), format!("{name}.bn{i}"));
        let cout = planes * 4;
        Bottleneck {
            conv1: ConvBn::new(build, names(1), (cin, planes), (1, 1, 1), norm, RELU),
            conv2: ConvBn::new(build, names(2), (planes, planes), (3, stride, dilation), norm, RELU),
            conv3: ConvBn::new(build, names(3), (planes, cout), (1, 1, 1), norm, RELU),
            downsample: (stride != 1 || cin != cout).then(|| {
                let names = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
                ConvBn::new(build, names, (cin, cout), (1, stride, 1), norm, Activation::Identity)
            }),
        }
    }

    fn cost(&self, x: Shape, cost: &mut Cost) -> Shape {
        if let Some(d) = &self.downsample {
            d.cost(x, cost);
        }
        let y = self.conv1.cost(x, cost);
        let y = self.conv2.cost(y, cost);
        self.conv3.cost(y, cost)
    }

    fn graph<G: Graph>(&self, g: &mut G, x: &G::Value) -> G::Value {
        let shortcut = self.downsample.as_ref().map_or(x.clone(), |d| d.graph(g, x, None));
        let mut y = self.conv1.graph(g, x, None);
        y = self.conv2.graph(g, &y, None);
        self.conv3.graph(g, &y, Some(&shortcut))
    }

    fn forward<B: Backend, P: Pass<B>>(
        &self,
        pass: &mut P,
        x: B::Tensor,
    ) -> Output<B, P, BottleneckSaved<B>> {
        let (shortcut, downsample) = match &self.downsample {
            Some(d) => {
                let (y, saved) = d.forward(pass, x.clone(), None)?;
                (y, P::map(saved, Some))
            }
            None => (x.clone(), P::keep(|| None)),
        };
        let (y, conv1) = self.conv1.forward(pass, x, None)?;
        let (y, conv2) = self.conv2.forward(pass, y, None)?;
        let (y, conv3) = self.conv3.forward(pass, y, Some(shortcut))?;
        let saved = P::zip(P::zip(conv1, conv2), P::zip(conv3, downsample));
        let saved = P::map(saved, |((conv1, conv2), (conv3, downsample))| BottleneckSaved {
            conv1,
            conv2,
            conv3,
            downsample,
        });
        Ok((y, saved))
    }

    /// The forward pass of the last batch norm, whose output is the block's.
    fn pass<'a, B: Backend>(&'a self, saved: &'a BottleneckSaved<B>) -> NormPass<'a, B> {
        self.conv3.pass(&saved.conv3, true)
    }

    /// dx. `below` is the batch norm whose output x is, if nothing else reads x.
    fn backward<B: Backend>(
        &self,
        pass: &mut Backward<'_, B>,
        saved: BottleneckSaved<B>,
        dy: Gradient<B>,
        below: Option<NormPass<'_, B>>,
    ) -> Result<Gradient<B>> {
        let BottleneckSaved { conv1, conv2, conv3, downsample } = saved;
        let onto = Onto::norm(self.conv2.pass(&conv2, false));
        let (d, shortcut) = self.conv3.backward_residual(pass, conv3, dy, onto)?;
        let onto = Onto::norm(self.conv1.pass(&conv1, false));
        let d = self.conv2.backward(pass, conv2, d, onto)?;
        let shortcut = match (&self.downsample, downsample, shortcut) {
            (Some(layer), Some(saved), Some(ds)) => {
                Some(layer.backward(pass, saved, Gradient::plain(ds), Onto::nothing())?.dy)
            }
            (_, _, shortcut) => shortcut,
        };
        self.conv1.backward(pass, conv1, d, Onto { add: shortcut.as_ref(), norm: below })
    }
}

/// Image to stride-4 and stride-16 features.
#[derive(Clone, Debug)]
pub(super) struct Backbone {
    /// One convolution or three.
    stem: Vec<ConvBn>,
    /// Blocks of all stages in order.
    blocks: Vec<Bottleneck>,
    /// Blocks of the first stage, after which the stride-4 features are taken.
    low_blocks: usize,
}

pub struct BackboneSaved<B: Backend> {
    stem: Vec<ConvBnSaved<B>>,
    /// Input of the max pooling.
    pooled: B::Tensor,
    blocks: Vec<BottleneckSaved<B>>,
}

impl Backbone {
    pub fn new(build: &mut Builder, config: &ModelConfig) -> Backbone {
        let norm = NormArgs { momentum: config.bn_momentum, eps: config.bn_eps };
        let name = "encoder.backbone";
        let s = config.stem_width;
        let mut layer = |conv: &str, bn: &str, channels, kernel, stride| {
            let names = (format!("{name}.{conv}"), format!("{name}.{bn}"));
            ConvBn::new(build, names, channels, (kernel, stride, 1), norm, RELU)
        };
        let (stem, mut cin) = match config.stem {
            Stem::Deep => {
                let first = layer("conv1.0", "conv1.1", (3, s), 3, 2);
                let second = layer("conv1.3", "conv1.4", (s, s), 3, 1);
                (vec![first, second, layer("conv1.6", "bn1", (s, 2 * s), 3, 1)], 2 * s)
            }
            Stem::Single => (vec![layer("conv1", "bn1", (3, s), 7, 2)], s),
        };
        let mut blocks = Vec::new();
        for (stage, &n) in config.blocks.iter().enumerate() {
            let planes = config.planes << stage;
            for i in 0..n {
                let stride = if i == 0 && (stage == 1 || stage == 2) { 2 } else { 1 };
                let dilation = if stage == 3 { 2 << i } else { 1 };
                let name = format!("{name}.layer{}.{i}", stage + 1);
                blocks.push(Bottleneck::new(build, &name, cin, planes, stride, dilation, norm));
                cin = planes * 4;
            }
        }
        Backbone { stem, blocks, low_blocks: config.blocks[0] }
    }

    /// Adds the cost for an image of shape `x`; returns the shapes of the stride-4 and stride-16 features.
    pub fn cost(&self, x: Shape, cost: &mut Cost) -> (Shape, Shape) {
        cost.keep(1, x);
        let mut y = self.stem.iter().fold(x, |x, layer| layer.cost(x, cost));
        y = POOL.out_shape(y);
        cost.keep(1, y);
        let mut low = y;
        for (i, block) in self.blocks.iter().enumerate() {
            y = block.cost(y, cost);
            if i + 1 == self.low_blocks {
                low = y;
            }
        }
        (low, y)
    }

    /// Writes the backbone's operations on images `x` into `g`; returns the stride-4 and stride-16 features.
    pub fn graph<G: Graph>(&self, g: &mut G, x: &G::Value) -> (G::Value, G::Value) {
        let mut y = self.stem.iter().fold(x.clone(), |x, layer| layer.graph(g, &x, None));
        y = g.max_pool(&POOL, &y);
        let mut low = y.clone();
        for (i, block) in self.blocks.iter().enumerate() {
            y = block.graph(g, &y);
            if i + 1 == self.low_blocks {
                low = y.clone();
            }
        }
        (low, y)
    }

    /// Stride-4 and stride-16 features of images `[n, h, w, 3]`.
    pub fn forward<B: Backend, P: Pass<B>>(
        &self,
        pass: &mut P,
        x: B::Tensor,
    ) -> Output<B, P, BackboneSaved<B>, [B::Tensor; 2]> {
        let mut y = x;
        let mut stem = Vec::with_capacity(self.stem.len());
        for layer in &self.stem {
            let (next, saved) = layer.forward(pass, y, None)?;
            y = next;
            stem.push(saved);
        }
        let pooled = y;
        y = ops::max_pool2d(pass.b(), &pooled, &POOL)?;
        let pooled = P::keep(|| pooled);
        let mut low = None;
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for (i, block) in self.blocks.iter().enumerate() {
            let (next, saved) = block.forward(pass, y)?;
            y = next;
            blocks.push(saved);
            if i + 1 == self.low_blocks {
                low = Some(y.clone());
            }
        }
        let low = low.unwrap_or_else(|| y.clone());
        let saved = P::zip(P::zip(P::all(stem), pooled), P::all(blocks));
        let saved = P::map(saved, |((stem, pooled), blocks)| BackboneSaved { stem, pooled, blocks });
        Ok(([low, y], saved))
    }

    /// The forward pass of the batch norm whose output the stride-16 features are; `None` where those are the
    /// stride-4 features too.
    pub fn high_pass<'a, B: Backend>(&'a self, saved: &'a BackboneSaved<B>) -> Option<NormPass<'a, B>> {
        (self.blocks.len() > self.low_blocks).then(|| self.pass(saved)).flatten()
    }

    /// The forward pass of the batch norm whose output the stride-4 features are, after
    /// [`Backbone::backward_high`].
    pub fn low_pass<'a, B: Backend>(&'a self, saved: &'a BackboneSaved<B>) -> Option<NormPass<'a, B>> {
        self.pass(saved)
    }

    /// The same of the last block whose backward pass has not run.
    fn pass<'a, B: Backend>(&'a self, saved: &'a BackboneSaved<B>) -> Option<NormPass<'a, B>> {
        let block = self.blocks.get(saved.blocks.len().checked_sub(1)?)?;
        Some(block.pass(saved.blocks.last()?))
    }

    /// Backward pass of the stages after the first: from the gradient of the stride-16 features to their part
    /// of the stride-4 features'.
    pub fn backward_high<B: Backend>(
        &self,
        pass: &mut Backward<'_, B>,
        saved: &mut BackboneSaved<B>,
        dhigh: Gradient<B>,
    ) -> Result<Gradient<B>> {
        let mut d = dhigh;
        while saved.blocks.len() > self.low_blocks
            && let Some(block) = saved.blocks.pop()
        {
            let number = saved.blocks.len();
            // The gradient of the stride-4 features is not complete without the decoder's part.
            let below = if number > self.low_blocks { self.pass(saved) } else { None };
            d = self.blocks[number].backward(pass, block, d, below)?;
        }
        Ok(d)
    }

    /// Backward pass of first stage and stem, after [`Backbone::backward_high`]. The images' gradient is not
    /// computed.
    pub fn backward_low<B: Backend>(
        &self,
        pass: &mut Backward<'_, B>,
        mut saved: BackboneSaved<B>,
        dlow: Gradient<B>,
    ) -> Result<()> {
        let mut d = dlow;
        while let Some(block) = saved.blocks.pop() {
            d = self.blocks[saved.blocks.len()].backward(pass, block, d, self.pass(&saved))?;
        }
        let BackboneSaved { mut stem, pooled, .. } = saved;
        let mut d = Gradient::plain(ops::max_pool2d_bwd(pass.b, &d.dy, &pooled, &POOL)?);
        drop(pooled);
        while let Some(layer) = stem.pop() {
            let number = stem.len();
            let Some(below) = stem.last() else { return self.stem[0].backward_params(pass, layer, d) };
            let onto = Onto::norm(self.stem[number - 1].pass(below, false));
            d = self.stem[number].backward(pass, layer, d, onto)?;
        }
        Ok(())
    }
}
