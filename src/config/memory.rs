//! How much memory a run needs and how much there is. Reads what the system says of itself; elsewhere it knows nothing
//! and refuses nothing.

use super::RunConfig;
use crate::Result;
use crate::model::DeepLab;
use crate::ops::Shape;

const MIB: u64 = 1 << 20;

/// Estimated peak memory of a training step in MiB.
///
/// # Errors
/// As [`RunConfig::model_config`].
pub fn needed_mib(config: &RunConfig) -> Result<u64> {
    let arch = DeepLab::new(config.model_config()?)?;
    let ([h, w], n) = (config.augment.crop, config.optim.batch_size);
    // A pass's kept activations, and about half as much again at the height of the backward pass: gradients of the largest
    // layers, the convolutions' buffers, T-VAT's passes of the teachers.
    let activations = arch.activation_bytes(Shape::new(n, h, w, 3)).saturating_mul(3) / 2;
    let values = 4 * (arch.table.num_params + arch.table.num_stats) as u64;
    // Between steps a checkpoint is made from copies of three networks and up to three momenta.
    let passing = activations.max(6 * values);
    // Three networks, three momenta in the warm-up, one gradient.
    let kept = 7 * values;
    // Batches in use, ready and in the making: labelled and unlabelled images of bytes. Of one step labelled, weak and
    // strong images of f32.
    let pixel = 8 * 2 * 3 + 3 * 3 * 4;
    let batches = (pixel * (n as u64)).saturating_mul(h as u64).saturating_mul(w as u64);
    Ok(passing.saturating_add(kept).saturating_add(batches).div_ceil(MIB))
}

/// Memory that this process can still get in MiB: what the system has left, less where its control group has a limit.
/// `None` where the system does not say.
pub fn available_mib() -> Option<u64> {
    let system = std::fs::read_to_string("/proc/meminfo").ok().and_then(|t| meminfo(&t, "MemAvailable:"));
    [system, group_left()].into_iter().flatten().min().map(|bytes| bytes / MIB)
}

/// A line of /proc/meminfo, in bytes.
fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// What the control group's limit leaves, pages of files that can be dropped counted as free; versions 2 and 1.
fn group_left() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut left: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (base, limit, usage, cache) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
            c if c.split(',').any(|c| c == "memory") => (
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            ),
            _ => continue,
        };
        // Inside a container the group's own path may not be visible; its limit is then at the root.
        for folder in [format!("{base}{path}"), base.to_string()] {
            let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).ok();
            let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
            let (Some(limit), Some(usage)) = (number(limit), number(usage)) else { continue };
            let stat = read("memory.stat").unwrap_or_default();
            let droppable =
                stat.lines().find_map(|l| l.strip_prefix(cache)?.trim().parse::<u64>().ok()).unwrap_or(0);
            let free = limit.saturating_sub(usage.saturating_sub(droppable));
            left = Some(left.map_or(free, |l| l.min(free)));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_kib() {
        assert_eq!(meminfo("MemTotal: 8 kB\nMemAvailable:   3 kB\n", "MemAvailable:"), Some(3072));
        assert_eq!(meminfo("", "MemAvailable:"), None);
    }

    #[test]
    fn larger_crops_need_more() {
        let mut c = RunConfig::preset(Some(crate::data::Preset::Demo));
        let small = needed_mib(&c).unwrap();
        c.augment.crop = [100_000, 100_000];
        assert!(needed_mib(&c).unwrap() > 100_000 * small.max(1) / 1000);
    }
}
