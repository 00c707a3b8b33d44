//! Networks as plain tensor files (safetensors), without momenta, in the element type and by the names that
//! another program wants. The container is [`crate::model::io`]'s.

use super::{Info, Values};
use crate::model::io::{Float, prefixed, write_tensors_as};
use crate::model::{Architecture, NamedTensor};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// How tensors are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// As layers of the network (`encoder.backbone.conv1.0.weight`); several networks prefixed by `student.`,
    /// `teacher1.` and `teacher2.`.
    Layers,
    /// As the authors' PyTorch model that holds all three (Liu et al., 2022, `EntireModel`): `encoder_s.` and
    /// `decoder_s.` for the student, `encoder1.`, `decoder1.`, `encoder2.` and `decoder2.` for the teachers.
    EntireModel,
}

/// Writes networks to a tensor file. The same input gives the same bytes.
///
/// # Errors
/// [`Error::Usage`] for a value that `float` cannot hold, [`Error::Io`] where the file cannot be written;
/// `path` is then as it was.
pub fn write_networks(
    path: &Path,
    arch: &Architecture,
    networks: &[Values],
    info: &Info,
    naming: Naming,
    float: Float,
) -> Result<()> {
    let mut tensors = Vec::new();
    for net in networks {
        let own = arch.table.export(&net.params, &net.stats);
        tensors.extend(match naming {
            Naming::EntireModel => own.into_iter().map(|t| entire_model(&net.name, t)).collect(),
            Naming::Layers if networks.len() == 1 => own,
            Naming::Layers => prefixed(&net.name, own),
        });
    }
    for t in &tensors {
        if let Some(v) = t.data.iter().find(|v| v.is_finite() && !float.holds(**v)) {
            let message =
                format!("tensor {} has the value {v:e}, which f16 cannot hold: expected f32 or bf16", t.name);
            return Err(Error::Usage(message));
        }
    }
    let metadata: BTreeMap<String, String> =
        info.entries().into_iter().map(|(key, value)| (key.to_string(), value)).collect();
    write_tensors_as(path, &tensors, &metadata, float)
}

/// The tensor by its name in the model of all three networks: encoder and decoder bear the network's mark.
fn entire_model(network: &str, tensor: NamedTensor) -> NamedTensor {
    let mark = match network {
        "teacher1" => "1",
        "teacher2" => "2",
        _ => "_s",
    };
    let name = match tensor.name.split_once('.') {
        Some((part, rest)) => format!("{part}{mark}.{rest}"),
        None => format!("{}{mark}", tensor.name),
    };
    NamedTensor { name, ..tensor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_marked_as_the_authors_do() {
        let name = |network: &str, name: &str| {
            entire_model(network, NamedTensor { name: name.into(), shape: vec![], data: vec![1.0] }).name
        };
        assert_eq!(name("student", "encoder.backbone.bn1.bias"), "encoder_s.backbone.bn1.bias");
        assert_eq!(name("teacher1", "decoder.upsample.classifier.bias"), "decoder1.upsample.classifier.bias");
        assert_eq!(name("teacher2", "encoder.head.reduce.0.weight"), "encoder2.head.reduce.0.weight");
    }
}
