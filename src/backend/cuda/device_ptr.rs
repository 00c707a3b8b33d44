//! Addresses in device memory.

/// An address in device memory; 0 is no memory.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address `bytes` further on; no memory stays none.
    pub fn offset(self, bytes: usize) -> DevicePtr {
        DevicePtr(if self.0 == 0 { 0 } else { self.0 + bytes as u64 })
    }
}
