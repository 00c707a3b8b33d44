//! A driver that hands everything on to the emulator, where a test counts, changes or refuses some of it.

use psmt_emulator::EmulatorOptions;
use psmt_fast::Result;
use psmt_fast::backend::cuda::driver::{Args, DevicePtr, Driver, Kernel, Launch};
use psmt_fast::backend::cuda::tensor_map::{TensorMap, TensorMapSpec};
use std::sync::Arc;

/// What a test does next to the emulator; nothing by default.
pub trait Hooks: Send + Sync {
    /// Memory is about to be allocated.
    fn alloc(&self, _bytes: usize) {}
    /// The caller is about to get these bytes.
    fn downloaded(&self, _data: &mut [u8]) {}
    /// A kernel is about to be launched; an error is returned as the launch's.
    fn launch(&self, _kernel: &Kernel, _launch: Launch) -> Result<()> {
        Ok(())
    }
    fn allows_arena(&self) -> bool {
        true
    }
}

/// The emulator with a test's hooks.
pub struct Hooked<H> {
    pub hooks: H,
    under: Arc<dyn Driver>,
}

/// An emulator; none, which standard error says, where this build has no emulator.
pub fn emulator(options: EmulatorOptions) -> Option<Arc<dyn Driver>> {
    psmt_emulator::open(options).inspect_err(|e| eprintln!("skipped: {e}")).ok()
}

/// The emulator with `hooks`; none as [`emulator`].
pub fn hooked<H: Hooks>(hooks: H) -> Option<Arc<Hooked<H>>> {
    Some(Arc::new(Hooked { hooks, under: emulator(EmulatorOptions::default())? }))
}

impl<H: Hooks> Driver for Hooked<H> {
    fn name(&self) -> String {
        self.under.name()
    }
    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        self.hooks.alloc(bytes);
        self.under.alloc(bytes)
    }
    fn free(&self, ptr: DevicePtr, bytes: usize) {
        self.under.free(ptr, bytes)
    }
    fn upload(&self, to: DevicePtr, data: &[u8]) -> Result<()> {
        self.under.upload(to, data)
    }
    fn download(&self, from: DevicePtr, data: &mut [u8]) -> Result<()> {
        self.under.download(from, data)?;
        self.hooks.downloaded(data);
        Ok(())
    }
    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.under.copy(from, to, bytes)
    }
    fn clear(&self, ptr: DevicePtr, bytes: usize) -> Result<()> {
        self.under.clear(ptr, bytes)
    }
    fn launch(&self, kernel: &Kernel, launch: Launch, args: &Args) -> Result<()> {
        self.hooks.launch(kernel, launch)?;
        self.under.launch(kernel, launch, args)
    }
    fn synchronize(&self) -> Result<()> {
        self.under.synchronize()
    }
    fn allows_arena(&self) -> bool {
        self.hooks.allows_arena()
    }
    fn has_wgmma(&self) -> bool {
        self.under.has_wgmma()
    }
    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        self.under.tensor_map(spec)
    }
}
