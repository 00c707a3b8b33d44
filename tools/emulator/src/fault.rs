//! Accesses to memory that the processor refuses, turned from signals into the end of the thread that made
//! them.

use super::stack::Routine;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Once;

/// A refused access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Signal number.
    pub signal: i32,
    /// The address, where the processor reports it.
    pub address: usize,
    /// The thread's stack was used up.
    pub overflow: bool,
}

thread_local! {
    /// The coroutine that this OS thread is in, if any.
    static RUNNING: Cell<*const Routine> = const { Cell::new(ptr::null()) };
}

/// Marks the coroutine that is entered next; null when it is left.
pub fn set_running(routine: *const Routine) {
    RUNNING.set(routine);
}

const SIGNALS: [i32; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];
static INSTALL: Once = Once::new();
static mut PREVIOUS: [MaybeUninit<libc::sigaction>; SIGNALS.len()] = [MaybeUninit::uninit(); SIGNALS.len()];

/// Installs the handler, once per process.
pub fn install() {
    INSTALL.call_once(|| {
        for (i, &signal) in SIGNALS.iter().enumerate() {
            // SAFETY: the handler only touches thread-local data and the interrupted context. The old
            // handlers are written here, before any signal can be handled by ours, and only read later.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handle as extern "C" fn(_, _, _) as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                let previous = &raw mut PREVIOUS[i];
                libc::sigaction(signal, &action, previous.cast());
            }
        }
    });
}

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system passes valid pointers; a coroutine that is marked as running is alive, and where the
    // interrupted stack pointer is in its stack the trap handler may take over. The frames it leaves are a
    // kernel's.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        if let Some(routine) = RUNNING.get().as_ref() {
            let trap = routine.trap_handler();
            let sp = stack_pointer(context);
            if trap.stack_ptr_in_bounds(sp) {
                let address = (*info).si_addr() as usize;
                // The access that a full stack ends with is next to the stack pointer.
                let overflow = signal == libc::SIGSEGV && address.abs_diff(sp) < 8192;
                let regs = trap.setup_trap_handler(move || Fault { signal, address, overflow });
                set_registers(context, regs);
                return;
            }
        }
        // Not a kernel's: the handler that was there before sees the signal when the access is repeated.
        let i = SIGNALS.iter().position(|&s| s == signal).unwrap_or(0);
        let previous = &raw const PREVIOUS[i];
        libc::sigaction(signal, previous.cast(), ptr::null_mut());
    }
}

#[cfg(target_arch = "x86_64")]
fn stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize
}

#[cfg(target_arch = "x86_64")]
fn set_registers(context: &mut libc::ucontext_t, regs: corosensei::trap::TrapHandlerRegs) {
    let gregs = &mut context.uc_mcontext.gregs;
    gregs[libc::REG_RIP as usize] = regs.rip as i64;
    gregs[libc::REG_RSP as usize] = regs.rsp as i64;
    gregs[libc::REG_RBP as usize] = regs.rbp as i64;
    gregs[libc::REG_RDI as usize] = regs.rdi as i64;
    gregs[libc::REG_RSI as usize] = regs.rsi as i64;
}

#[cfg(target_arch = "aarch64")]
fn stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.sp as usize
}

#[cfg(target_arch = "aarch64")]
fn set_registers(context: &mut libc::ucontext_t, regs: corosensei::trap::TrapHandlerRegs) {
    let to = &mut context.uc_mcontext;
    (to.pc, to.sp) = (regs.pc, regs.sp);
    (to.regs[0], to.regs[1], to.regs[29], to.regs[30]) = (regs.x0, regs.x1, regs.x29, regs.lr);
}
