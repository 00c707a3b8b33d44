//! Steps on a card: their work is recorded, and submitted as one graph when the step ends. A call that needs
//! results before that submits the recorded work piece by piece, and the rest of that step is launched call
//! by call.

use super::super::driver::DevicePtr;
use super::super::recording::{Recording, Work};
use super::functions::Arguments;
use super::graph::{Loaded, StepGraph};
use super::{Gpu, State, probe};
use crate::Result;
use cudarc::driver::result::{self, DriverError};

impl Gpu {
    /// Submits work, or records it for the end of the step.
    pub(super) fn work(&self, work: Work, state: &mut State) -> Result<()> {
        match &mut state.recording {
            Some((_, recording)) => {
                recording.push(work);
                Ok(())
            }
            None => self.perform(&work, state),
        }
    }

    /// Uploads data of the recorded step ahead of its work; `false` where no step is recorded.
    pub(super) fn upload_ahead(&self, to: DevicePtr, data: &[u8], state: &mut State) -> Result<bool> {
        let Some((_, recording)) = &mut state.recording else { return Ok(false) };
        // SAFETY: the context is current.
        let pieces = unsafe { state.double_buffer.upload(data) };
        let pieces = pieces.map_err(|e| self.fault("while copying to the device", e, &state.recent))?;
        let mut done = 0;
        for (from, bytes) in pieces {
            recording.push(Work::Copy { from: DevicePtr(from), to: to.offset(done), bytes });
            done += bytes;
        }
        Ok(true)
    }

    /// Submits what was recorded of a step, one piece at a time, and records no more of it.
    pub(super) fn flush(&self, state: &mut State) -> Result<()> {
        match state.recording.take() {
            Some((_, recording)) => self.submit_pieces(&recording, state),
            None => Ok(()),
        }
    }

    fn submit_pieces(&self, recording: &Recording, state: &mut State) -> Result<()> {
        self.submit(state, |gpu, state| {
            recording.nodes().iter().try_for_each(|n| gpu.perform(&n.work, state))
        })
    }

    /// Submits a recorded step as a graph.
    pub(super) fn finish(&self, kind: &'static str, recording: &Recording, state: &mut State) -> Result<()> {
        if let Err(e) = self.graph(kind, recording, state) {
            // Without a graph the step is the same, only slower.
            let why = probe::describe(e);
            tracing::warn!(
                "{}: no graph of the {kind} ({why}), so kernels are launched one by one",
                self.name
            );
            state.graphs.clear();
            state.no_graphs = true;
            return self.submit_pieces(recording, state);
        }
        self.submit(state, |gpu, state| {
            let graph = &state.graphs[kind];
            // SAFETY: the context is current, and buffers live in the stream's order.
            unsafe { graph.launch(gpu.stream) }
                .map_err(|e| gpu.fault(&format!("while launching the {kind}"), e, &state.recent))?;
            for node in recording.nodes() {
                if let Work::Launch { kernel, launch, .. } = &node.work {
                    state.recent.push(state.functions[kernel].kernel.clone(), *launch);
                }
            }
            Ok(())
        })
    }

    /// Updates the graph of `kind` to this step, or builds it.
    fn graph(
        &self,
        kind: &'static str,
        recording: &Recording,
        state: &mut State,
    ) -> std::result::Result<(), DriverError> {
        let loaded = Loaded { functions: &state.functions, context: self.context };
        // The context is current; each kernel was loaded and checked when it was recorded.
        if let Some(graph) = state.graphs.get_mut(kind).filter(|graph| graph.fits(recording)) {
            // SAFETY: as above.
            match unsafe { graph.update(recording, &loaded) } {
                Ok(()) => return Ok(()),
                // The driver does not make this change in place. If it never does, every step would cost a
                // new graph.
                Err(e) if state.rebuilt => return Err(e),
                Err(e) => {
                    state.rebuilt = true;
                    tracing::debug!("{}: the {kind} gets a new graph: {}", self.name, probe::describe(e));
                }
            }
        }
        // SAFETY: as above.
        let graph = unsafe { StepGraph::build(recording, &loaded) }?;
        tracing::debug!("{}: a graph of {} nodes for the {kind}", self.name, recording.nodes().len());
        state.graphs.insert(kind, graph);
        Ok(())
    }

    /// Submits a step's work after the upload of its data and before its buffer is released.
    fn submit(&self, state: &mut State, work: impl FnOnce(&Gpu, &mut State) -> Result<()>) -> Result<()> {
        let during = "while copying to the device";
        // SAFETY: the context is current, and the stream lives as long as `self`.
        unsafe { state.double_buffer.wait(self.stream) }.map_err(|e| self.fault(during, e, &state.recent))?;
        work(self, state)?;
        // SAFETY: as above.
        unsafe { state.double_buffer.release(self.stream) }.map_err(|e| self.fault(during, e, &state.recent))
    }

    /// Submits one piece of work, which was checked before.
    fn perform(&self, work: &Work, state: &mut State) -> Result<()> {
        match work {
            Work::Launch { kernel, launch, args } => {
                let function = self.function(kernel, state)?;
                let mut arguments = Arguments::new(args);
                let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
                // SAFETY: the function is loaded; the arguments have its sizes where the driver reports them,
                // and buffers among them hold what the launch plan says and live in the stream's order.
                unsafe {
                    result::launch_kernel(
                        function.handle,
                        (gx, gy, gz),
                        (bx, by, bz),
                        launch.shared,
                        self.stream,
                        &mut arguments.pointers(),
                    )
                }
                .map_err(|e| self.launch_error(e, &function.kernel, launch, state))?;
                state.recent.push(function.kernel, *launch);
                if self.blocking { self.settle("while waiting for it", state) } else { Ok(()) }
            }
            // SAFETY: both of the caller's buffers hold `bytes` bytes and live in the stream's order.
            Work::Copy { from, to, bytes } => unsafe {
                result::memcpy_dtod_async(to.0, from.0, *bytes, self.stream)
                    .map_err(|e| self.fault("while copying on the device", e, &state.recent))
            },
            // SAFETY: the caller's buffer holds `bytes` bytes and lives in the stream's order.
            Work::Clear { ptr, bytes } => unsafe {
                result::memset_d8_async(ptr.0, 0, *bytes, self.stream)
                    .map_err(|e| self.fault("while clearing memory", e, &state.recent))
            },
        }
    }
}
