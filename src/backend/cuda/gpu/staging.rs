//! Pinned host memory through which small data reaches the device without the caller waiting for the stream.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::CUresult;
use std::ptr::NonNull;

/// Bytes of the area: several steps' worth of small tables.
pub(super) const LEN: usize = 4 << 20;
/// Copies start at multiples of this.
const ALIGNMENT: usize = 64;

/// An area that is filled from its start and reused once the stream was waited for.
#[derive(Default)]
pub(super) struct Staging {
    /// The area, once it was used.
    start: Option<NonNull<u8>>,
    used: usize,
}

impl Staging {
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        bytes <= LEN - self.used
    }

    /// Address of a copy of `data` that stays as it is until `reset`; `None` where there is no room.
    ///
    /// # Errors
    /// The driver's, when it has no pinned memory.
    pub(super) fn put(&mut self, data: &[u8]) -> Result<Option<NonNull<u8>>, DriverError> {
        if !self.has_room(data.len()) {
            return Ok(None);
        }
        let start = match self.start {
            Some(start) => start,
            None => {
                // SAFETY: the caller made a context current; the area is freed in `free`.
                let area = unsafe { result::malloc_host(LEN, 0) }?;
                NonNull::new(area.cast()).ok_or(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY))?
            }
        };
        self.start = Some(start);
        // SAFETY: `used + data.len()` is at most LEN, and no copy reads this part: it was not handed out since `reset`.
        let copy = unsafe {
            let copy = start.add(self.used);
            copy.copy_from_nonoverlapping(NonNull::from(data).cast(), data.len());
            copy
        };
        self.used = (self.used + data.len()).next_multiple_of(ALIGNMENT).min(LEN);
        Ok(Some(copy))
    }

    /// All copies from the area are done.
    pub(super) fn reset(&mut self) {
        self.used = 0;
    }

    /// Gives the area back.
    ///
    /// # Safety
    /// No copy from it is under way.
    pub(super) unsafe fn free(&mut self) {
        if let Some(start) = self.start.take() {
            // SAFETY: the area came from `malloc_host`, and the caller vouches for the rest.
            let _ = unsafe { result::free_host(start.as_ptr().cast()) };
        }
    }
}
