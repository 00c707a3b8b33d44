//! The ONNX file: images in, normalisation, one network or the mean of two, upsampling, and what is asked for
//! out. Must not know what the networks consist of.

use super::fold::fold_batch_norms;
use super::graph::{Attribute, Onnx, Recorder};
use super::proto::{
    self, DimensionProto, GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use super::{Info, Values};
use crate::files::write_atomically;
use crate::model::{Architecture, NamedTensor};
use crate::ops::Normalize;
use crate::{Error, Result};
use prost::Message;
use std::io::Write;
use std::path::Path;

/// Version of the file format; 8 came with operator set 17's ONNX release.
const IR_VERSION: i64 = 8;
/// Version of the operators. The last in which means and maxima take their axes as attributes, and one that
/// old runtimes know too.
const OPSET: i64 = 17;
/// Readers refuse messages of 2 GiB and more.
const MAX_BYTES: usize = i32::MAX as usize;
/// Name of the input.
const IMAGES: &str = "images";

/// What the graph's input `images` `[N, 3, H, W]` (red, green, blue) holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Input {
    /// Bytes, 0 to 255, as image files hold them.
    #[default]
    Bytes,
    /// 32-bit floats, 0 to 1.
    Unit,
    /// 32-bit floats, (value / 255 - mean) / deviation: what the network itself sees.
    Normalized,
}

/// What the graph gives, at the input's rows and columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// `logits` `[N, classes, H, W]`, 32-bit floats.
    Logits,
    /// `labels` `[N, H, W]`, one byte per pixel, and `confidence` `[N, H, W]`, 32-bit floats: the class of
    /// the largest probability, and that probability.
    #[default]
    Labels,
    /// `probabilities` `[N, classes, H, W]`, 32-bit floats.
    Probabilities,
}

/// How a graph is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnnxOptions {
    /// What goes in.
    pub input: Input,
    /// What comes out.
    pub output: Output,
    /// Whether batch norms become part of the convolutions before them.
    pub fold_batch_norm: bool,
}

/// Facts of a written file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Operations.
    pub nodes: usize,
    /// Batch norms that were folded.
    pub folded: usize,
    /// Length of the file.
    pub bytes: usize,
}

/// Writes one network, or two whose logits are averaged, as an ONNX model with any batch size, height and
/// width. The same input gives the same bytes.
///
/// # Errors
/// [`Error::Usage`] for no network, or where the file would be longer than ONNX's format allows;
/// [`Error::Io`] where it cannot be written, and `path` is then as it was.
pub fn write_onnx(
    path: &Path,
    arch: &Architecture,
    networks: &[Values],
    info: &Info,
    options: &OnnxOptions,
) -> Result<Written> {
    let (model, folded) = build(arch, networks, info, options)?;
    let bytes = model.encoded_len();
    if bytes > MAX_BYTES {
        return Err(Error::Usage(format!(
            "the model takes {} MiB, an ONNX file holds 2047; expected a smaller one, or --format safetensors",
            bytes >> 20
        )));
    }
    let encoded = model.encode_to_vec();
    write_atomically(path, |out| out.write_all(&encoded))?;
    Ok(Written { nodes: model.graph.map_or(0, |g| g.node.len()), folded, bytes })
}

/// The model and the number of folded batch norms.
fn build(
    arch: &Architecture,
    networks: &[Values],
    info: &Info,
    options: &OnnxOptions,
) -> Result<(ModelProto, usize)> {
    let mut onnx = Onnx::default();
    let x = normalize(&mut onnx, options.input, &info.normalize);
    let mut logits = Vec::new();
    for net in networks {
        let values = (net.params.as_slice(), net.stats.as_slice());
        logits.push(arch.graph(&mut Recorder::new(&mut onnx, &arch.table, values, &net.name), &x));
    }
    let folded = if options.fold_batch_norm { fold_batch_norms(&mut onnx) } else { 0 };
    let low = match &logits[..] {
        [] => return Err(Error::Usage("expected at least one network to write, got none".into())),
        [one] => one.clone(),
        // Interpolation is linear: the mean at stride 4 is the full-resolution logits' mean.
        all => onnx.node("Mean", "mean", &all.iter().map(String::as_str).collect::<Vec<_>>(), vec![]),
    };
    let pixels = ["N", "H", "W"].map(Axis::Any);
    let [n, h, w] = pixels;
    let classes = [n, Axis::Len(arch.config.num_classes), h, w];
    let logits = onnx.resize("logits", &low, IMAGES);
    let output = match options.output {
        Output::Logits => vec![value(&logits, proto::FLOAT, &classes)],
        Output::Probabilities => {
            let p = softmax(&mut onnx, &logits);
            vec![value(&p, proto::FLOAT, &classes)]
        }
        Output::Labels => {
            let (labels, confidence) = labels(&mut onnx, &logits);
            vec![value(&labels, proto::UINT8, &pixels), value(&confidence, proto::FLOAT, &pixels)]
        }
    };
    let element = if options.input == Input::Bytes { proto::UINT8 } else { proto::FLOAT };
    let input = vec![value(IMAGES, element, &[n, Axis::Len(3), h, w])];
    let (node, initializer) = onnx.into_messages();
    let entry = |(key, value): (&str, String)| StringStringEntryProto { key: key.into(), value };
    let mut metadata: Vec<_> = info.entries().into_iter().map(entry).collect();
    metadata.push(entry(("input", name_of(&options.input))));
    metadata.push(entry(("output", name_of(&options.output))));
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: env!("CARGO_PKG_NAME").into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(GraphProto { node, name: info.network.clone(), initializer, input, output }),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
        metadata_props: metadata,
    };
    Ok((model, folded))
}

/// The name of a choice as on the command line.
fn name_of(value: &impl clap::ValueEnum) -> String {
    value.to_possible_value().map_or(String::new(), |v| v.get_name().to_string())
}

/// From the graph's input to what the network sees.
fn normalize(onnx: &mut Onnx, input: Input, normalize: &Normalize) -> String {
    let (mut x, full) = match input {
        Input::Normalized => return IMAGES.into(),
        Input::Unit => (IMAGES.to_string(), 1.0),
        Input::Bytes => (cast(onnx, "images.float", IMAGES, proto::FLOAT), 255.0),
    };
    let channels = |name: &str, of: &dyn Fn(usize) -> f64| NamedTensor {
        name: name.into(),
        shape: vec![1, 3, 1, 1],
        data: (0..3).map(|c| of(c) as f32).collect(),
    };
    let mean = onnx.constant(channels("normalize.mean", &|c| full * f64::from(normalize.mean[c])));
    let scale = onnx.constant(channels("normalize.scale", &|c| 1.0 / (full * f64::from(normalize.std[c]))));
    x = onnx.node("Sub", "images.centered", &[&x, &mean], vec![]);
    onnx.node("Mul", "images.normalized", &[&x, &scale], vec![])
}

fn cast(onnx: &mut Onnx, name: &str, x: &str, element: i32) -> String {
    onnx.node("Cast", name, &[x], vec![("to", Attribute::Int(element.into()))])
}

fn softmax(onnx: &mut Onnx, logits: &str) -> String {
    onnx.node("Softmax", "probabilities", &[logits], vec![("axis", Attribute::Int(1))])
}

/// Names of labels and confidences.
fn labels(onnx: &mut Onnx, logits: &str) -> (String, String) {
    let attributes = vec![("axis", Attribute::Int(1)), ("keepdims", Attribute::Int(0))];
    let class = onnx.node("ArgMax", "labels.class", &[logits], attributes);
    // Through floats, as TensorRT makes bytes of nothing else.
    let class = cast(onnx, "labels.float", &class, proto::FLOAT);
    let labels = cast(onnx, "labels", &class, proto::UINT8);
    let p = softmax(onnx, logits);
    let attributes = vec![("axes", Attribute::Ints(vec![1])), ("keepdims", Attribute::Int(0))];
    (labels, onnx.node("ReduceMax", "confidence", &[&p], attributes))
}

/// An axis of an input or output.
#[derive(Clone, Copy)]
enum Axis {
    Len(usize),
    Any(&'static str),
}

fn value(name: &str, element: i32, axes: &[Axis]) -> ValueInfoProto {
    let dim = axes.iter().map(|axis| match axis {
        Axis::Len(len) => DimensionProto { dim_value: Some(*len as i64), dim_param: None },
        Axis::Any(name) => DimensionProto { dim_value: None, dim_param: Some(name.to_string()) },
    });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let tensor_type = Some(TensorTypeProto { elem_type: Some(element), shape });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
}
