//! The functions that tools/emulator/cpp/emulated.cuh and emulated_sm90.cuh declare for kernels. Each runs on
//! the coroutine of the thread that calls it, and owns nothing when it suspends that thread.

use super::copies::{AsyncCopy, COPY_BYTES};
use super::shadow::Access;
use super::thread::{Place, Thread, WarpOp};
use super::tma::TmaLoad;
use super::wgmma::Deposit;
use psmt_fast::backend::cuda::tensor_map::TensorMap;
use std::ffi::{c_char, c_void};

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_block_sync(thread: *mut Thread, file: *const c_char, line: u32) {
    // SAFETY: kernels pass the running thread.
    unsafe { Thread::block_sync(thread, Place { file, line }) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_warp(
    thread: *mut Thread,
    op: WarpOp,
    deposit: *mut c_void,
    orders: bool,
    file: *const c_char,
    line: u32,
) {
    // SAFETY: kernels pass the running thread, and with each operation the deposit that it expects.
    unsafe { Thread::warp_op(thread, op, deposit, orders, Place { file, line }) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_shared(
    thread: *mut Thread,
    key: *const c_void,
    bytes: u64,
    align: u64,
    file: *const c_char,
    line: u32,
) -> *mut u8 {
    // SAFETY: kernels pass the running thread.
    unsafe { Thread::shared(thread, key, bytes as usize, align as usize, Place { file, line }) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_copy_async16(
    thread: *mut Thread,
    to: *mut u8,
    from: *const u8,
    bytes: i32,
    file: *const c_char,
    line: u32,
) {
    let place = Place { file, line };
    // SAFETY: kernels pass the running thread; the copy touches what the kernel asks for, as its own accesses
    // do.
    unsafe {
        let size = usize::try_from(bytes).ok().filter(|&n| n <= COPY_BYTES);
        let Some(bytes) = size else {
            Thread::fail(thread, format!("copies {bytes} bytes at {place}, expected 0 to {COPY_BYTES}"));
        };
        if !(to as usize | from as usize).is_multiple_of(COPY_BYTES) {
            let text =
                format!("copies from {from:p} to {to:p} at {place}, expected multiples of {COPY_BYTES}");
            Thread::fail(thread, text);
        }
        let mut copy = AsyncCopy { to, from, bytes, place, done: false };
        Thread::touch(from, bytes, Access::Read);
        Thread::touch(to, COPY_BYTES, Access::BeginCopy);
        if Thread::copy_completes_at_once(thread) {
            copy.complete();
        }
        Thread::copies(thread).push(copy);
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_copy_commit(thread: *mut Thread) {
    // SAFETY: kernels pass the running thread.
    unsafe { Thread::copies(thread).commit() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_copy_wait(thread: *mut Thread, groups: u32) {
    // SAFETY: kernels pass the running thread; the copies touch what the kernel asked for.
    unsafe {
        while let Some(mut copy) = Thread::copies(thread).next_before(groups as usize) {
            copy.complete();
            Thread::touch(copy.to, COPY_BYTES, Access::EndCopy);
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_atomic(_thread: *mut Thread, at: *const u8, bytes: u64) {
    // SAFETY: called on the running thread's coroutine.
    unsafe { Thread::touch(at, bytes as usize, Access::Atomic) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_named_barrier_sync(
    thread: *mut Thread,
    id: u32,
    threads: u32,
    file: *const c_char,
    line: u32,
) {
    // SAFETY: kernels pass the running thread.
    unsafe { Thread::named_barrier_sync(thread, id, threads, Place { file, line }) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_mbarrier_init(
    thread: *mut Thread,
    at: usize,
    count: u32,
    file: *const c_char,
    line: u32,
) {
    // SAFETY: kernels pass the running thread.
    unsafe { Thread::mbarrier_init(thread, at, count, Place { file, line }) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_cluster_arrive(thread: *mut Thread, file: *const c_char, line: u32) {
    // SAFETY: kernels pass the running thread.
    unsafe { Thread::cluster_arrive(thread, Place { file, line }) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_cluster_wait(thread: *mut Thread, file: *const c_char, line: u32) {
    // SAFETY: kernels pass the running thread.
    unsafe { Thread::cluster_wait(thread, Place { file, line }) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_mbarrier_arrive(
    thread: *mut Thread,
    at: usize,
    bytes: u32,
    file: *const c_char,
    line: u32,
) {
    // SAFETY: kernels pass the running thread.
    unsafe { Thread::mbarrier_arrive(thread, at, None, bytes, Place { file, line }) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_mbarrier_arrive_cluster(
    thread: *mut Thread,
    at: usize,
    rank: u32,
    file: *const c_char,
    line: u32,
) {
    // SAFETY: kernels pass the running thread.
    unsafe { Thread::mbarrier_arrive(thread, at, Some(rank), 0, Place { file, line }) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_mbarrier_wait(
    thread: *mut Thread,
    at: usize,
    parity: u32,
    file: *const c_char,
    line: u32,
) {
    // SAFETY: kernels pass the running thread.
    unsafe { Thread::mbarrier_wait(thread, at, parity, Place { file, line }) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_tma_load(
    thread: *mut Thread,
    to: usize,
    map: *const TensorMap,
    at: *const [i32; 4],
    offsets: *const [u32; 2],
    barrier: usize,
    mask: u32,
    file: *const c_char,
    line: u32,
) {
    // SAFETY: kernels pass the running thread, one of their tensor maps, and arrays of these sizes.
    unsafe {
        let load = TmaLoad { to, map, at: *at, offsets: *offsets, barrier, mask };
        Thread::tma_load(thread, &load, Place { file, line })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_wgmma(deposit: *mut Deposit, file: *const c_char, line: u32) {
    // SAFETY: kernels pass the running thread in the deposit.
    unsafe { Thread::wgmma(deposit, Place { file, line }) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_wgmma_commit_group(thread: *mut Thread, file: *const c_char, line: u32) {
    // SAFETY: kernels pass the running thread.
    unsafe { Thread::wgmma_commit_group(thread, Place { file, line }) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_wgmma_wait_group(thread: *mut Thread, groups: u32, file: *const c_char, line: u32) {
    // SAFETY: kernels pass the running thread.
    unsafe { Thread::wgmma_wait_group(thread, groups, Place { file, line }) }
}
