//! Messages of errors.

use super::block::{ARENA_STRIDE, MAX_BLOCKS};
use super::cluster::Cluster;
use super::fault::Fault;
use super::shadow::{Access, Wrong};
use super::thread::Wait;
use std::backtrace::Backtrace;

/// Why a cluster ended early, and in the check build from where that came.
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
            "{verb} {target}, where an asynchronous copy of {} has not completed: a wait is missing",
            name(thread)
        ),
        Wrong::Race { other, thread, same_block, several } => {
            let who = match (same_block, several) {
                (true, false) => name(thread),
                (true, true) => format!("{} among others", name(thread)),
                (false, _) => format!("{} of another block", name(thread)),
            };
            format!("{verb} {target}, which {who} has {other} with no barrier in between")
        }
    }
}

impl Cluster {
    /// A forbidden access in words.
    pub fn forbidden(&self, at: usize, bytes: usize, access: Access, wrong: Wrong) -> String {
        let verb = match access {
            Access::Read => "reads",
            Access::Write => "writes",
            Access::Atomic => "updates",
            Access::BeginCopy => "begins a copy to",
            Access::EndCopy => "ends a copy to",
        };
        let target = self.describe_address(at);
        let copy = match wrong {
            Wrong::Pending(thread) => {
                self.copies[thread].find(at).map(|c| format!(" (begun at {})", c.place))
            }
            _ => None,
        };
        describe_wrong(verb, bytes, &target, wrong, |number| self.name(number)) + &copy.unwrap_or_default()
    }

    /// An address in words.
    fn describe_address(&self, address: usize) -> String {
        let offset = address.wrapping_sub(self.arenas);
        if offset >= MAX_BLOCKS * ARENA_STRIDE {
            // SAFETY: the plan outlives the run.
            return unsafe { (*self.plan).heap.describe(address) };
        }
        let (rank, byte) = (offset / ARENA_STRIDE, offset % ARENA_STRIDE);
        let whose =
            if self.blocks().len() > 1 { format!(" of block {rank} of the cluster") } else { String::new() };
        format!("byte {byte} of shared memory{whose}")
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
        let mut groups: Vec<(Wait, u32, usize)> = Vec::new();
        for thread in &self.threads {
            match groups.iter_mut().find(|g| g.0 == thread.wait) {
                Some(group) => group.1 += 1,
                None => groups.push((thread.wait, 1, thread.number)),
            }
        }
        let words = groups.iter().map(|&(wait, count, first)| {
            let who = match count {
                1 => self.name(first),
                _ => format!("{count} threads from {} on", self.name(first).trim_start_matches("thread ")),
            };
            match wait {
                Wait::Ready => format!("{who} can run"),
                Wait::Block(place) => format!("{who} wait in block_sync at {place}"),
                Wait::Warp(place) => format!("{who} wait in a warp operation at {place}"),
                Wait::Cluster(place) => format!("{who} wait in cluster_wait at {place}"),
                Wait::Named(_, id, place) => format!("{who} wait at barrier {id} at {place}"),
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
