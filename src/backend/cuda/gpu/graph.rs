//! A step as a CUDA graph: submitted by one call, its branches run concurrently. Steps of a kind differ in
//! numbers alone (arguments, addresses, sizes), so one graph serves them all and only changed nodes are
//! updated. Must not know ops.

use super::super::driver::{Kernel, Launch};
use super::super::recording::{Node, Recording, Work};
use super::functions::{Arguments, Function};
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{self, CUgraph, CUgraphExec, CUgraphNode, CUmemorytype, CUresult};
use std::collections::HashMap;
use std::ptr;

/// A graph that can be launched, and the work in it.
pub(super) struct StepGraph {
    graph: CUgraph,
    exec: CUgraphExec,
    nodes: Vec<Node>,
    handles: Vec<CUgraphNode>,
}

// SAFETY: the driver's handles may be used from any thread, one at a time, which the caller's lock sees to.
unsafe impl Send for StepGraph {}

/// The loaded kernels, and the context of the memory.
pub(super) struct Loaded<'a> {
    pub(super) functions: &'a HashMap<Kernel, Function>,
    pub(super) context: sys::CUcontext,
}

impl StepGraph {
    /// The graph of a recorded step.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Safety
    /// The context is current; kernels are loaded and may have their shared memory, arguments have the
    /// kernels' sizes.
    pub(super) unsafe fn build(recording: &Recording, loaded: &Loaded<'_>) -> Result<StepGraph, DriverError> {
        let mut built = StepGraph {
            graph: ptr::null_mut(),
            exec: ptr::null_mut(),
            nodes: Vec::new(),
            handles: Vec::new(),
        };
        // SAFETY: the result has its place; `drop` gives it back.
        unsafe { sys::cuGraphCreate(&mut built.graph, 0) }.result()?;
        for node in recording.nodes() {
            let after: Vec<CUgraphNode> = node.after.iter().map(|&i| built.handles[i]).collect();
            let mut handle = ptr::null_mut();
            // SAFETY: graph and earlier nodes live, the rest is as the caller says.
            unsafe {
                Parameters::of(&node.work, loaded)?.add(&mut handle, built.graph, &after, loaded.context)
            }?;
            built.handles.push(handle);
        }
        // SAFETY: the graph lives, and the result has its place.
        unsafe { sys::cuGraphInstantiateWithFlags(&mut built.exec, built.graph, 0) }.result()?;
        built.nodes = recording.nodes().to_vec();
        Ok(built)
    }

    /// Whether a step's work differs from the graph's in numbers alone, so that `update` applies.
    pub(super) fn fits(&self, recording: &Recording) -> bool {
        recording.is_like(&self.nodes)
    }

    /// Updates the graph to a step that [`StepGraph::fits`]; launches in flight are not affected.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Safety
    /// As for [`StepGraph::build`].
    pub(super) unsafe fn update(
        &mut self,
        recording: &Recording,
        loaded: &Loaded<'_>,
    ) -> Result<(), DriverError> {
        for ((new, old), &handle) in recording.nodes().iter().zip(&mut self.nodes).zip(&self.handles) {
            if new.work != old.work {
                // SAFETY: the node is this graph's and of the same kind, the rest is as the caller says.
                unsafe { Parameters::of(&new.work, loaded)?.set(self.exec, handle, loaded.context) }?;
                old.work = new.work.clone();
            }
        }
        Ok(())
    }

    /// Submits the step.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Safety
    /// The context is current; what the work reads and writes lives in the stream's order.
    pub(super) unsafe fn launch(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: the graph was instantiated; the rest is as the caller says.
        unsafe { sys::cuGraphLaunch(self.exec, stream) }.result()
    }
}

impl Drop for StepGraph {
    fn drop(&mut self) {
        // SAFETY: the handles came from the driver, or are null where it gave none; it keeps what is still
        // running.
        unsafe {
            if !self.exec.is_null() {
                let _ = sys::cuGraphExecDestroy(self.exec);
            }
            if !self.graph.is_null() {
                let _ = sys::cuGraphDestroy(self.graph);
            }
        }
    }
}

/// The driver's parameters of a node.
enum Parameters {
    Kernel { function: sys::CUfunction, launch: Launch, arguments: Arguments },
    Copy(Box<sys::CUDA_MEMCPY3D>),
    Clear(sys::CUDA_MEMSET_NODE_PARAMS),
}

impl Parameters {
    fn of(work: &Work, loaded: &Loaded<'_>) -> Result<Parameters, DriverError> {
        Ok(match work {
            Work::Launch { kernel, launch, args } => {
                let function =
                    loaded.functions.get(kernel).ok_or(DriverError(CUresult::CUDA_ERROR_NOT_FOUND))?;
                let arguments = Arguments::new(args);
                Parameters::Kernel { function: function.handle, launch: *launch, arguments }
            }
            Work::Copy { from, to, bytes } => Parameters::Copy(Box::new(copy(from.0, to.0, *bytes))),
            Work::Clear { ptr, bytes } => Parameters::Clear(sys::CUDA_MEMSET_NODE_PARAMS {
                dst: ptr.0,
                pitch: 0,
                value: 0,
                elementSize: 1,
                width: *bytes,
                height: 1,
            }),
        })
    }

    /// # Safety
    /// As for [`StepGraph::build`]; `graph` and the nodes `after` live.
    unsafe fn add(
        &mut self,
        node: &mut CUgraphNode,
        graph: CUgraph,
        after: &[CUgraphNode],
        context: sys::CUcontext,
    ) -> Result<(), DriverError> {
        let (first, count) = (after.as_ptr(), after.len());
        // SAFETY: as the caller says; the driver copies the parameters, arguments too, before it returns.
        unsafe {
            match self {
                Parameters::Kernel { function, launch, arguments } => {
                    let mut pointers = arguments.pointers();
                    let kernel = kernel(*function, launch, &mut pointers);
                    sys::cuGraphAddKernelNode_v2(node, graph, first, count, &kernel)
                }
                Parameters::Copy(copy) => {
                    sys::cuGraphAddMemcpyNode(node, graph, first, count, &**copy, context)
                }
                Parameters::Clear(clear) => {
                    sys::cuGraphAddMemsetNode(node, graph, first, count, clear, context)
                }
            }
        }
        .result()
    }

    /// # Safety
    /// As for [`StepGraph::build`]; `node` is one of the graph that `exec` was made of, of the same kind and
    /// kernel.
    unsafe fn set(
        &mut self,
        exec: CUgraphExec,
        node: CUgraphNode,
        context: sys::CUcontext,
    ) -> Result<(), DriverError> {
        // SAFETY: as for `add`.
        unsafe {
            match self {
                Parameters::Kernel { function, launch, arguments } => {
                    let mut pointers = arguments.pointers();
                    let kernel = kernel(*function, launch, &mut pointers);
                    sys::cuGraphExecKernelNodeSetParams_v2(exec, node, &kernel)
                }
                Parameters::Copy(copy) => sys::cuGraphExecMemcpyNodeSetParams(exec, node, &**copy, context),
                Parameters::Clear(clear) => sys::cuGraphExecMemsetNodeSetParams(exec, node, clear, context),
            }
        }
        .result()
    }
}

fn kernel(
    func: sys::CUfunction,
    launch: &Launch,
    pointers: &mut [*mut std::ffi::c_void],
) -> sys::CUDA_KERNEL_NODE_PARAMS {
    let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
    sys::CUDA_KERNEL_NODE_PARAMS {
        func,
        gridDimX: gx,
        gridDimY: gy,
        gridDimZ: gz,
        blockDimX: bx,
        blockDimY: by,
        blockDimZ: bz,
        sharedMemBytes: launch.shared,
        kernelParams: pointers.as_mut_ptr(),
        extra: ptr::null_mut(),
        kern: ptr::null_mut(),
        ctx: ptr::null_mut(),
    }
}

/// `bytes` contiguous bytes, as the driver describes copies: boxes of pitched memory.
fn copy(from: u64, to: u64, bytes: usize) -> sys::CUDA_MEMCPY3D {
    sys::CUDA_MEMCPY3D {
        srcXInBytes: 0,
        srcY: 0,
        srcZ: 0,
        srcLOD: 0,
        srcMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
        srcHost: ptr::null(),
        srcDevice: from,
        srcArray: ptr::null_mut(),
        reserved0: ptr::null_mut(),
        srcPitch: bytes,
        srcHeight: 1,
        dstXInBytes: 0,
        dstY: 0,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: ptr::null_mut(),
        dstDevice: to,
        dstArray: ptr::null_mut(),
        reserved1: ptr::null_mut(),
        dstPitch: bytes,
        dstHeight: 1,
        WidthInBytes: bytes,
        Height: 1,
        Depth: 1,
    }
}
