//! A double buffer of pinned host memory, through which data is uploaded without waiting for the stream: one
//! half is filled while the copies from the other are in flight.

use cudarc::driver::result::{self, DriverError, event};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUresult, CUstream};
use std::ptr::NonNull;

/// Larger data is not staged.
pub(super) const LARGEST: usize = 64 << 20;
/// Smallest half in bytes: several steps' worth of small tables.
const LEAST: usize = 4 << 20;
/// Copies start at multiples of this.
const ALIGNMENT: usize = 64;

/// The two halves.
#[derive(Default)]
pub(super) struct Staging {
    halves: [Half; 2],
    /// The half that is being filled.
    current: usize,
}

/// Pinned memory, filled from its start.
#[derive(Default)]
struct Half {
    start: Option<NonNull<u8>>,
    len: usize,
    used: usize,
    /// Recorded after the copies from it, once it was full.
    event: Option<CUevent>,
    /// Whether `event` was recorded and not yet waited for.
    busy: bool,
}

impl Staging {
    /// Address of a copy of `data` that stays as it is until what is submitted to `stream` before the next
    /// call is done; `None` for data that is too large. Waits where both halves are full.
    ///
    /// # Errors
    /// The driver's, when it has no pinned memory or finds a fault.
    ///
    /// # Safety
    /// The context of `stream`, which is the same each time, is current; copies are submitted before the next
    /// call.
    pub(super) unsafe fn put(
        &mut self,
        data: &[u8],
        stream: CUstream,
    ) -> Result<Option<NonNull<u8>>, DriverError> {
        if data.len() > LARGEST {
            return Ok(None);
        }
        if data.len() > self.halves[self.current].room() {
            // SAFETY: as the caller says.
            unsafe { self.halves[self.current].leave(stream) }?;
            self.current ^= 1;
            self.halves[self.current].enter(data.len())?;
        }
        let half = &mut self.halves[self.current];
        let start = half.start.ok_or(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY))?;
        // SAFETY: there is room, and no copy reads this part: it was not handed out since `enter` waited.
        let copy = unsafe {
            let copy = start.add(half.used);
            copy.copy_from_nonoverlapping(NonNull::from(data).cast(), data.len());
            copy
        };
        half.used = (half.used + data.len()).next_multiple_of(ALIGNMENT).min(half.len);
        Ok(Some(copy))
    }

    /// All copies from here are done.
    pub(super) fn reset(&mut self) {
        for half in &mut self.halves {
            (half.used, half.busy) = (0, false);
        }
    }

    /// Gives everything back.
    ///
    /// # Safety
    /// The context is current, and no copy from here is under way.
    pub(super) unsafe fn free(&mut self) {
        for half in &mut self.halves {
            if let Some(start) = half.start.take() {
                // SAFETY: it came from `malloc_host`, and the caller vouches for the rest.
                let _ = unsafe { result::free_host(start.as_ptr().cast()) };
            }
            if let Some(e) = half.event.take() {
                // SAFETY: it came from `event::create`.
                let _ = unsafe { event::destroy(e) };
            }
        }
    }
}

impl Half {
    fn room(&self) -> usize {
        self.len - self.used
    }

    /// The half is full: records an event after the copies from it.
    ///
    /// # Safety
    /// As [`Staging::put`].
    unsafe fn leave(&mut self, stream: CUstream) -> Result<(), DriverError> {
        if self.used == 0 {
            return Ok(());
        }
        let copied = match self.event {
            Some(copied) => copied,
            None => *self.event.insert(event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)?),
        };
        // SAFETY: both handles live.
        unsafe { event::record(copied, stream) }?;
        self.busy = true;
        Ok(())
    }

    /// Waits for the copies from it and makes room for `bytes`.
    fn enter(&mut self, bytes: usize) -> Result<(), DriverError> {
        if let (true, Some(copied)) = (self.busy, self.event) {
            // SAFETY: the event lives, and was recorded.
            unsafe { event::synchronize(copied) }?;
        }
        (self.used, self.busy) = (0, false);
        if self.len < bytes || self.start.is_none() {
            if let Some(start) = self.start.take() {
                // SAFETY: it came from `malloc_host`, and the copies from it are done.
                unsafe { result::free_host(start.as_ptr().cast()) }?;
            }
            self.len = bytes.max(LEAST).next_multiple_of(ALIGNMENT);
            // SAFETY: the caller of `put` made a context current; the memory is freed above or in `free`.
            let area = unsafe { result::malloc_host(self.len, 0) }?;
            self.start = NonNull::new(area.cast());
        }
        Ok(())
    }
}
