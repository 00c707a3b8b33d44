//! Networks as lists of layers with explicit forward and backward passes over flat parameters: DeepLabv3+ on
//! a bottleneck ResNet. Must not know the method, data, or what trains it.
//!
//! A forward pass returns what its backward pass needs as a named struct, which the backward pass consumes
//! and frees layer by layer. Gradients of activations are returned, gradients of parameters are added to a
//! flat vector.

mod architecture;
mod checksum;
mod config;
mod decoders;
mod deeplab;
mod graph;
mod init;
pub mod io;
mod layers;
mod network;
mod peak;
mod resnet;
mod stacking;
mod table;
mod traits;

pub use architecture::{Architecture, DecoderMasks, DecoderSaved, EncoderSaved};
pub use config::{ModelConfig, NAMES as MODEL_NAMES, Stem};
pub use decoders::Decoders;
pub use graph::Graph;
pub use init::Initialization;
pub use layers::Norm;
pub use network::Network;
pub use table::{Entry, NamedTensor, ParamTable};
