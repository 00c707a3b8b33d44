//! Where a step's data lands on the device while the step before it still runs: on a stream of its own, in one of two areas in
//! turn. The step then copies it to where it is needed, within the device.

use super::staging::{LARGEST, Staging};
use cudarc::driver::result::{self, DriverError, event, stream};
use cudarc::driver::sys::{self, CUevent, CUevent_flags, CUevent_wait_flags, CUstream};
use std::ptr;

/// Bytes of a block at least.
const LEAST: usize = 4 << 20;
/// Copies start at multiples of this.
const ALIGNMENT: usize = 256;
const WAIT: CUevent_wait_flags = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;

/// Both areas and the stream that fills them.
pub(super) struct Landing {
    /// Null until it is needed.
    stream: CUstream,
    staging: Staging,
    areas: [Area; 2],
    /// The one of the step at hand.
    current: usize,
    arrived: Option<CUevent>,
}

/// Memory for the data of one step.
#[derive(Default)]
struct Area {
    /// Address and length of each block; more than one only until the first step of a kind showed what it needs.
    blocks: Vec<(u64, usize)>,
    /// The block that is filled, and how far.
    filled: (usize, usize),
    /// After the step that reads it.
    left: Option<CUevent>,
    /// Whether that was recorded.
    busy: bool,
}

impl Default for Landing {
    fn default() -> Landing {
        Landing {
            stream: ptr::null_mut(),
            staging: Staging::default(),
            areas: Default::default(),
            current: 0,
            arrived: None,
        }
    }
}

impl Landing {
    /// A step begins: its data lands in the other area.
    pub(super) fn turn(&mut self) {
        self.current ^= 1;
        self.areas[self.current].filled = (0, 0);
    }

    /// Sends data, and returns where it lands, in pieces.
    ///
    /// # Errors
    /// The driver's, when it has no memory or finds a fault.
    ///
    /// # Safety
    /// The context is current, the same each time.
    pub(super) unsafe fn put(&mut self, data: &[u8]) -> Result<Vec<(u64, usize)>, DriverError> {
        if self.stream.is_null() {
            self.stream = stream::create(stream::StreamKind::NonBlocking)?;
        }
        let area = &mut self.areas[self.current];
        if let (true, Some(left)) = (std::mem::take(&mut area.busy), area.left) {
            // SAFETY: both live.
            unsafe { stream::wait_event(self.stream, left, WAIT) }?;
        }
        let mut pieces = Vec::new();
        for piece in data.chunks(LARGEST) {
            let to = area.reserve(piece.len())?;
            // SAFETY: the context is current, the stream is always this one, and the copy is submitted below.
            let staged = unsafe { self.staging.put(piece, self.stream) }?.expect("pieces are small enough");
            // SAFETY: `staged` holds the piece until the copy is done, as the staging area promises; `to` has room for it, and
            // what read that memory last is waited for above.
            unsafe {
                sys::cuMemcpyHtoDAsync_v2(to, staged.as_ptr().cast_const().cast(), piece.len(), self.stream)
            }
            .result()?;
            pieces.push((to, piece.len()));
        }
        Ok(pieces)
    }

    /// Lets what follows on `reader` wait for the step's data.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Safety
    /// The context is current; the stream lives.
    pub(super) unsafe fn arrive(&mut self, reader: CUstream) -> Result<(), DriverError> {
        if self.areas[self.current].is_empty() {
            return Ok(());
        }
        let arrived = noted(&mut self.arrived)?;
        // SAFETY: all handles live.
        unsafe {
            event::record(arrived, self.stream)?;
            stream::wait_event(reader, arrived, WAIT)
        }
    }

    /// What was submitted to `reader` so far is the last that reads the step's data.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Safety
    /// As for [`Landing::arrive`].
    pub(super) unsafe fn leave(&mut self, reader: CUstream) -> Result<(), DriverError> {
        let area = &mut self.areas[self.current];
        if area.is_empty() {
            return Ok(());
        }
        // SAFETY: both handles live.
        unsafe { event::record(noted(&mut area.left)?, reader) }?;
        area.busy = true;
        Ok(())
    }

    /// Gives everything back.
    ///
    /// # Safety
    /// The context is current, and nothing reads the areas any more.
    pub(super) unsafe fn free(&mut self) {
        // SAFETY: the handles and blocks came from the driver and are forgotten here.
        unsafe {
            if !self.stream.is_null() {
                let _ = stream::synchronize(self.stream);
                self.staging.free();
            }
            let events = self.areas.iter_mut().map(|a| a.left.take()).chain([self.arrived.take()]);
            for e in events.flatten() {
                let _ = event::destroy(e);
            }
            for (start, _) in self.areas.iter_mut().flat_map(|a| a.blocks.drain(..)) {
                let _ = result::free_sync(start);
            }
            if !self.stream.is_null() {
                let _ = stream::destroy(std::mem::replace(&mut self.stream, ptr::null_mut()));
            }
        }
    }
}

impl Area {
    fn is_empty(&self) -> bool {
        self.filled == (0, 0)
    }

    /// Room for `bytes`.
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
                    // SAFETY: the caller of `put` made a context current; the block is freed in `free`.
                    let start = unsafe { result::malloc_sync(len) }?;
                    self.blocks.push((start, len));
                }
            }
        }
    }
}

/// The event, made when first needed.
fn noted(place: &mut Option<CUevent>) -> Result<CUevent, DriverError> {
    match *place {
        Some(made) => Ok(made),
        None => Ok(*place.insert(event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)?)),
    }
}
