//! The check build's accesses to memory: the functions that `-fsanitize=thread` makes the compiler call
//! before each, over the [`shadow`](super::shadow) memory. No sanitizer's runtime is linked.

use super::cluster::Cluster;
use super::shadow::Access;
use super::thread::Thread;
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

thread_local! {
    /// The cluster whose accesses are followed on this OS thread.
    static CHECKED: Cell<*mut Cluster> = const { Cell::new(ptr::null_mut()) };
}

/// From now on accesses on this OS thread are those of `cluster`; null ends that.
pub fn follow(cluster: *mut Cluster) {
    CHECKED.set(cluster);
}

#[inline]
fn access(address: *const c_void, bytes: usize, kind: Access) {
    let cluster = CHECKED.get();
    if !cluster.is_null() {
        // SAFETY: set only while the cluster runs, and instrumented code runs on the coroutine of its current
        // thread.
        unsafe { Cluster::touch(cluster, address as usize, bytes, kind) }
    }
}

impl Thread {
    /// Follows an access that is not in the kernel's own text.
    ///
    /// # Safety
    /// Called on this thread's coroutine by a function that owns nothing else.
    pub unsafe fn touch(address: *const u8, bytes: usize, kind: Access) {
        access(address.cast(), bytes, kind);
    }
}

macro_rules! hooks {
    ($($name:ident: $bytes:literal $kind:ident),* $(,)?) => { $(
        #[unsafe(no_mangle)]
        extern "C" fn $name(address: *const c_void) {
            access(address, $bytes, Access::$kind);
        }
    )* };
}
hooks! {
    __tsan_read1: 1 Read, __tsan_read2: 2 Read, __tsan_read4: 4 Read, __tsan_read8: 8 Read, __tsan_read16: 16 Read,
    __tsan_write1: 1 Write, __tsan_write2: 2 Write, __tsan_write4: 4 Write, __tsan_write8: 8 Write,
    __tsan_write16: 16 Write,
    __tsan_unaligned_read2: 2 Read, __tsan_unaligned_read4: 4 Read, __tsan_unaligned_read8: 8 Read,
    __tsan_unaligned_read16: 16 Read, __tsan_unaligned_write2: 2 Write, __tsan_unaligned_write4: 4 Write,
    __tsan_unaligned_write8: 8 Write, __tsan_unaligned_write16: 16 Write,
    __tsan_volatile_read1: 1 Read, __tsan_volatile_read2: 2 Read, __tsan_volatile_read4: 4 Read,
    __tsan_volatile_read8: 8 Read, __tsan_volatile_write1: 1 Write, __tsan_volatile_write2: 2 Write,
    __tsan_volatile_write4: 4 Write, __tsan_volatile_write8: 8 Write,
}

#[unsafe(no_mangle)]
extern "C" fn __tsan_read_range(address: *const c_void, bytes: usize) {
    access(address, bytes, Access::Read);
}

#[unsafe(no_mangle)]
extern "C" fn __tsan_write_range(address: *const c_void, bytes: usize) {
    access(address, bytes, Access::Write);
}

// Called on the way into and out of modules and functions; nothing here needs it.
#[unsafe(no_mangle)]
extern "C" fn __tsan_init() {}
#[unsafe(no_mangle)]
extern "C" fn __tsan_func_entry(_caller: *const c_void) {}
#[unsafe(no_mangle)]
extern "C" fn __tsan_func_exit() {}

// Calls of these would be plain accesses to the compiler; the check build's kernels come here instead.
#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_memcpy(to: *mut c_void, from: *const c_void, bytes: usize) -> *mut c_void {
    access(from, bytes, Access::Read);
    access(to, bytes, Access::Write);
    // SAFETY: as for the kernel's own call.
    unsafe { to.cast::<u8>().copy_from_nonoverlapping(from.cast(), bytes) };
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_memset(to: *mut c_void, value: i32, bytes: usize) -> *mut c_void {
    access(to, bytes, Access::Write);
    // SAFETY: as for the kernel's own call.
    unsafe { to.cast::<u8>().write_bytes(value as u8, bytes) };
    to
}
