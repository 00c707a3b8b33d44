//! An ONNX graph while it is built: nodes with one output each and constants of 32-bit floats, and the
//! recorder that writes a network into it. Must not know how layers are connected.

use super::proto::{self, AttributeProto, NodeProto, TensorProto};
use crate::model::{Entry, Graph, NamedTensor, ParamTable};
use crate::ops::{Activation, BatchNorm, Conv2d, MaxPool2d, Span};
use std::collections::{HashMap, HashSet};

/// Value of a node's setting.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Attribute {
    Int(i64),
    Ints(Vec<i64>),
    Float(f64),
    Text(&'static str),
}

/// An operation; its output's name is its own.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub op: &'static str,
    pub name: String,
    pub inputs: Vec<String>,
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// Nodes in the order of computation and the constants that they read.
#[derive(Default)]
pub(super) struct Onnx {
    pub nodes: Vec<Node>,
    pub tensors: HashMap<String, NamedTensor>,
    taken: HashSet<String>,
}

impl Onnx {
    /// Adds a constant; returns its name.
    pub fn constant(&mut self, tensor: NamedTensor) -> String {
        let name = tensor.name.clone();
        self.taken.insert(name.clone());
        self.tensors.insert(name.clone(), tensor);
        name
    }

    /// Adds a node called `name`, with a number where that is taken; returns its output.
    pub fn node(
        &mut self,
        op: &'static str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<(&'static str, Attribute)>,
    ) -> String {
        let mut free = name.to_string();
        let mut number = 2;
        while !self.taken.insert(free.clone()) {
            free = format!("{name}_{number}");
            number += 1;
        }
        let inputs = inputs.iter().map(|s| s.to_string()).collect();
        self.nodes.push(Node { op, name: free.clone(), inputs, attributes });
        free
    }

    /// Bilinear interpolation (align_corners) of x `[n, c, h, w]` to rows and columns of `like`.
    pub fn resize(&mut self, name: &str, x: &str, like: &str) -> String {
        let shape = |v| ("start", Attribute::Int(v));
        let size = self.node("Shape", &format!("{name}.size"), &[like], vec![shape(2)]);
        let batch =
            self.node("Shape", &format!("{name}.batch"), &[x], vec![shape(0), ("end", Attribute::Int(2))]);
        let axis = vec![("axis", Attribute::Int(0))];
        let sizes = self.node("Concat", &format!("{name}.sizes"), &[&batch, &size], axis);
        let attributes = vec![
            ("coordinate_transformation_mode", Attribute::Text("align_corners")),
            ("mode", Attribute::Text("linear")),
        ];
        self.node("Resize", name, &[x, "", "", &sizes], attributes)
    }

    /// The nodes and constants as messages; constants in the order in which nodes read them.
    pub fn into_messages(mut self) -> (Vec<NodeProto>, Vec<TensorProto>) {
        let mut tensors = Vec::new();
        for input in self.nodes.iter().flat_map(|n| &n.inputs) {
            if let Some(t) = self.tensors.remove(input) {
                tensors.push(TensorProto {
                    dims: t.shape.iter().map(|&d| d as i64).collect(),
                    data_type: Some(proto::FLOAT),
                    name: t.name,
                    raw_data: t.data.iter().flat_map(|v| v.to_le_bytes()).collect(),
                });
            }
        }
        (self.nodes.into_iter().map(Node::into_message).collect(), tensors)
    }
}

impl Node {
    fn into_message(self) -> NodeProto {
        NodeProto {
            input: self.inputs,
            output: vec![self.name.clone()],
            name: self.name,
            op_type: self.op.into(),
            attribute: self.attributes.into_iter().map(attribute).collect(),
        }
    }
}

fn attribute((name, value): (&'static str, Attribute)) -> AttributeProto {
    let base = AttributeProto { name: name.into(), ..AttributeProto::default() };
    match value {
        Attribute::Int(v) => AttributeProto { i: Some(v), r#type: Some(proto::ATTRIBUTE_INT), ..base },
        Attribute::Ints(v) => AttributeProto { ints: v, r#type: Some(proto::ATTRIBUTE_INTS), ..base },
        Attribute::Float(v) => {
            AttributeProto { f: Some(v as f32), r#type: Some(proto::ATTRIBUTE_FLOAT), ..base }
        }
        Attribute::Text(v) => {
            AttributeProto { s: Some(v.into()), r#type: Some(proto::ATTRIBUTE_STRING), ..base }
        }
    }
}

/// Writes one network's operations into a graph. Constants have the checkpoint's names after `prefix`.
pub(super) struct Recorder<'a> {
    onnx: &'a mut Onnx,
    table: &'a ParamTable,
    /// The network's tensors that no node reads yet.
    tensors: HashMap<String, NamedTensor>,
    prefix: &'a str,
}

impl<'a> Recorder<'a> {
    /// A recorder of the network with these flat parameters and running statistics.
    pub fn new(
        onnx: &'a mut Onnx,
        table: &'a ParamTable,
        (params, stats): (&[f32], &[f32]),
        prefix: &'a str,
    ) -> Recorder<'a> {
        let tensors = table.export(params, stats).into_iter().map(|t| (t.name.clone(), t)).collect();
        Recorder { onnx, table, tensors, prefix }
    }

    /// The constant of an entry of the table: its own name, and the name without the last part, which is the
    /// layer's.
    fn tensor(&mut self, entry: Option<&Entry>) -> (String, String) {
        let entry = entry.expect("layers and table are of one network");
        let layer = entry.name.rsplit_once('.').map_or(entry.name.as_str(), |(layer, _)| layer);
        let name = format!("{}.{}", self.prefix, entry.name);
        if let Some(t) = self.tensors.remove(&entry.name) {
            self.onnx.constant(NamedTensor { name: name.clone(), ..t });
        }
        (name, format!("{}.{layer}", self.prefix))
    }

    fn param(&mut self, span: Span) -> (String, String) {
        self.tensor(self.table.param_at(span.offset))
    }

    fn stat(&mut self, span: Span) -> String {
        self.tensor(self.table.stat_at(span.offset)).0
    }
}

fn ints(value: usize, count: usize) -> Attribute {
    Attribute::Ints(vec![value as i64; count])
}

impl Graph for Recorder<'_> {
    type Value = String;

    fn conv(&mut self, conv: &Conv2d, x: &String) -> String {
        let (weight, layer) = self.param(conv.weight);
        let bias = conv.bias.map(|bias| self.param(bias).0);
        let inputs: Vec<&str> = [x, &weight].into_iter().chain(&bias).map(String::as_str).collect();
        let attributes = vec![
            ("kernel_shape", ints(conv.kernel, 2)),
            ("strides", ints(conv.stride, 2)),
            ("pads", ints(conv.padding, 4)),
            ("dilations", ints(conv.dilation, 2)),
            ("group", Attribute::Int(conv.groups as i64)),
        ];
        self.onnx.node("Conv", &layer, &inputs, attributes)
    }

    fn batch_norm(&mut self, bn: &BatchNorm, x: &String) -> String {
        let (weight, layer) = self.param(bn.weight);
        let (bias, _) = self.param(bn.bias);
        let (mean, var) = (self.stat(bn.running_mean), self.stat(bn.running_var));
        let inputs = [x, &weight, &bias, &mean, &var];
        self.onnx.node(
            "BatchNormalization",
            &layer,
            &inputs.map(String::as_str),
            vec![("epsilon", Attribute::Float(bn.eps))],
        )
    }

    fn activation(&mut self, act: Activation, x: &String) -> String {
        match act {
            Activation::Identity => x.clone(),
            Activation::LeakyRelu(0.0) => self.onnx.node("Relu", &format!("{x}.relu"), &[x], vec![]),
            Activation::LeakyRelu(slope) => {
                let alpha = vec![("alpha", Attribute::Float(slope))];
                self.onnx.node("LeakyRelu", &format!("{x}.leaky_relu"), &[x], alpha)
            }
        }
    }

    fn add(&mut self, a: &String, b: &String) -> String {
        self.onnx.node("Add", &format!("{a}.add"), &[a, b], vec![])
    }

    fn max_pool(&mut self, pool: &MaxPool2d, x: &String) -> String {
        self.onnx.node(
            "MaxPool",
            &format!("{x}.max_pool"),
            &[x],
            vec![
                ("kernel_shape", ints(pool.kernel, 2)),
                ("strides", ints(pool.stride, 2)),
                ("pads", ints(pool.padding, 4)),
            ],
        )
    }

    fn mean(&mut self, x: &String) -> String {
        self.onnx.node("GlobalAveragePool", &format!("{x}.mean"), &[x], vec![])
    }

    fn interpolate(&mut self, x: &String, like: &String) -> String {
        self.onnx.resize(&format!("{x}.resize"), x, like)
    }

    fn concat(&mut self, parts: &[String]) -> String {
        let name = parts.first().map_or(String::new(), |first| format!("{first}.concat"));
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        self.onnx.node("Concat", &name, &parts, vec![("axis", Attribute::Int(1))])
    }
}
