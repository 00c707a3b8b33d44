//! Weights from files, also of other programs: file formats (safetensors, PyTorch's), names of a network's
//! tensors in them, and the initial weights of a run. Must not know the method or devices. `docs/weights.md`
//! says which files fit.

mod copies;
mod file;
mod fit;
mod infer;
mod names;
mod start;
mod survey;
mod tensor;
mod torch;

pub use file::{Format, WeightFile};
pub use start::Weights;
pub use survey::{Finding, survey};
pub use tensor::{Element, Info};
