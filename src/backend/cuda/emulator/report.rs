//! What went wrong, in words.

use super::block::{ARENA_BYTES, Block};
use super::fault::Fault;
use super::shadow::{Access, Wrong};
use super::thread::Wait;
use std::backtrace::Backtrace;

/// Why a block ended early, and in the check build from where that came.
pub struct Failure {
    pub message: String,
    pub trace: Option<Backtrace>,
}

impl Failure {
    /// The message with the kernel's line, where the program has line numbers.
    pub fn text(self) -> String {
        let trace = self.trace.map(|t| t.to_string()).unwrap_or_default();
        let lines = trace.lines().filter_map(|l| l.trim().strip_prefix("at "));
        let mut own = lines.filter(|l| l.contains("kernels/") && !l.contains("common/emulated"));
        match own.next() {
            Some(line) => {
                format!("{}, at {}", self.message, line.find("kernels/").map_or(line, |at| &line[at..]))
            }
            None => self.message,
        }
    }
}

/// An index in words.
pub fn triple([x, y, z]: [u32; 3]) -> String {
    format!("({x}, {y}, {z})")
}

/// A forbidden access in words.
fn describe_wrong(
    verb: &str,
    bytes: usize,
    target: &str,
    wrong: Wrong,
    name: impl Fn(usize) -> String,
) -> String {
    match wrong {
        Wrong::Outside => format!("{verb} {bytes} bytes, {target} among them"),
        Wrong::Unwritten => format!("{verb} {target}, which nothing has written"),
        Wrong::Pending(thread) => format!(
            "{verb} {target}, where an asynchronous copy of thread {} has not landed: a wait is missing",
            name(thread)
        ),
        Wrong::Race { other, thread, same_block, several } => {
            let who = match (same_block, several) {
                (true, false) => format!("thread {}", name(thread)),
                (true, true) => format!("thread {} among others", name(thread)),
                (false, _) => format!("thread {} of another block", name(thread)),
            };
            format!("{verb} {target}, which {who} has {other} with no barrier in between")
        }
    }
}

impl Block {
    /// A forbidden access in words.
    pub fn forbidden(&self, at: usize, bytes: usize, access: Access, wrong: Wrong) -> String {
        let verb = match access {
            Access::Read => "reads",
            Access::Write => "writes",
            Access::Atomic => "updates",
            Access::BeginCopy => "begins a copy to",
            Access::LandCopy => "ends a copy to",
        };
        let target = self.describe_address(at);
        let copy = match wrong {
            Wrong::Pending(thread) => {
                self.copies[thread].find(at).map(|c| format!(" (begun at {})", c.place))
            }
            _ => None,
        };
        let name = |number: usize| self.threads.get(number).map_or_else(String::new, |t| triple(t.index));
        describe_wrong(verb, bytes, &target, wrong, name) + &copy.unwrap_or_default()
    }

    /// An address in words.
    fn describe_address(&self, address: usize) -> String {
        if address.wrapping_sub(self.shared) >= ARENA_BYTES + 4096 {
            // SAFETY: the plan outlives the run.
            return unsafe { (*self.plan).heap.describe(address) };
        }
        format!("byte {} of shared memory", address - self.shared)
    }

    /// A refused access in words.
    pub fn describe(&self, fault: Fault) -> String {
        if fault.overflow {
            return "uses up its stack".into();
        }
        match fault.signal {
            libc::SIGFPE => "divides an integer by zero".into(),
            libc::SIGILL => "came to a place that the compiler took to be out of reach".into(),
            _ if fault.address == 0 => {
                "reads or writes through a null pointer, or 16 bytes at an address that is no multiple of 16"
                    .into()
            }
            _ => format!("reads or writes {}", self.describe_address(fault.address)),
        }
    }

    /// Threads by what they wait for.
    pub fn who_waits(&self) -> String {
        let mut groups: Vec<(Wait, u32, [u32; 3])> = Vec::new();
        for thread in &self.threads {
            match groups.iter_mut().find(|g| g.0 == thread.wait) {
                Some(group) => group.1 += 1,
                None => groups.push((thread.wait, 1, thread.index)),
            }
        }
        let words = groups.iter().map(|&(wait, count, first)| {
            let first = triple(first);
            let who = if count == 1 {
                format!("thread {first}")
            } else {
                format!("{count} threads from {first} on")
            };
            match wait {
                Wait::Ready => format!("{who} can run"),
                Wait::Block(place) => format!("{who} wait in block_sync at {place}"),
                Wait::Warp(place) => format!("{who} wait in a warp operation at {place}"),
                Wait::Group(id, place) => format!("{who} wait at barrier {id} at {place}"),
                Wait::Mbarrier(address, _, place) => {
                    let barrier = self.mbarriers.iter().find(|b| b.address == address);
                    let lacks = barrier.map(|b| format!(", whose {b}")).unwrap_or_default();
                    format!("{who} wait at {place} for an mbarrier{lacks}")
                }
                Wait::Done => format!("{who} have returned"),
            }
        });
        format!("threads diverge: {}", words.collect::<Vec<_>>().join("; "))
    }
}
