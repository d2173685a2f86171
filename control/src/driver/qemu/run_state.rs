//! Run states of QEMU in which a guest goes on by itself.

/// Whether a guest in the run state `state` needs no `cont`: it runs, or is suspended to RAM (S3) and
/// waits for a wake-up. One that is suspended moves as one that runs does: after `cont` the target's
/// QEMU has it suspended too (tried with 10.0.2).
pub(super) fn goes_on(state: &str) -> bool {
    matches!(state, "running" | "suspended")
}
