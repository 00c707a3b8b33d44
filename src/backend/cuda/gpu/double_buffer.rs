//! A double buffer on the device for the data of steps: that of the next step is uploaded, on a stream of its
//! own, to one buffer while the step that runs reads the other. A step copies its data from there to where it
//! is needed, within the device.

use super::staging::{LARGEST, Staging};
use cudarc::driver::result::{self, DriverError, event, stream};
use cudarc::driver::sys::{self, CUevent, CUevent_flags, CUevent_wait_flags, CUstream};
use std::ptr;

/// Smallest block in bytes.
const LEAST: usize = 4 << 20;
/// Copies start at multiples of this.
const ALIGNMENT: usize = 256;
const WAIT: CUevent_wait_flags = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;

/// Both buffers and the stream that fills them.
pub(super) struct DoubleBuffer {
    /// Null until the first upload.
    stream: CUstream,
    staging: Staging,
    buffers: [StepBuffer; 2],
    /// The buffer of the current step.
    current: usize,
    /// Recorded after the uploads of the current step.
    uploaded: Option<CUevent>,
}

/// Memory for the data of one step.
#[derive(Default)]
struct StepBuffer {
    /// Address and length of each block, appended as steps need more.
    blocks: Vec<(u64, usize)>,
    /// Index of the block that is being filled, and bytes used of it.
    filled: (usize, usize),
    /// Recorded after the step that reads the buffer.
    read: Option<CUevent>,
    /// Whether `read` was recorded and not yet waited for.
    busy: bool,
}

impl Default for DoubleBuffer {
    fn default() -> DoubleBuffer {
        DoubleBuffer {
            stream: ptr::null_mut(),
            staging: Staging::default(),
            buffers: Default::default(),
            current: 0,
            uploaded: None,
        }
    }
}

impl DoubleBuffer {
    /// A step begins, and its data goes to the other buffer.
    pub(super) fn swap(&mut self) {
        self.current ^= 1;
        self.buffers[self.current].filled = (0, 0);
    }

    /// Uploads data of the current step; returns address and length of each piece.
    ///
    /// # Errors
    /// The driver's, when it has no memory or finds a fault.
    ///
    /// # Safety
    /// The context is current, the same each time.
    pub(super) unsafe fn upload(&mut self, data: &[u8]) -> Result<Vec<(u64, usize)>, DriverError> {
        if self.stream.is_null() {
            self.stream = stream::create(stream::StreamKind::NonBlocking)?;
        }
        let buffer = &mut self.buffers[self.current];
        if let (true, Some(read)) = (std::mem::take(&mut buffer.busy), buffer.read) {
            // SAFETY: both live.
            unsafe { stream::wait_event(self.stream, read, WAIT) }?;
        }
        let mut pieces = Vec::new();
        for piece in data.chunks(LARGEST) {
            let to = buffer.reserve(piece.len())?;
            // SAFETY: the context is current, the stream is always this one, and the copy is submitted below.
            let staged = unsafe { self.staging.put(piece, self.stream) }?.expect("pieces are small enough");
            // SAFETY: `staged` holds the piece until the copy is done, by the contract of `Staging::put`;
            // `to` has room for it, and what read that memory last is waited for above.
            unsafe {
                sys::cuMemcpyHtoDAsync_v2(to, staged.as_ptr().cast_const().cast(), piece.len(), self.stream)
            }
            .result()?;
            pieces.push((to, piece.len()));
        }
        Ok(pieces)
    }

    /// Makes what follows on `reader` wait for the uploads of the current step.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Safety
    /// The context is current; the stream lives.
    pub(super) unsafe fn wait(&mut self, reader: CUstream) -> Result<(), DriverError> {
        if self.buffers[self.current].is_empty() {
            return Ok(());
        }
        let uploaded = event_of(&mut self.uploaded)?;
        // SAFETY: all handles live.
        unsafe {
            event::record(uploaded, self.stream)?;
            stream::wait_event(reader, uploaded, WAIT)
        }
    }

    /// Frees the current step's buffer for reuse after what was submitted to `reader` so far.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Safety
    /// As for [`DoubleBuffer::wait`].
    pub(super) unsafe fn release(&mut self, reader: CUstream) -> Result<(), DriverError> {
        let buffer = &mut self.buffers[self.current];
        if buffer.is_empty() {
            return Ok(());
        }
        // SAFETY: both handles live.
        unsafe { event::record(event_of(&mut buffer.read)?, reader) }?;
        buffer.busy = true;
        Ok(())
    }

    /// Gives everything back.
    ///
    /// # Safety
    /// The context is current, and nothing reads the buffers any more.
    pub(super) unsafe fn free(&mut self) {
        // SAFETY: the handles and blocks came from the driver and are forgotten here.
        unsafe {
            if !self.stream.is_null() {
                let _ = stream::synchronize(self.stream);
                self.staging.free();
            }
            let events = self.buffers.iter_mut().map(|b| b.read.take()).chain([self.uploaded.take()]);
            for e in events.flatten() {
                let _ = event::destroy(e);
            }
            for (start, _) in self.buffers.iter_mut().flat_map(|b| b.blocks.drain(..)) {
                let _ = result::free_sync(start);
            }
            if !self.stream.is_null() {
                let _ = stream::destroy(std::mem::replace(&mut self.stream, ptr::null_mut()));
            }
        }
    }
}

impl StepBuffer {
    fn is_empty(&self) -> bool {
        self.filled == (0, 0)
    }

    /// Address of `bytes` unused bytes.
    fn reserve(&mut self, bytes: usize) -> Result<u64, DriverError> {
        loop {
            let (number, used) = self.filled;
            match self.blocks.get(number) {
                Some(&(start, len)) if bytes <= len - used => {
                    self.filled.1 = (used + bytes).next_multiple_of(ALIGNMENT).min(len);
                    return Ok(start + used as u64);
                }
                Some(_) => self.filled = (number + 1, 0),
                None => {
                    let len = bytes.max(LEAST).next_multiple_of(ALIGNMENT);
                    // SAFETY: the caller of `upload` made a context current; the block is freed in `free`.
                    let start = unsafe { result::malloc_sync(len) }?;
                    self.blocks.push((start, len));
                }
            }
        }
    }
}

/// The event, created when first needed.
fn event_of(place: &mut Option<CUevent>) -> Result<CUevent, DriverError> {
    match *place {
        Some(made) => Ok(made),
        None => Ok(*place.insert(event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)?)),
    }
}
