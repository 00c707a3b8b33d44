//! Loading kernels, and the checks before a launch.

use super::super::driver::{Args, Kernel, Launch};
use super::recent::Described;
use super::{Gpu, State, modules, probe};
use crate::Result;
use cudarc::driver::result;
use cudarc::driver::sys::{self, CUfunction_attribute_enum as Attribute, CUresult};
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// Dynamic and static shared memory that a kernel gets without asking.
const SHARED_BY_DEFAULT: usize = 48 << 10;

/// Arguments start at multiples of this, the strictest alignment of any type in a kernel's signature.
const WORD: usize = size_of::<u128>();

/// Arguments as the driver takes them: a pointer to each.
pub(super) struct Arguments {
    words: Vec<u128>,
    /// Number of the word at which each begins.
    starts: Vec<usize>,
}

impl Arguments {
    pub(super) fn new(args: &Args) -> Arguments {
        let (mut words, mut starts) = (Vec::new(), Vec::with_capacity(args.iter().len()));
        for bytes in args.iter() {
            starts.push(words.len());
            for part in bytes.chunks(WORD) {
                let mut word = [0; WORD];
                word[..part.len()].copy_from_slice(part);
                words.push(u128::from_ne_bytes(word));
            }
        }
        Arguments { words, starts }
    }

    /// Good as long as `self` is neither moved nor dropped; the driver copies what they point to before a
    /// launch returns.
    pub(super) fn pointers(&mut self) -> Vec<*mut c_void> {
        self.starts.iter().map(|&start| (&raw mut self.words[start]).cast()).collect()
    }
}

/// A loaded kernel.
#[derive(Clone)]
pub(super) struct Function {
    pub(super) kernel: Arc<Kernel>,
    pub(super) handle: sys::CUfunction,
    /// Bytes of each argument, where the driver tells.
    arg_sizes: Option<Arc<[usize]>>,
    /// Static shared memory in bytes.
    static_shared: usize,
    /// Dynamic shared memory that launches may have so far.
    dynamic_shared: usize,
}

impl Gpu {
    /// The kernel, loaded with its file's other kernels when first asked for.
    pub(super) fn function(&self, kernel: &Kernel, state: &mut State) -> Result<Function> {
        if let Some(function) = state.functions.get(kernel) {
            return Ok(function.clone());
        }
        let failed = |what: &str, e| self.error(format!("{what} {kernel}: {}", probe::describe(e)));
        let module = match state.modules.get(kernel.file) {
            Some(&module) => module,
            None => {
                let image = modules::module(kernel.file).map(|m| m.image).ok_or_else(|| {
                    self.error(format!("this program has no kernels/{}.cu for {}", kernel.file, kernel.name))
                })?;
                // SAFETY: `image` is a fat binary that the toolkit made, aligned to 16 bytes; it outlives the
                // program's run.
                let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
                    .map_err(|e| failed("loading", e))?;
                state.modules.insert(kernel.file, module);
                module
            }
        };
        let name = CString::new(kernel.name.as_str()).expect("names of kernels have no zeros");
        // SAFETY: modules stay loaded until `drop`.
        let handle =
            unsafe { result::module::get_function(module, name) }.map_err(|e| failed("looking up", e))?;
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: `handle` was just given by the driver.
        let static_shared = unsafe { result::function::get_function_attribute(handle, attribute) }
            .map_err(|e| failed("asking for the shared memory of", e))? as usize;
        let function = Function {
            kernel: Arc::new(kernel.clone()),
            handle,
            arg_sizes: arg_sizes(handle),
            static_shared,
            dynamic_shared: SHARED_BY_DEFAULT.saturating_sub(static_shared),
        };
        state.functions.insert(kernel.clone(), function.clone());
        Ok(function)
    }

    /// Raises the kernel's limit of dynamic shared memory to what the launch asks for.
    pub(super) fn permit_shared(
        &self,
        function: &Function,
        launch: &Launch,
        state: &mut State,
    ) -> Result<()> {
        let wanted = launch.shared as usize;
        if wanted <= function.dynamic_shared {
            return Ok(());
        }
        let described = Described(&function.kernel, launch);
        if wanted + function.static_shared > self.max_shared {
            return Err(self.error(format!(
                "{described} needs {} bytes of shared memory a block, the card has {}",
                wanted + function.static_shared,
                self.max_shared
            )));
        }
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function's module stays loaded until `drop`.
        unsafe { result::function::set_function_attribute(function.handle, attribute, wanted as i32) }
            .map_err(|e| self.error(format!("shared memory for {described}: {}", probe::describe(e))))?;
        if let Some(kept) = state.functions.get_mut(&*function.kernel) {
            kept.dynamic_shared = wanted;
        }
        Ok(())
    }

    /// The arguments must have the kernel's sizes: the driver reads as much as the kernel declares, wherever
    /// it lies.
    pub(super) fn check_args(&self, function: &Function, launch: &Launch, args: &Args) -> Result<()> {
        let Some(expected) = &function.arg_sizes else { return Ok(()) };
        let got: Vec<usize> = args.iter().map(<[u8]>::len).collect();
        if got == **expected {
            return Ok(());
        }
        Err(self.error(format!(
            "{}: its arguments have {expected:?} bytes, the launch has {got:?}",
            Described(&function.kernel, launch)
        )))
    }
}

/// Bytes of each argument of a kernel; `None` where the driver is older than CUDA 12.4.
fn arg_sizes(function: sys::CUfunction) -> Option<Arc<[usize]>> {
    // SAFETY: the driver is loaded, as `function` came from it; the symbol is looked up, not called.
    unsafe { sys::culib().get::<unsafe extern "C" fn()>(b"cuFuncGetParamInfo\0") }.ok()?;
    let mut sizes = Vec::new();
    loop {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: `function` is loaded, and the results have their places; past the last argument the call
        // says so.
        match unsafe { sys::cuFuncGetParamInfo(function, sizes.len(), &mut offset, &mut size) } {
            CUresult::CUDA_SUCCESS => sizes.push(size),
            CUresult::CUDA_ERROR_INVALID_VALUE => return Some(sizes.into()),
            _ => return None,
        }
    }
}
