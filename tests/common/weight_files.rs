//! Writers of files with weights for tests: networks under any names, and pickles and archives by hand.
#![allow(dead_code)] // each test program uses a part

use crate::networks;
use psmt_fast::model::io::{TensorFile, write_tensors};
use psmt_fast::model::{Architecture, ModelConfig, NamedTensor, Stem};
use psmt_fast::weights::Weights;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use zip::CompressionMethod;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// The network of `cli_common`'s configuration.
pub fn arch(stem: Stem, num_classes: usize) -> Architecture {
    networks::arch(ModelConfig {
        blocks: [1, 1, 1, 1],
        stem,
        stem_width: 2,
        planes: 1,
        aspp: 4,
        low_level: 2,
        ..ModelConfig::tiny(num_classes)
    })
}

/// Values of a network, no two tensors alike.
pub fn network(arch: &Architecture, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let value = |i: usize| (seed as usize * 1000 + i) as f32 / 4096.0 + 0.125;
    ((0..arch.table.num_params).map(value).collect(), (0..arch.table.num_stats).map(value).collect())
}

/// The network's tensors under the names that `rename` gives, without those that get none.
pub fn renamed(
    arch: &Architecture,
    (params, stats): &(Vec<f32>, Vec<f32>),
    rename: &dyn Fn(&str) -> Option<String>,
) -> Vec<NamedTensor> {
    let tensors = arch.table.export(params, stats).into_iter();
    tensors.filter_map(|t| Some(NamedTensor { name: rename(&t.name)?, ..t })).collect()
}

/// The name that a tensor of the backbone has in a file that holds the backbone alone with `prefix`; none for
/// other tensors.
pub fn in_backbone(prefix: &str) -> impl Fn(&str) -> Option<String> {
    move |name| name.strip_prefix("encoder.backbone.").map(|rest| format!("{prefix}{rest}"))
}

/// The backbone's tensors alone, with `prefix`.
pub fn backbone(arch: &Architecture, values: &(Vec<f32>, Vec<f32>), prefix: &str) -> Vec<NamedTensor> {
    renamed(arch, values, &in_backbone(prefix))
}

/// Values of network `number` after `weights` were put over zeros.
pub fn put(weights: &Weights, arch: &Architecture, number: u64) -> (Vec<f32>, Vec<f32>) {
    let (mut params, mut stats) = (vec![0.0; arch.table.num_params], vec![0.0; arch.table.num_stats]);
    weights.put(arch, number, &mut params, &mut stats).unwrap();
    (params, stats)
}

/// All tensors of a safetensors file.
pub fn tensors_of(file: &TensorFile) -> Vec<NamedTensor> {
    file.names().iter().map(|name| file.require(name).unwrap()).collect()
}

/// Writes a safetensors file.
pub fn write(path: &Path, tensors: &[NamedTensor]) {
    write_tensors(path, tensors, &BTreeMap::new()).unwrap();
}

/// Writes an archive as `torch.save` does, with storages by name.
pub fn zip_file(path: &Path, pickle: &[u8], entries: &[(String, Vec<u8>)], method: CompressionMethod) {
    let mut zip = ZipWriter::new(std::fs::File::create(path).unwrap());
    let options = SimpleFileOptions::default().compression_method(method);
    zip.start_file("a/data.pkl", options).unwrap();
    zip.write_all(pickle).unwrap();
    for (name, bytes) in entries {
        zip.start_file(name.as_str(), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// A pickle of protocol 2, opcode by opcode.
pub struct Pickle(Vec<u8>);

impl Pickle {
    pub fn new() -> Pickle {
        Pickle(vec![0x80, 2])
    }

    pub fn raw(mut self, bytes: &[u8]) -> Pickle {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn op(self, opcode: u8) -> Pickle {
        self.raw(&[opcode])
    }

    pub fn dict(self) -> Pickle {
        self.op(b'}')
    }

    pub fn text(self, text: &str) -> Pickle {
        self.op(b'X').raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    pub fn int(self, value: i32) -> Pickle {
        self.op(b'J').raw(&value.to_le_bytes())
    }

    pub fn global(self, module: &str, name: &str) -> Pickle {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    fn ints(self, values: &[i32]) -> Pickle {
        values.iter().fold(self.op(b'('), |p, &v| p.int(v)).op(b't')
    }

    /// A tensor from the start of storage `key` of `len` floats.
    pub fn tensor(self, key: &str, len: i32, shape: &[i32], strides: &[i32]) -> Pickle {
        let storage = self.global("torch._utils", "_rebuild_tensor_v2").raw(b"((").text("storage");
        let storage = storage.global("torch", "FloatStorage").text(key).text("cpu").int(len).raw(b"tQ");
        storage.int(0).ints(shape).ints(strides).raw(b"\x89}tR")
    }

    pub fn end(self) -> Vec<u8> {
        self.op(b'.').0
    }
}

/// Writes a safetensors file as other programs do: without a checksum.
pub fn write_plain(path: &Path, tensors: &[NamedTensor], metadata: &BTreeMap<String, String>) {
    use safetensors::tensor::{Dtype, TensorView};
    let bytes = |t: &NamedTensor| t.data.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let all: Vec<_> = tensors.iter().map(|t| (t.name.clone(), t.shape.clone(), bytes(t))).collect();
    let views = all.iter().map(|(name, shape, bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let metadata = metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    std::fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}
