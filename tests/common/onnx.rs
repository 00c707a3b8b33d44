//! An interpreter of the ONNX files that we write: operators by their definitions in the ONNX standard, over
//! this crate's ops where those are the same. It panics on whatever it does not know, as tests want.

use prost::Message;
use psmt_fast::backend::cpu::{Cpu, Tensor};
use psmt_fast::export::proto::{self, GraphProto, ModelProto, NodeProto, TensorProto};
use psmt_fast::ops::{self, Conv2d, Device, MaxPool2d, Shape, Span};
use std::collections::{HashMap, HashSet};
use std::path::Path;

type Activation = Tensor<f32>;

/// A value of the graph; activations are NHWC here, as the ops want them.
#[derive(Clone)]
enum Value {
    Activation(Activation),
    Ints(Vec<usize>),
}

pub fn read(path: &Path) -> ModelProto {
    ModelProto::decode(std::fs::read(path).unwrap().as_slice()).unwrap()
}

/// Names are unique and defined before they are read, constants have as many values as their shapes say and
/// are read.
pub fn check(graph: &GraphProto) {
    let mut defined = HashSet::from([String::new()]);
    let mut read = HashSet::new();
    for t in &graph.initializer {
        assert_eq!(t.raw_data.len() as i64, 4 * t.dims.iter().product::<i64>(), "{}", t.name);
        assert!(
            t.data_type == Some(proto::FLOAT) && defined.insert(t.name.clone()),
            "{} comes twice",
            t.name
        );
    }
    graph.input.iter().for_each(|i| assert!(defined.insert(i.name.clone()), "{} comes twice", i.name));
    for node in &graph.node {
        for input in &node.input {
            assert!(defined.contains(input), "{} reads {input}, which is not defined yet", node.name);
            read.insert(input.clone());
        }
        assert_eq!(node.output.len(), 1, "{}", node.name);
        assert!(defined.insert(node.output[0].clone()), "{} comes twice", node.output[0]);
    }
    graph.initializer.iter().for_each(|t| assert!(read.contains(&t.name), "nothing reads {}", t.name));
    graph.output.iter().for_each(|o| assert!(defined.contains(&o.name), "{} is not computed", o.name));
}

/// Outputs by name, NHWC, of images `[n, h, w, 3]`.
pub fn run(graph: &GraphProto, images: &Activation) -> HashMap<String, Activation> {
    let constants: HashMap<&str, &TensorProto> =
        graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut values = HashMap::from([(graph.input[0].name.clone(), Value::Activation(images.clone()))]);
    for node in &graph.node {
        let y = Step { node, values: &values, constants: &constants, b: Cpu::new() }.run();
        values.insert(node.output[0].clone(), y);
    }
    let output = |name: &String| match &values[name] {
        Value::Activation(t) => (name.clone(), t.clone()),
        Value::Ints(_) => panic!("{name} is no activation"),
    };
    graph.output.iter().map(|o| output(&o.name)).collect()
}

struct Step<'a> {
    node: &'a NodeProto,
    values: &'a HashMap<String, Value>,
    constants: &'a HashMap<&'a str, &'a TensorProto>,
    b: Cpu<f32>,
}

impl Step<'_> {
    fn run(&self) -> Value {
        let b = &self.b;
        Value::Activation(match self.node.op_type.as_str() {
            "Shape" => return self.shape(),
            "Concat" if self.int("axis") == Some(0) => {
                let parts = (0..self.node.input.len()).flat_map(|i| self.ints(i));
                return Value::Ints(parts.collect());
            }
            // Bytes and class numbers are floats here already.
            "Cast" => self.x(0),
            "Sub" => self.with_channels(|v, c| v - c),
            "Mul" => self.with_channels(|v, c| v * c),
            "Conv" => self.conv(),
            "BatchNormalization" => self.batch_norm(),
            "Relu" => ops::leaky_relu(b, &self.x(0), 0.0).unwrap(),
            "LeakyRelu" => ops::leaky_relu(b, &self.x(0), self.float("alpha")).unwrap(),
            "Add" => ops::add(b, &self.x(0), &self.x(1), 1.0).unwrap(),
            "Mean" => {
                assert_eq!(self.node.input.len(), 2);
                let sum = ops::add(b, &self.x(0), &self.x(1), 1.0).unwrap();
                map(&sum, |v| 0.5 * v)
            }
            "MaxPool" => {
                let [kernel, stride, padding] = ["kernel_shape", "strides", "pads"].map(|a| self.one(a));
                ops::max_pool2d(b, &self.x(0), &MaxPool2d { kernel, stride, padding }).unwrap()
            }
            "GlobalAveragePool" => ops::adaptive_avg_pool2d(b, &self.x(0), (1, 1)).unwrap(),
            "Concat" => {
                assert_eq!(self.int("axis"), Some(1));
                let parts: Vec<Activation> = (0..self.node.input.len()).map(|i| self.x(i)).collect();
                ops::concat(b, &parts.iter().collect::<Vec<_>>()).unwrap()
            }
            "Resize" => self.resize(),
            "Softmax" => self.softmax(),
            "ArgMax" => {
                self.reduce(|p| (0..p.len()).rev().max_by(|&i, &j| p[i].total_cmp(&p[j])).unwrap() as f32)
            }
            "ReduceMax" => {
                assert_eq!(self.attribute("axes").unwrap().ints, [1]);
                self.reduce(|p| p.iter().copied().fold(f32::NEG_INFINITY, f32::max))
            }
            other => panic!("operator {other} is not one of ours"),
        })
    }

    fn attribute(&self, name: &str) -> Option<&proto::AttributeProto> {
        self.node.attribute.iter().find(|a| a.name == name)
    }

    fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).map(|a| a.i.unwrap())
    }

    fn float(&self, name: &str) -> f64 {
        self.attribute(name).unwrap().f.unwrap().into()
    }

    fn text(&self, name: &str) -> &str {
        std::str::from_utf8(self.attribute(name).unwrap().s.as_ref().unwrap()).unwrap()
    }

    /// The one value that all entries of a list have.
    fn one(&self, name: &str) -> usize {
        let list = &self.attribute(name).unwrap().ints;
        assert!(list.len() == if name == "pads" { 4 } else { 2 } && list.iter().all(|v| *v == list[0]));
        list[0] as usize
    }

    fn x(&self, i: usize) -> Activation {
        match &self.values[&self.node.input[i]] {
            Value::Activation(t) => t.clone(),
            Value::Ints(_) => panic!("{}: input {i} is no activation", self.node.name),
        }
    }

    fn ints(&self, i: usize) -> Vec<usize> {
        match &self.values[&self.node.input[i]] {
            Value::Ints(v) => v.clone(),
            Value::Activation(_) => panic!("{}: input {i} is no list", self.node.name),
        }
    }

    fn constant(&self, i: usize) -> (Vec<usize>, Vec<f32>) {
        let t = self.constants[self.node.input[i].as_str()];
        let data = t.raw_data.as_chunks::<4>().0.iter().map(|&v| f32::from_le_bytes(v)).collect();
        (t.dims.iter().map(|&d| d as usize).collect(), data)
    }

    fn shape(&self) -> Value {
        let s = self.x(0).shape();
        let (start, end) = (self.int("start").unwrap() as usize, self.int("end").unwrap_or(4) as usize);
        Value::Ints([s.n, s.c, s.h, s.w][start..end].to_vec())
    }

    fn with_channels(&self, f: impl Fn(f32, f32) -> f32) -> Activation {
        let (x, (dims, c)) = (self.x(0), self.constant(1));
        assert_eq!(dims, [1, x.shape().c, 1, 1]);
        let data = self.b.download(&x);
        Tensor::from_fn(x.shape(), |i| f(data[i], c[i % c.len()]))
    }

    fn conv(&self) -> Activation {
        let x = self.x(0);
        let (dims, weight) = self.constant(1);
        let &[out_channels, inner, h, w] = dims.as_slice() else { panic!("{dims:?}") };
        let [kernel, stride, padding, dilation] =
            ["kernel_shape", "strides", "pads", "dilations"].map(|a| self.one(a));
        assert!(h == kernel && w == kernel);
        let mut params = vec![0.0; weight.len()];
        for (i, v) in weight.iter().enumerate() {
            let (o, rest) = (i / (inner * h * w), i % (inner * h * w));
            params[(o * h * w + rest % (h * w)) * inner + rest / (h * w)] = *v;
        }
        let mut bias = None;
        if self.node.input.len() > 2 {
            bias = Some(Span { offset: params.len(), len: out_channels });
            params.extend(self.constant(2).1);
        }
        let weight = Span { offset: 0, len: weight.len() };
        let groups = self.int("group").unwrap() as usize;
        let in_channels = inner * groups;
        let conv =
            Conv2d { weight, bias, in_channels, out_channels, groups, kernel, stride, padding, dilation };
        ops::conv2d_fprop(&self.b, &ops::Fprop::new(&x, &self.b.upload_vector(&params), &conv)).unwrap().y
    }

    fn batch_norm(&self) -> Activation {
        let [weight, bias, mean, var] = [1, 2, 3, 4].map(|i| self.constant(i).1);
        let eps = self.float("epsilon");
        let x = self.x(0);
        let data = self.b.download(&x);
        Tensor::from_fn(x.shape(), |i| {
            let c = i % x.shape().c;
            let [v, w, b, m, var] = [data[i], weight[c], bias[c], mean[c], var[c]].map(f64::from);
            ((v - m) / (var + eps).sqrt() * w + b) as f32
        })
    }

    fn resize(&self) -> Activation {
        assert_eq!(self.text("coordinate_transformation_mode"), "align_corners");
        assert_eq!(self.text("mode"), "linear");
        assert!(self.node.input[1].is_empty() && self.node.input[2].is_empty());
        let (x, sizes) = (self.x(0), self.ints(3));
        assert_eq!(sizes[..2], [x.shape().n, x.shape().c]);
        ops::interpolate(&self.b, &x, (sizes[2], sizes[3])).unwrap()
    }

    fn softmax(&self) -> Activation {
        assert_eq!(self.int("axis"), Some(1));
        let x = self.x(0);
        let mut data = self.b.download(&x);
        for p in data.chunks_exact_mut(x.shape().c) {
            let max = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            p.iter_mut().for_each(|v| *v = (*v - max).exp());
            let sum: f32 = p.iter().sum();
            p.iter_mut().for_each(|v| *v /= sum);
        }
        Tensor::new(x.shape(), data)
    }

    /// One value of each pixel's channels.
    fn reduce(&self, f: impl Fn(&[f32]) -> f32) -> Activation {
        assert!(self.int("keepdims") == Some(0) && self.int("axis").is_none_or(|axis| axis == 1));
        let x = self.x(0);
        let data = self.b.download(&x).chunks_exact(x.shape().c).map(f).collect();
        Tensor::new(x.shape().with_channels(1), data)
    }
}

fn map(x: &Activation, f: impl Fn(f32) -> f32) -> Activation {
    let data = Cpu::<f32>::new().download(x);
    Tensor::from_fn(x.shape(), |i| f(data[i]))
}

/// `data` as an activation.
pub fn activation(shape: Shape, data: &[f32]) -> Activation {
    Tensor::from_fn(shape, |i| data[i])
}
