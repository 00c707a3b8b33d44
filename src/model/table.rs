//! The table of a network's flat parameters and running statistics: names, shapes, places, and the way to and
//! from PyTorch's layout.

use crate::ops::{BatchNorm, Conv2d, Span};

/// One tensor among the flat parameters or running statistics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Checkpoint name without the network's prefix, e.g. `encoder.backbone.layer1.0.conv1.weight`.
    pub name: String,
    /// Shape in PyTorch's order; convolution weights are OIHW here and OHWI in the flat array.
    pub shape: Vec<usize>,
    /// Where its values lie.
    pub span: Span,
}

impl Entry {
    /// Puts a tensor in PyTorch's layout at its place among the flat `values` of its kind.
    ///
    /// # Panics
    /// Where `data` has another length than the entry.
    pub fn put(&self, data: &[f32], values: &mut [f32]) {
        values[self.span.range()].copy_from_slice(&permute(data, &self.shape, false));
    }
}

/// A tensor in PyTorch's layout, as files hold it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Name as in the file.
    pub name: String,
    /// Shape, outermost axis first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Values, last axis fastest.
    pub data: Vec<f32>,
}

/// Names and places of all tensors of a network. Convolution weights come first in the flat parameters, so
/// that weight decay covers one range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParamTable {
    /// Parameters in the order of their offsets, without gaps.
    pub params: Vec<Entry>,
    /// Running statistics in the order of their offsets, without gaps.
    pub stats: Vec<Entry>,
    /// Length of the flat parameters.
    pub num_params: usize,
    /// Length of the flat running statistics.
    pub num_stats: usize,
    /// Parameters `0..num_decayed` are convolution weights.
    pub num_decayed: usize,
}

impl ParamTable {
    /// The parameter that flat element `index` belongs to.
    pub fn param_at(&self, index: usize) -> Option<&Entry> {
        find(&self.params, index)
    }

    /// The running statistic that flat element `index` belongs to.
    pub fn stat_at(&self, index: usize) -> Option<&Entry> {
        find(&self.stats, index)
    }

    /// All tensors in PyTorch's layout, parameters first. `params` may be gradients or momenta too. A slice
    /// that is shorter than the table leaves out what it does not cover, so `&[]` for `stats` exports
    /// parameters only.
    pub fn export(&self, params: &[f32], stats: &[f32]) -> Vec<NamedTensor> {
        let of = |entries: &[Entry], values: &[f32]| -> Vec<NamedTensor> {
            let held = |e: &&Entry| e.span.offset + e.span.len <= values.len();
            let tensor = |e: &Entry| NamedTensor {
                name: e.name.clone(),
                shape: e.shape.clone(),
                data: permute(&values[e.span.range()], &e.shape, true),
            };
            entries.iter().filter(held).map(tensor).collect()
        };
        let mut out = of(&self.params, params);
        out.extend(of(&self.stats, stats));
        out
    }

    /// Flat parameters and running statistics from tensors in PyTorch's layout that `find` looks up by name.
    ///
    /// # Errors
    /// A message that names the first tensor that is missing or has another shape.
    pub fn import(
        &self,
        mut find: impl FnMut(&str) -> Option<(Vec<usize>, Vec<f32>)>,
    ) -> std::result::Result<(Vec<f32>, Vec<f32>), String> {
        let mut fill = |entries: &[Entry], len: usize| -> std::result::Result<Vec<f32>, String> {
            let mut out = vec![0.0; len];
            for e in entries {
                let (shape, data) =
                    find(&e.name).ok_or_else(|| format!("tensor {} {:?} is missing", e.name, e.shape))?;
                if shape != e.shape || data.len() != e.span.len {
                    return Err(format!("tensor {}: expected shape {:?}, got {shape:?}", e.name, e.shape));
                }
                e.put(&data, &mut out);
            }
            Ok(out)
        };
        Ok((fill(&self.params, self.num_params)?, fill(&self.stats, self.num_stats)?))
    }
}

fn find(entries: &[Entry], index: usize) -> Option<&Entry> {
    let i = entries.partition_point(|e| e.span.offset + e.span.len <= index);
    entries.get(i)
}

/// OHWI to OIHW (`to_file`) or back; `shape` is OIHW. Other ranks stay as they are.
fn permute(data: &[f32], shape: &[usize], to_file: bool) -> Vec<f32> {
    let &[_, inner, h, w] = shape else { return data.to_vec() };
    let taps = h * w;
    if taps == 1 || inner == 1 {
        return data.to_vec();
    }
    let mut out = vec![0.0; data.len()];
    for (src, dst) in data.chunks_exact(inner * taps).zip(out.chunks_exact_mut(inner * taps)) {
        for i in 0..inner {
            for t in 0..taps {
                let (file, flat) = (i * taps + t, t * inner + i);
                if to_file {
                    dst[file] = src[flat];
                } else {
                    dst[flat] = src[file];
                }
            }
        }
    }
    out
}

/// Momentum and epsilon of a batch norm.
#[derive(Clone, Copy)]
pub(super) struct NormArgs {
    pub momentum: f64,
    pub eps: f64,
}

/// Lays out the table while the layers are made.
pub(super) struct Builder {
    table: ParamTable,
    /// Where the parameters that do not decay begin.
    plain: usize,
}

impl Builder {
    /// A builder that places parameters without weight decay after `num_decayed` convolution weights. A first
    /// build with 0 counts these, the second places all.
    pub fn new(num_decayed: usize) -> Builder {
        Builder { table: ParamTable::default(), plain: num_decayed }
    }

    fn decayed(&mut self, name: String, shape: Vec<usize>) -> Span {
        let span = Span { offset: self.table.num_decayed, len: shape.iter().product() };
        self.table.num_decayed += span.len;
        self.table.params.push(Entry { name, shape, span });
        span
    }

    fn plain(&mut self, name: String, len: usize) -> Span {
        let span = Span { offset: self.plain, len };
        self.plain += len;
        self.table.params.push(Entry { name, shape: vec![len], span });
        span
    }

    fn stat(&mut self, name: String, len: usize) -> Span {
        let span = Span { offset: self.table.num_stats, len };
        self.table.num_stats += len;
        self.table.stats.push(Entry { name, shape: vec![len], span });
        span
    }

    /// A convolution without bias that keeps the size at stride 1 (odd kernels).
    pub fn conv(
        &mut self,
        name: &str,
        channels: (usize, usize),
        kernel: usize,
        stride: usize,
        dilation: usize,
    ) -> Conv2d {
        let (in_channels, out_channels) = channels;
        let weight = self.decayed(format!("{name}.weight"), vec![out_channels, in_channels, kernel, kernel]);
        let padding = dilation * (kernel - 1) / 2;
        Conv2d { weight, bias: None, in_channels, out_channels, groups: 1, kernel, stride, padding, dilation }
    }

    /// A 1x1 convolution with bias.
    pub fn conv_with_bias(&mut self, name: &str, channels: (usize, usize)) -> Conv2d {
        let conv = self.conv(name, channels, 1, 1, 1);
        Conv2d { bias: Some(self.plain(format!("{name}.bias"), channels.1)), ..conv }
    }

    /// A batch norm of `channels`.
    pub fn batch_norm(&mut self, name: &str, channels: usize, args: NormArgs) -> BatchNorm {
        BatchNorm {
            weight: self.plain(format!("{name}.weight"), channels),
            bias: self.plain(format!("{name}.bias"), channels),
            running_mean: self.stat(format!("{name}.running_mean"), channels),
            running_var: self.stat(format!("{name}.running_var"), channels),
            channels,
            momentum: args.momentum,
            eps: args.eps,
        }
    }

    pub fn finish(mut self) -> ParamTable {
        self.table.num_params = self.plain;
        self.table.params.sort_by_key(|e| e.span.offset);
        self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_travel_between_layouts() {
        let mut build = Builder::new(2 * 3 * 9);
        let conv = build.conv("a", (3, 2), 3, 1, 1);
        build.batch_norm("b", 4, NormArgs { momentum: 0.1, eps: 1e-5 });
        let table = build.finish();
        assert_eq!((table.num_decayed, table.num_params, table.num_stats), (54, 62, 8));
        let params: Vec<f32> = (0..62).map(|v| v as f32).collect();
        let stats: Vec<f32> = (0..8).map(|v| v as f32).collect();
        let tensors = table.export(&params, &stats);
        let at = |o: usize, i: usize, r: usize, s: usize| tensors[0].data[((o * 3 + i) * 3 + r) * 3 + s];
        let ohwi = |o: usize, r: usize, s: usize, i: usize| ((o * 3 + r) * 3 + s) * 3 + i;
        assert_eq!(at(1, 2, 0, 1), params[conv.weight.offset + ohwi(1, 0, 1, 2)]);
        let find =
            |name: &str| tensors.iter().find(|t| t.name == name).map(|t| (t.shape.clone(), t.data.clone()));
        assert_eq!(table.import(find).unwrap(), (params, stats));
        assert_eq!(table.param_at(53).unwrap().name, "a.weight");
        assert_eq!(table.param_at(54).unwrap().name, "b.weight");
        assert!(table.param_at(62).is_none());
        let missing = table.import(|name| if name == "b.bias" { None } else { find(name) });
        assert!(missing.unwrap_err().contains("b.bias"));
    }
}
