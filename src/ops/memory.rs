//! The memory that a run will need on a device, as plain data for tables and checks.

/// Memory for one purpose.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MemoryUse {
    /// Purpose, for tables.
    pub what: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// The memory of one kind of step, in addition to what is held throughout.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StepMemory {
    /// Kind of step, as [`Device::step`](super::Device::step) takes it.
    pub kind: &'static str,
    /// Bytes reserved for it.
    pub bytes: u64,
    /// What is in use when the most memory is in use, largest first. The sum is at most `bytes`.
    pub at_peak: Vec<MemoryUse>,
    /// Number of buffers that the step allocates.
    pub buffers: usize,
}

/// The memory of a run, known before it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryPlan {
    /// Held from the first step to the last, largest first.
    pub held: Vec<MemoryUse>,
    /// The kinds of steps, which share the same memory.
    pub steps: Vec<StepMemory>,
}

impl MemoryPlan {
    /// Adds a use to those held throughout, unless it is of 0 bytes.
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

    /// Total bytes.
    pub fn bytes(&self) -> u64 {
        self.held_bytes() + self.step_bytes()
    }
}
