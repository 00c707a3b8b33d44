//! Networks of tests.
#![allow(dead_code)] // each test program uses a part

use psmt_fast::model::{DeepLab, ModelConfig};

/// The network of a configuration that is valid.
pub fn arch(config: ModelConfig) -> DeepLab {
    DeepLab::new(config).unwrap()
}

/// The smallest published form of the network.
pub fn tiny(num_classes: usize) -> DeepLab {
    arch(ModelConfig::tiny(num_classes))
}
