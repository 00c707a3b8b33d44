//! What a device says of the memory that work will take: plain data for tables and checks.

/// Memory for one purpose.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MemoryUse {
    /// What it is for.
    pub what: String,
    /// Bytes.
    pub bytes: u64,
}

/// The memory that one step of a kind takes beside what is held throughout.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StepMemory {
    /// Which step.
    pub kind: &'static str,
    /// Bytes reserved for it.
    pub bytes: u64,
    /// What is in use at the moment of the greatest need, largest first. The sum is at most `bytes`.
    pub at_peak: Vec<MemoryUse>,
    /// Number of buffers that the step takes one after another.
    pub buffers: usize,
}

/// The memory of a run, known before it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryPlan {
    /// Held from the first step to the last, largest first.
    pub held: Vec<MemoryUse>,
    /// Steps, which follow one another in the same memory.
    pub steps: Vec<StepMemory>,
}

impl MemoryPlan {
    /// Adds a use to those held throughout.
    pub fn hold(&mut self, what: &str, bytes: u64) {
        if bytes > 0 {
            self.held.push(MemoryUse { what: what.into(), bytes });
            self.held.sort_by_key(|u| std::cmp::Reverse(u.bytes));
        }
    }

    /// Bytes held throughout.
    pub fn held_bytes(&self) -> u64 {
        self.held.iter().map(|u| u.bytes).sum()
    }

    /// Bytes that the steps share.
    pub fn step_bytes(&self) -> u64 {
        self.steps.iter().map(|s| s.bytes).max().unwrap_or(0)
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.held_bytes() + self.step_bytes()
    }
}
