//! Asynchronous work in groups, which complete in order, each at the latest when it is waited for; and
//! cp.async copies, of which a thread has such groups.

use super::thread::Place;
use std::collections::VecDeque;

/// Bytes of a copy.
pub const COPY_BYTES: usize = 16;

/// A copy in flight.
#[derive(Clone, Copy)]
pub struct AsyncCopy {
    pub to: *mut u8,
    pub from: *const u8,
    /// Bytes that are copied; the rest of the sixteen becomes zero.
    pub bytes: usize,
    /// Where it was begun.
    pub place: Place,
    /// Whether the bytes have already been copied.
    pub done: bool,
}

impl AsyncCopy {
    /// Moves the bytes.
    ///
    /// # Safety
    /// As for the kernel's own access to both places.
    pub unsafe fn complete(&mut self) {
        if self.done {
            return;
        }
        self.done = true;
        let mut data = [0u8; COPY_BYTES];
        // SAFETY: as promised by the caller; the buffer in between is ours.
        unsafe {
            self.from.copy_to_nonoverlapping(data.as_mut_ptr(), self.bytes);
            data.as_ptr().copy_to_nonoverlapping(self.to, COPY_BYTES);
        }
    }
}

/// Work in commit groups.
pub struct Groups<T> {
    queue: VecDeque<T>,
    /// Sizes of the closed groups.
    groups: VecDeque<usize>,
    /// Work in the open group.
    open: usize,
}

/// The copies of one thread.
pub type Copies = Groups<AsyncCopy>;

impl<T> Default for Groups<T> {
    fn default() -> Groups<T> {
        Groups { queue: VecDeque::new(), groups: VecDeque::new(), open: 0 }
    }
}

impl<T> Groups<T> {
    /// Adds work to the open group.
    pub fn push(&mut self, work: T) {
        self.queue.push_back(work);
        self.open += 1;
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Closes a group.
    pub fn commit(&mut self) {
        self.groups.push_back(self.open);
        self.open = 0;
    }

    /// The next work that must complete so that at most `groups` groups are in flight.
    pub fn next_before(&mut self, groups: usize) -> Option<T> {
        while self.groups.len() > groups {
            match self.groups.front_mut() {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    return self.queue.pop_front();
                }
                _ => {
                    self.groups.pop_front();
                }
            }
        }
        None
    }

    pub fn clear(&mut self) {
        self.queue.clear();
        self.groups.clear();
        self.open = 0;
    }
}

impl Copies {
    /// The copy to `address` in flight.
    pub fn find(&self, address: usize) -> Option<&AsyncCopy> {
        self.queue.iter().find(|c| (c.to as usize..c.to as usize + COPY_BYTES).contains(&address))
    }
}
