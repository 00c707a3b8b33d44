//! Ctrl-C and its relatives: the first asks the loop to stop after its step, one that comes later than its
//! echo ends the process at once.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static ASKED: AtomicBool = AtomicBool::new(false);
static INSTALLED: Once = Once::new();

/// Signals within this time of the first are its echo: `timeout` signals the process and then its group.
const ECHO: Duration = Duration::from_secs(1);

/// Catches SIGINT, SIGTERM and SIGHUP from now on, save those that whoever started the process has it ignore,
/// as `nohup` does SIGHUP. Calling it again does nothing.
pub(super) fn install() {
    INSTALLED.call_once(|| {
        let caught: Vec<i32> = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|s| !is_ignored(*s)).collect();
        // Without signals a run is as good, it only cannot be stopped gently.
        let Ok(mut signals) = signal_hook::iterator::Signals::new(caught) else { return };
        let listen = move || {
            let mut first: Option<Instant> = None;
            for _ in signals.forever() {
                match first {
                    None => {
                        first = Some(Instant::now());
                        ASKED.store(true, Ordering::SeqCst);
                        tracing::warn!("stopping after this step; press Ctrl-C again to stop at once");
                    }
                    Some(at) if at.elapsed() < ECHO => {}
                    Some(_) => std::process::exit(130),
                }
            }
        };
        let _ = std::thread::Builder::new().name("signals".into()).spawn(listen);
    });
}

/// Whether the process was started with `signal` ignored. Linux says so in /proc; elsewhere none is.
fn is_ignored(signal: i32) -> bool {
    let mask = crate::host::ignored_signals().unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Whether the user asked to stop.
pub(super) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}
