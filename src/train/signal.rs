//! Ctrl-C and its relatives: the first asks the loop to stop after its step, the second ends the process at once.

use std::sync::atomic::{AtomicUsize, Ordering};

static ASKED: AtomicUsize = AtomicUsize::new(0);

/// Catches SIGINT, SIGTERM and SIGHUP from now on. Calling it again does nothing.
pub fn install() {
    // The only errors are a second call and a system without signals; neither should stop a run.
    let _ = ctrlc::set_handler(|| {
        if ASKED.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step; press Ctrl-C again to stop at once");
    });
}

/// Whether the user asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst) > 0
}
