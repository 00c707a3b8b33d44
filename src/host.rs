//! Information from the operating system about this process: memory in use and available, ignored signals.
//! From `/proc`, so `None` on other systems than Linux.

/// Bytes of memory that this process can still allocate: what the system has available, or what the limit of
/// its control group or its own (`ulimit -v`) leaves, if that is less.
pub fn available_memory() -> Option<u64> {
    let system = std::fs::read_to_string("/proc/meminfo").ok().and_then(|t| meminfo(&t, "MemAvailable:"));
    [system, group_left(), address_space_left()].into_iter().flatten().min()
}

/// Bytes that the limit of the process's address space leaves; `None` without a limit.
fn address_space_left() -> Option<u64> {
    let limit = address_space_limit(&std::fs::read_to_string("/proc/self/limits").ok()?)?;
    let used = meminfo(&std::fs::read_to_string("/proc/self/status").ok()?, "VmSize:")?;
    Some(limit.saturating_sub(used))
}

/// The soft limit of the address space, in bytes, from the text of /proc/PID/limits.
fn address_space_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|l| l.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Largest resident memory of this process so far, in bytes.
pub fn peak_memory() -> Option<u64> {
    std::fs::read_to_string("/proc/self/status").ok().and_then(|t| meminfo(&t, "VmHWM:"))
}

/// Bit mask of the signals that this process ignores: bit s - 1 is signal s.
pub fn ignored_signals() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// The value of `key`, in bytes, from the text of /proc/meminfo or /proc/PID/status.
fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Bytes that the control group's limit leaves, where page cache that can be dropped counts as free; versions
/// 2 and 1.
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
        // Inside a container the group's own path may not be visible; the limit is then at the root.
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
    fn the_soft_limit_of_the_address_space_is_read() {
        let limits = |soft: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max file size             unlimited            unlimited            bytes     \n\
                 Max address space         {soft:<20} unlimited            bytes     \n"
            )
        };
        assert_eq!(address_space_limit(&limits("921600000")), Some(921_600_000));
        assert_eq!(address_space_limit(&limits("unlimited")), None);
    }
}
