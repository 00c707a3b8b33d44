//! Networks of tests.
#![allow(dead_code)] // each test program uses a part

use psmt_fast::model::{Architecture, ModelConfig};

/// The network of a configuration that is valid.
pub fn arch(config: ModelConfig) -> Architecture {
    Architecture::new(config).unwrap()
}

/// The smallest published form of the network.
pub fn tiny(num_classes: usize) -> Architecture {
    arch(ModelConfig::tiny(num_classes))
}
