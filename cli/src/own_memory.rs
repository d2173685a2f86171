//! Memory of this process beside the guest's.

/// Memory of this process that is its own and not a guest's, in bytes: `RssAnon` of proc(5).
/// Guest memory is shared and not counted there. 0 when the kernel does not say.
pub fn own_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
