//! The kernels that the host's compiler made, by file and name.

use psmt_fast::backend::cuda::driver::Kernel;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};

/// `EmuKernel` of tools/emulator/cpp/emulated.cuh.
#[repr(C)]
pub struct KernelRecord {
    name: *const c_char,
    invoke: Invoke,
    sizes: *const u32,
    num_args: u32,
    next: *const KernelRecord,
}

/// Calls a kernel with pointers to its arguments.
pub type Invoke = unsafe extern "C" fn(args: *const *mut c_void);
/// Head of a list of kernels.
pub type ListFn = unsafe extern "C" fn() -> *const KernelRecord;

/// The launch bounds of `KERNEL(threads) name(...)` and its other forms; a null name ends the list.
#[repr(C)]
pub struct Bound {
    name: *const c_char,
    threads: u32,
    cluster: u32,
}
/// Array of bounds.
pub type BoundsFn = unsafe extern "C" fn() -> *const Bound;

/// A file of kernels, as its build script made it: the plain kernels, the instrumented ones, and their launch
/// bounds.
pub struct KernelFile {
    /// Name without its ending.
    pub name: &'static str,
    /// Head of the list of plain kernels.
    pub plain: ListFn,
    /// Head of the list of checked kernels.
    pub checked: ListFn,
    /// Bounds of either.
    pub bounds: BoundsFn,
}

include!(concat!(env!("OUT_DIR"), "/table.rs"));

/// One kernel in one of the two builds.
#[derive(Clone)]
pub struct Entry {
    pub invoke: Invoke,
    /// Bytes of each argument.
    pub sizes: Vec<u32>,
    /// Most threads of a block.
    pub max_threads: u32,
    /// Blocks of a cluster, which follow one another along x.
    pub cluster: u32,
}

/// Of kernels without a bound.
const MAX_THREADS: u32 = 1024;

/// The kernels of a file, by name.
type Names = HashMap<&'static str, Entry>;

/// Kernels by build (plain, checked) and file.
pub struct Registry(HashMap<(bool, &'static str), Names>);

impl Registry {
    /// The kernels of these files.
    pub fn new(files: &[KernelFile]) -> Registry {
        let mut all = HashMap::new();
        for &KernelFile { name, plain, checked, bounds } in files {
            let mut known: HashMap<&CStr, (u32, u32)> = HashMap::new();
            // SAFETY: a constant array that ends with a null name.
            let mut bound = unsafe { bounds() };
            while let Some(b) = unsafe { bound.as_ref() }.filter(|b| !b.name.is_null()) {
                known.insert(unsafe { CStr::from_ptr(b.name) }, (b.threads, b.cluster));
                bound = unsafe { bound.add(1) };
            }
            for (check, list) in [(false, plain), (true, checked)] {
                let names: &mut Names = all.entry((check, name)).or_default();
                // SAFETY: the lists are built before `main` and never change; names and sizes are constants.
                let mut record = unsafe { list() };
                while let Some(r) = unsafe { record.as_ref() } {
                    let (name, sizes) = unsafe {
                        (CStr::from_ptr(r.name), std::slice::from_raw_parts(r.sizes, r.num_args as usize))
                    };
                    let (max_threads, cluster) = known.get(name).copied().unwrap_or((MAX_THREADS, 1));
                    let name = name.to_str().expect("identifiers are ASCII");
                    let sizes = sizes.to_vec();
                    names.insert(name, Entry { invoke: r.invoke, sizes, max_threads, cluster });
                    record = r.next;
                }
            }
        }
        Registry(all)
    }

    /// The kernel, or a message that says what there is instead.
    pub fn find(&self, kernel: &Kernel, check: bool) -> Result<&Entry, String> {
        let names = self.0.get(&(check, kernel.file));
        let names = names.ok_or_else(|| format!("no kernel {kernel}: there is no such file"))?;
        names.get(kernel.name.as_str()).ok_or_else(|| {
            let mut known: Vec<&str> = names.keys().copied().collect();
            known.sort_unstable();
            format!("no kernel {kernel}; it registers {}", known.join(", "))
        })
    }
}
