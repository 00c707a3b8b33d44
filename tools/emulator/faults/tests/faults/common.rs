//! Launching kernels of the emulator with plain arrays.

#![allow(dead_code)] // each test program uses a part

use bytemuck::Pod;
use psmt_emulator::{CopyTime, EmulatorOptions, Schedule};
use psmt_fast::Result;
use psmt_fast::backend::cuda::driver::{Args, DevicePtr, Driver, Kernel, Launch};
use std::sync::Arc;

/// An emulator; where this build has none, a message to standard error and `None`.
pub fn open(options: EmulatorOptions) -> Option<Arc<dyn Driver>> {
    match crate::emulator(options) {
        Ok(driver) => Some(driver),
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

/// The default, and every other order of threads and copies, in both builds.
pub fn all_options() -> Vec<EmulatorOptions> {
    let orders = [
        (Schedule::Ascending, CopyTime::Late),
        (Schedule::Descending, CopyTime::Early),
        (Schedule::Seeded(1), CopyTime::Seeded(1)),
        (Schedule::Seeded(2), CopyTime::Late),
    ];
    [false, true]
        .into_iter()
        .flat_map(|check| orders.map(|(schedule, copies)| EmulatorOptions { check, schedule, copies }))
        .collect()
}

/// Memory with a copy of `data`.
pub fn upload<T: Pod>(d: &dyn Driver, data: &[T]) -> DevicePtr {
    let bytes: &[u8] = bytemuck::cast_slice(data);
    let ptr = d.alloc(bytes.len()).expect("memory");
    d.upload(ptr, bytes).expect("upload");
    ptr
}

/// Memory that nothing has written.
pub fn alloc<T>(d: &dyn Driver, len: usize) -> DevicePtr {
    d.alloc(len * size_of::<T>()).expect("memory")
}

/// The values there.
pub fn download<T: Pod>(d: &dyn Driver, from: DevicePtr, len: usize) -> Vec<T> {
    let mut data = vec![T::zeroed(); len];
    d.download(from, bytemuck::cast_slice_mut(&mut data)).expect("download");
    data
}

/// Arguments from numbers and pointers.
macro_rules! args {
    ($($v:expr),* $(,)?) => {{
        #[allow(unused_mut)]
        let mut args = psmt_fast::backend::cuda::driver::Args::default();
        $(args.push($v);)*
        args
    }};
}

/// Runs a kernel.
pub fn launch(d: &dyn Driver, file: &'static str, name: &str, launch: Launch, args: Args) -> Result<()> {
    d.launch(&Kernel { file, name: name.into() }, launch, &args)
}
