//! Batch norms folded into the convolutions before them. With running statistics a batch norm is y = s x + t
//! per channel, s = weight / √(var + eps), t = bias - s mean; a convolution that nothing else reads takes s
//! into its weight and t into its bias. After a concatenation each part takes its channels' share; after a
//! sum both addends take s and the first takes t. Computed in double precision. Must not know networks.

use super::graph::{Attribute, Onnx};
use crate::model::NamedTensor;
use std::collections::HashMap;

/// Folds every batch norm that can be; returns their number.
pub(super) fn fold_batch_norms(onnx: &mut Onnx) -> usize {
    let mut uses = HashMap::<String, usize>::new();
    let mut places = HashMap::new();
    for (i, node) in onnx.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|input| *uses.entry(input.clone()).or_default() += 1);
        places.insert(node.name.clone(), i);
    }
    let mut fold = Fold { onnx, uses, places };
    // A folded batch norm's output is from then on that of the node before it.
    let mut renamed = HashMap::<String, String>::new();
    for i in 0..fold.onnx.nodes.len() {
        for input in &mut fold.onnx.nodes[i].inputs {
            if let Some(name) = renamed.get(input) {
                input.clone_from(name);
            }
        }
        let node = &fold.onnx.nodes[i];
        if node.op == "BatchNormalization" && fold.can_scale(&node.inputs[0]) {
            let (name, input) = (node.name.clone(), node.inputs[0].clone());
            let Some((scale, shift)) = fold.affine(i) else { continue };
            fold.apply(&input, &scale, Some(&shift));
            // The node before it has the readers of the batch norm now.
            fold.uses.insert(input.clone(), fold.uses.get(&name).copied().unwrap_or(0));
            renamed.insert(name, input);
        }
    }
    onnx.nodes.retain(|node| !renamed.contains_key(&node.name));
    renamed.len()
}

struct Fold<'a> {
    onnx: &'a mut Onnx,
    /// How many inputs read a name.
    uses: HashMap<String, usize>,
    /// Index of the node of a name.
    places: HashMap<String, usize>,
}

impl Fold<'_> {
    /// Whether an affine map of `value`'s channels can be moved into what computes it.
    fn can_scale(&self, value: &str) -> bool {
        let Some(&place) = self.places.get(value) else { return false };
        let node = &self.onnx.nodes[place];
        self.uses.get(value) == Some(&1)
            && match node.op {
                "Conv" => self.uses.get(&node.inputs[1]) == Some(&1),
                "Concat" | "Add" => node.inputs.iter().all(|input| self.can_scale(input)),
                _ => false,
            }
    }

    /// Scale and shift of a batch norm, one each per channel.
    fn affine(&self, place: usize) -> Option<(Vec<f64>, Vec<f64>)> {
        let node = &self.onnx.nodes[place];
        let eps = node.attributes.iter().find_map(|(name, value)| match value {
            Attribute::Float(v) if *name == "epsilon" => Some(*v),
            _ => None,
        })?;
        let values = |i: usize| Some(&self.onnx.tensors.get(node.inputs.get(i)?)?.data);
        let (weight, bias, mean, var) = (values(1)?, values(2)?, values(3)?, values(4)?);
        let scale: Vec<f64> =
            weight.iter().zip(var).map(|(&w, &v)| f64::from(w) / (f64::from(v) + eps).sqrt()).collect();
        let shift = bias.iter().zip(mean).zip(&scale).map(|((&b, &m), s)| f64::from(b) - s * f64::from(m));
        let shift = shift.collect();
        Some((scale, shift))
    }

    /// Number of channels of a value that can be scaled.
    fn channels(&self, value: &str) -> usize {
        let node = &self.onnx.nodes[self.places[value]];
        match node.op {
            "Conv" => self.onnx.tensors[&node.inputs[1]].shape[0],
            "Concat" => node.inputs.iter().map(|input| self.channels(input)).sum(),
            _ => self.channels(&node.inputs[0]),
        }
    }

    /// Moves the map into what computes `value`, which can be scaled.
    fn apply(&mut self, value: &str, scale: &[f64], shift: Option<&[f64]>) {
        let place = self.places[value];
        let inputs = self.onnx.nodes[place].inputs.clone();
        match self.onnx.nodes[place].op {
            "Conv" => self.apply_to_conv(place, scale, shift),
            "Concat" => {
                let mut at = 0;
                for input in &inputs {
                    let part = at..at + self.channels(input);
                    self.apply(input, &scale[part.clone()], shift.map(|t| &t[part.clone()]));
                    at = part.end;
                }
            }
            _ => {
                for (i, input) in inputs.iter().enumerate() {
                    self.apply(input, scale, shift.filter(|_| i == 0));
                }
            }
        }
    }

    fn apply_to_conv(&mut self, place: usize, scale: &[f64], shift: Option<&[f64]>) {
        let node = &mut self.onnx.nodes[place];
        let tensors = &mut self.onnx.tensors;
        if let Some(weight) = tensors.get_mut(&node.inputs[1]) {
            let len = weight.data.len() / scale.len();
            for (values, s) in weight.data.chunks_exact_mut(len).zip(scale) {
                values.iter_mut().for_each(|v| *v = (s * f64::from(*v)) as f32);
            }
        }
        let old = node.inputs.get(2).and_then(|bias| tensors.get(bias)).map(|t| t.data.clone());
        if old.is_none() && shift.is_none() {
            return;
        }
        let data = (0..scale.len()).map(|c| {
            let old = old.as_ref().map_or(0.0, |values| scale[c] * f64::from(values[c]));
            (old + shift.map_or(0.0, |t| t[c])) as f32
        });
        let name = format!("{}.bias", node.name);
        let bias = NamedTensor { name: name.clone(), shape: vec![scale.len()], data: data.collect() };
        node.inputs.truncate(2);
        node.inputs.push(name);
        self.onnx.constant(bias);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Constants `w0` and `w1` (1x1 convolutions of one channel in, two out) and the parts of a batch norm
    /// `bn`.
    fn constants(channels: usize) -> Onnx {
        let mut onnx = Onnx::default();
        let mut constant = |name: &str, shape: Vec<usize>, data: &[f32]| {
            let data = data[..shape.iter().product()].to_vec();
            onnx.constant(NamedTensor { name: name.into(), shape, data });
        };
        constant("w0", vec![2, 1, 1, 1], &[1.0, 2.0]);
        constant("w1", vec![2, 1, 1, 1], &[3.0, 4.0]);
        constant("bn.weight", vec![channels], &[1.0, -1.0, 2.0, 4.0]);
        constant("bn.bias", vec![channels], &[0.5, 0.25, -1.0, 0.0]);
        constant("bn.mean", vec![channels], &[1.0, 2.0, 3.0, 4.0]);
        constant("bn.var", vec![channels], &[3.0, 15.0, 0.0, 3.0]);
        onnx
    }

    fn batch_norm(onnx: &mut Onnx, x: &str) -> String {
        let inputs = [x, "bn.weight", "bn.bias", "bn.mean", "bn.var"];
        onnx.node("BatchNormalization", "bn", &inputs, vec![("epsilon", Attribute::Float(1.0))])
    }

    #[test]
    fn concatenated_and_added_convolutions_take_their_shares() {
        for op in ["Concat", "Add"] {
            let channels = if op == "Concat" { 4 } else { 2 };
            let mut onnx = constants(channels);
            let a = onnx.node("Conv", "a", &["x", "w0"], vec![]);
            let b = onnx.node("Conv", "b", &["x", "w1"], vec![]);
            let y = onnx.node(op, "y", &[&a, &b], vec![]);
            let y = batch_norm(&mut onnx, &y);
            onnx.node("Relu", "out", &[&y], vec![]);
            assert_eq!(fold_batch_norms(&mut onnx), 1);
            assert_eq!(
                onnx.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(),
                ["a", "b", "y", "out"]
            );
            assert_eq!(onnx.nodes[3].inputs, ["y"]);
            // Scales 1/2, -1/4, 2, 2; shifts 0, 3/4, -7, -8.
            let of = |name: &str| onnx.tensors[name].data.as_slice();
            assert_eq!((of("w0"), of("a.bias")), (&[0.5, -0.5][..], &[0.0, 0.75][..]));
            if op == "Concat" {
                assert_eq!((of("w1"), of("b.bias")), (&[6.0, 8.0][..], &[-7.0, -8.0][..]));
            } else {
                assert_eq!((of("w1"), onnx.nodes[1].inputs.len()), (&[1.5, -1.0][..], 2));
            }
        }
    }

    #[test]
    fn what_something_else_reads_stays() {
        let mut onnx = constants(2);
        let a = onnx.node("Conv", "a", &["x", "w0"], vec![]);
        let y = batch_norm(&mut onnx, &a);
        onnx.node("Add", "out", &[&y, &a], vec![]);
        assert_eq!(fold_batch_norms(&mut onnx), 0);
        assert_eq!((onnx.nodes.len(), onnx.tensors["w0"].data[1]), (3, 2.0));
    }
}
