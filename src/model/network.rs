//! The values of a network, whatever its architecture.

use crate::ops::Backend;

/// Values of one network on a device.
pub struct Network<B: Backend> {
    /// Flat parameters, as [`ParamTable::params`](super::ParamTable::params) lays them out.
    pub params: B::Vector,
    /// Flat running statistics, as [`ParamTable::stats`](super::ParamTable::stats) lays them out.
    pub stats: B::Vector,
}

impl<B: Backend> Clone for Network<B> {
    fn clone(&self) -> Network<B> {
        Network { params: self.params.clone(), stats: self.stats.clone() }
    }
}

impl<B: Backend> Network<B> {
    /// Copies flat values to the device.
    pub fn upload(b: &B, params: &[f32], stats: &[f32]) -> Network<B> {
        Network { params: b.upload_vector(params), stats: b.upload_vector(stats) }
    }

    /// Copies (parameters, running statistics) to the host.
    pub fn download(&self, b: &B) -> (Vec<f32>, Vec<f32>) {
        (b.download_vector(&self.params), b.download_vector(&self.stats))
    }
}
